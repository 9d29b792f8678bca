"""Every key-value store keeps the promises of the contract."""

import pytest
from tests.stores.waited import waited

from agent_runtime import KeyValueStore, MemoryKeyValueStore
from agent_runtime.testing import KeyValueStoreContract


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
