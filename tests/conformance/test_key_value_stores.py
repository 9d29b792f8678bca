"""Every key-value store keeps the promises of the contract."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.stores.waited import waited

from agent_runtime import KeyValueStore, MemoryKeyValueStore
from agent_runtime.testing import KeyValueStoreContract
from agent_runtime_adapters.sqlite import SQLiteKeyValueStore


class TestMemoryKeyValueStore(KeyValueStoreContract):
    @pytest.fixture
    def store(self) -> KeyValueStore:
        self.now = 1_000_000.0
        return MemoryKeyValueStore(clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds


class TestWaited(TestMemoryKeyValueStore):
    @pytest.fixture
    def store(self) -> KeyValueStore:
        self.now = 1_000_000.0
        return waited(MemoryKeyValueStore(clock=lambda: self.now))


class TestSQLiteKeyValueStore(KeyValueStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[KeyValueStore]:
        self.now = 1_000_000.0
        self.open: Callable[[], SQLiteKeyValueStore] = lambda: SQLiteKeyValueStore(
            tmp_path / "stores.db", clock=lambda: self.now, synchronous="NORMAL"
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
