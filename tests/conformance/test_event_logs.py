"""Every event log keeps the promises of the contract."""

import pytest
from tests.stores.waited import waited

from agent_runtime import EventLog, MemoryEventLog
from agent_runtime.testing import EventLogContract


class TestMemoryEventLog(EventLogContract):
    @pytest.fixture
    def store(self) -> EventLog:
        self.now = 1_000_000.0
        return MemoryEventLog(bounds=self.bounds, clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds


class TestWaited(TestMemoryEventLog):
    @pytest.fixture
    def store(self) -> EventLog:
        self.now = 1_000_000.0
        return waited(MemoryEventLog(bounds=self.bounds, clock=lambda: self.now))
