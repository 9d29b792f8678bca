"""Every event log keeps the promises of the contract."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from tests.stores.waited import waited

from agent_runtime import EventLog, MemoryEventLog
from agent_runtime.testing import EventLogContract
from agent_runtime_adapters.sqlite import SQLiteEventLog


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


class TestSQLiteEventLog(EventLogContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[EventLog]:
        self.now = 1_000_000.0
        self.open: Callable[[], SQLiteEventLog] = lambda: SQLiteEventLog(
            tmp_path / "stores.db", bounds=self.bounds, clock=lambda: self.now, synchronous="NORMAL"
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: EventLog) -> EventLog:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
