"""Every session store keeps the promises of the contract."""

import pytest
from tests.stores.distant import Distant

from agent_runtime import MemorySessionStore, SessionStore
from agent_runtime.testing import SessionStoreContract


class TestMemorySessionStore(SessionStoreContract):
    @pytest.fixture
    def store(self) -> SessionStore:
        self.now = 1_000_000.0
        return MemorySessionStore(clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds


class TestDistant(TestMemorySessionStore):
    @pytest.fixture
    def store(self) -> SessionStore:
        self.now = 1_000_000.0
        return Distant(clock=lambda: self.now)
