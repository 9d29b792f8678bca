"""Every event transport keeps the promises of the contract."""

import pytest
from tests.stores.waited import waited

from agent_runtime import EventTransport, MemoryEventTransport
from agent_runtime.testing import EventTransportContract


class TestMemoryEventTransport(EventTransportContract):
    @pytest.fixture
    def transport(self) -> EventTransport:
        self.now = 1_000_000.0
        return MemoryEventTransport(bounds=self.bounds, clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds


class TestWaited(TestMemoryEventTransport):
    @pytest.fixture
    def transport(self) -> EventTransport:
        self.now = 1_000_000.0
        return waited(MemoryEventTransport(bounds=self.bounds, clock=lambda: self.now))
