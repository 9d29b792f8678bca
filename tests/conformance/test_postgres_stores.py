"""The stores of values, rate limits and events in PostgreSQL keep the promises of the contracts."""

from collections.abc import AsyncGenerator, Callable

import pytest
from tests.stores.postgres import execute

from agent_runtime import EventLog, KeyValueStore, RateLimitStore
from agent_runtime.ids import new_id
from agent_runtime.testing import EventLogContract, KeyValueStoreContract, RateLimitStoreContract
from agent_runtime_adapters.postgres import (
    PostgresDatabase,
    PostgresEventLog,
    PostgresKeyValueStore,
    PostgresRateLimitStore,
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    async with PostgresDatabase(postgres_url, schema=f"s_{new_id().lower()}") as database:
        yield database


async def empty(database: PostgresDatabase, *tables: str) -> None:
    await execute(database, "; ".join(f"DELETE FROM agent_runtime.{table}" for table in tables))


class TestPostgresKeyValueStore(KeyValueStoreContract):
    @pytest.fixture
    async def store(self, database: PostgresDatabase) -> KeyValueStore:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], KeyValueStore] = lambda: PostgresKeyValueStore(database, clock=lambda: self.now)
        await empty(database, "key_values")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        await self.database.rest()
        return self.open()


class TestPostgresRateLimitStore(RateLimitStoreContract):
    @pytest.fixture
    async def store(self, database: PostgresDatabase) -> RateLimitStore:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], RateLimitStore] = lambda: PostgresRateLimitStore(database, clock=lambda: self.now)
        await empty(database, "rate_cells")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        await self.database.rest()
        return self.open()


class TestPostgresEventLog(EventLogContract):
    @pytest.fixture
    async def store(self, database: PostgresDatabase) -> EventLog:
        self.now = 1_000_000.0
        self.database = database
        self.open: Callable[[], EventLog] = lambda: PostgresEventLog(
            database, bounds=self.bounds, clock=lambda: self.now
        )
        await empty(database, "event_logs")
        return self.open()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: EventLog) -> EventLog:
        await self.database.rest()
        return self.open()
