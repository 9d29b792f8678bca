"""Every rate limit store keeps the promises of the contract."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.stores.waited import waited

from agent_runtime import MemoryRateLimitStore, RateLimitStore
from agent_runtime.testing import RateLimitStoreContract
from agent_runtime_adapters.sqlite import SQLiteRateLimitStore


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


class TestSQLiteRateLimitStore(RateLimitStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[RateLimitStore]:
        self.now = 1_000_000.0
        self.open: Callable[[], SQLiteRateLimitStore] = lambda: SQLiteRateLimitStore(
            tmp_path / "stores.db", clock=lambda: self.now, synchronous="NORMAL"
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
