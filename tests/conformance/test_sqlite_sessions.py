"""The SQLite session store keeps the promises of the contract, with either durability, and closed and opened again."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from agent_runtime import SessionStore
from agent_runtime.testing import SessionStoreContract
from agent_runtime_adapters.sqlite import SQLiteSessionStore


class TestSQLiteSessionStore(SessionStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[SessionStore]:
        self.now = 1_000_000.0
        self.open: Callable[[], SQLiteSessionStore] = lambda: SQLiteSessionStore(
            tmp_path / "sessions.db", clock=lambda: self.now, synchronous="NORMAL"
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: SessionStore) -> SessionStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
