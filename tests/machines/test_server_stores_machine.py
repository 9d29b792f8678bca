"""The stores on servers do what plain dictionaries, fractions and lists do."""

from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from tests.machines.event_logs_machine import BOUNDS, EventLogsMachine
from tests.machines.key_values_machine import KeyValuesMachine
from tests.machines.rate_limits_machine import RateLimitsMachine
from tests.machines.store_machine import StoreMachine
from tests.stores.postgres import execute

from agent_runtime import EventLog, KeyValueStore, RateLimitStore
from agent_runtime.ids import new_id
from agent_runtime_adapters.mongodb import MongoDatabase, MongoEventLog, MongoKeyValueStore, MongoRateLimitStore
from agent_runtime_adapters.postgres import (
    PostgresDatabase,
    PostgresEventLog,
    PostgresKeyValueStore,
    PostgresRateLimitStore,
)

S = TypeVar("S")
T = TypeVar("T")


class Place:
    """Where the stores of this module are, and the event loop of their drivers."""

    portal: BlockingPortal
    postgres: PostgresDatabase
    mongodb: MongoDatabase


@pytest.fixture(scope="module", autouse=True)
def servers(postgres_url: str, mongodb_url: str) -> Iterator[None]:
    with ExitStack() as stack:
        Place.portal = stack.enter_context(start_blocking_portal())
        Place.postgres = PostgresDatabase(postgres_url, schema=f"s_{new_id().lower()}")
        Place.mongodb = MongoDatabase(mongodb_url, database=f"s_{new_id()}")
        for database in (Place.postgres, Place.mongodb):
            stack.enter_context(Place.portal.wrap_async_context_manager(database))
        yield


class ServerMachine(StoreMachine[S], Generic[S]):
    """For stores whose calls wait for a server; each machine finds it empty."""

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        async def awaited() -> T:
            return await call

        return Place.portal.call(awaited)

    def postgres(self, table: str) -> PostgresDatabase:
        database = Place.postgres
        self.run(execute(database, f"DELETE FROM agent_runtime.{table}"))
        return database

    def mongodb(self, collection: str) -> MongoDatabase:
        database = Place.mongodb
        self.run(database.do(lambda collections: collections[collection].delete_many({})))
        return database


class PostgresKeyValuesMachine(ServerMachine[KeyValueStore], KeyValuesMachine):
    def make(self) -> KeyValueStore:
        return PostgresKeyValueStore(self.postgres("key_values"), clock=lambda: self.now)


class MongoKeyValuesMachine(ServerMachine[KeyValueStore], KeyValuesMachine):
    def make(self) -> KeyValueStore:
        return MongoKeyValueStore(self.mongodb("key_values"), clock=lambda: self.now)


class PostgresRateLimitsMachine(ServerMachine[RateLimitStore], RateLimitsMachine):
    def make(self) -> RateLimitStore:
        return PostgresRateLimitStore(self.postgres("rate_cells"), clock=lambda: self.now)


class MongoRateLimitsMachine(ServerMachine[RateLimitStore], RateLimitsMachine):
    def make(self) -> RateLimitStore:
        return MongoRateLimitStore(self.mongodb("rate_limits"), clock=lambda: self.now)


class PostgresEventLogsMachine(ServerMachine[EventLog], EventLogsMachine):
    def make(self) -> EventLog:
        return PostgresEventLog(self.postgres("event_logs"), bounds=BOUNDS, clock=lambda: self.now)


class MongoEventLogsMachine(ServerMachine[EventLog], EventLogsMachine):
    def make(self) -> EventLog:
        return MongoEventLog(self.mongodb("event_logs"), bounds=BOUNDS, clock=lambda: self.now)


TestPostgresKeyValues = PostgresKeyValuesMachine.TestCase
TestMongoKeyValues = MongoKeyValuesMachine.TestCase
TestPostgresRateLimits = PostgresRateLimitsMachine.TestCase
TestMongoRateLimits = MongoRateLimitsMachine.TestCase
TestPostgresEventLogs = PostgresEventLogsMachine.TestCase
TestMongoEventLogs = MongoEventLogsMachine.TestCase

_few = settings(max_examples=max(5, settings().max_examples // 10), stateful_step_count=30)
TestPostgresKeyValues.settings = TestPostgresRateLimits.settings = TestPostgresEventLogs.settings = _few
TestMongoKeyValues.settings = TestMongoRateLimits.settings = TestMongoEventLogs.settings = _few
