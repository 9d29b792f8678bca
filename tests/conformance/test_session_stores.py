"""Every session store keeps the promises of the contract."""

import pytest
from tests.stores.distant import Distant

from agent_runtime import MemorySessionStore, Refusal, SessionStore
from agent_runtime.testing import SessionStoreContract


class TestMemorySessionStore(SessionStoreContract):
    @pytest.fixture
    def store(self) -> SessionStore:
        self.now = 1_000_000.0
        return MemorySessionStore(clock=lambda: self.now)

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def test_older_writes_are_forgotten(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        for n in range(101):
            await s.write(expected=n + 1, operation=f"o{n}")
        assert await s.write(expected=2, operation="o1") == await s.read()
        assert await s.write(expected=1, operation="o0") is Refusal.CHANGED


class TestDistant(TestMemorySessionStore):
    @pytest.fixture
    def store(self) -> SessionStore:
        self.now = 1_000_000.0
        return Distant(clock=lambda: self.now)
