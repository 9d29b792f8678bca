"""The stores of values, of rate limits and of events do what plain dictionaries, fractions and lists do."""

from hypothesis import settings
from tests.machines.event_logs_machine import BOUNDS, EventLogsMachine
from tests.machines.key_values_machine import KeyValuesMachine
from tests.machines.rate_limits_machine import RateLimitsMachine
from tests.machines.store_machine import FileMachine

from agent_runtime import (
    EventLog,
    KeyValueStore,
    MemoryEventLog,
    MemoryKeyValueStore,
    MemoryRateLimitStore,
    RateLimitStore,
)
from agent_runtime_adapters.sqlite import SQLiteEventLog, SQLiteKeyValueStore, SQLiteRateLimitStore


class MemoryKeyValuesMachine(KeyValuesMachine):
    def make(self) -> KeyValueStore:
        return MemoryKeyValueStore(clock=lambda: self.now)


class SQLiteKeyValuesMachine(FileMachine[KeyValueStore], KeyValuesMachine):
    def make(self) -> KeyValueStore:
        store = SQLiteKeyValueStore(self.file, clock=lambda: self.now, synchronous="NORMAL")
        self.aclose = store.aclose
        return store


class MemoryRateLimitsMachine(RateLimitsMachine):
    def make(self) -> RateLimitStore:
        return MemoryRateLimitStore(clock=lambda: self.now)


class SQLiteRateLimitsMachine(FileMachine[RateLimitStore], RateLimitsMachine):
    def make(self) -> RateLimitStore:
        store = SQLiteRateLimitStore(self.file, clock=lambda: self.now, synchronous="NORMAL")
        self.aclose = store.aclose
        return store


class MemoryEventLogsMachine(EventLogsMachine):
    def make(self) -> EventLog:
        return MemoryEventLog(bounds=BOUNDS, clock=lambda: self.now)


class SQLiteEventLogsMachine(FileMachine[EventLog], EventLogsMachine):
    def make(self) -> EventLog:
        store = SQLiteEventLog(self.file, bounds=BOUNDS, clock=lambda: self.now, synchronous="NORMAL")
        self.aclose = store.aclose
        return store


TestMemoryKeyValues = MemoryKeyValuesMachine.TestCase
TestMemoryRateLimits = MemoryRateLimitsMachine.TestCase
TestMemoryEventLogs = MemoryEventLogsMachine.TestCase
TestSQLiteKeyValues = SQLiteKeyValuesMachine.TestCase
TestSQLiteRateLimits = SQLiteRateLimitsMachine.TestCase
TestSQLiteEventLogs = SQLiteEventLogsMachine.TestCase

_fewer = settings(max_examples=settings().max_examples // 3)  # a step on a disk takes a hundred times as long
TestSQLiteKeyValues.settings = TestSQLiteRateLimits.settings = TestSQLiteEventLogs.settings = _fewer
