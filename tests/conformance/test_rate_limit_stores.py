"""Every rate limit store keeps the promises of the contract."""

import pytest
from tests.stores.waited import waited

from agent_runtime import MemoryRateLimitStore, RateLimitStore
from agent_runtime.testing import RateLimitStoreContract


class TestMemoryRateLimitStore(RateLimitStoreContract):
    @pytest.fixture
    def store(self) -> RateLimitStore:
        self.now = 1_000_000.0
        return MemoryRateLimitStore(clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds


class TestWaited(TestMemoryRateLimitStore):
    @pytest.fixture
    def store(self) -> RateLimitStore:
        self.now = 1_000_000.0
        return waited(MemoryRateLimitStore(clock=lambda: self.now))
