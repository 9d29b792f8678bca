"""The stores of values, rate limits and events in MongoDB keep the promises of the contracts."""

from collections.abc import AsyncGenerator, Callable

import pytest

from agent_runtime import EventLog, KeyValueStore, RateLimitStore
from agent_runtime.ids import new_id
from agent_runtime.testing import EventLogContract, KeyValueStoreContract, RateLimitStoreContract
from agent_runtime_adapters.mongodb import (
    MongoDatabase,
    MongoEventLog,
    MongoKeyValueStore,
    MongoRateLimitStore,
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(mongodb_url: str) -> AsyncGenerator[MongoDatabase]:
    async with MongoDatabase(mongodb_url, database=f"s_{new_id()}") as database:
        yield database


async def empty(database: MongoDatabase, collection: str) -> None:
    await database.do(lambda collections: collections[collection].delete_many({}))


class TestMongoKeyValueStore(KeyValueStoreContract):
    @pytest.fixture
    async def store(self, database: MongoDatabase) -> KeyValueStore:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], KeyValueStore] = lambda: MongoKeyValueStore(database, clock=lambda: self.now)
        await empty(database, "key_values")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        await self.database.rest()
        return self.open()


class TestMongoRateLimitStore(RateLimitStoreContract):
    @pytest.fixture
    async def store(self, database: MongoDatabase) -> RateLimitStore:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], RateLimitStore] = lambda: MongoRateLimitStore(database, clock=lambda: self.now)
        await empty(database, "rate_limits")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        await self.database.rest()
        return self.open()


class TestMongoEventLog(EventLogContract):
    @pytest.fixture
    async def store(self, database: MongoDatabase) -> EventLog:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], EventLog] = lambda: MongoEventLog(database, bounds=self.bounds, clock=lambda: self.now)
        await empty(database, "event_logs")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: EventLog) -> EventLog:
        await self.database.rest()
        return self.open()
