"""The PostgreSQL session store keeps the promises of the contract, with a clock of the test's and with the server's own."""

from collections.abc import AsyncGenerator

import pytest
from tests.stores.postgres import execute

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime.testing import SessionStoreContract
from agent_runtime_adapters.postgres import PostgresDatabase, PostgresSessionStore


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    async with PostgresDatabase(postgres_url, schema=f"s_{new_id().lower()}") as database:
        yield database


# Cheaper than another schema, or TRUNCATE.
EMPTY = """
DELETE FROM agent_runtime.sessions;
DELETE FROM agent_runtime.expired_sessions;
ALTER SEQUENCE agent_runtime.fences RESTART
"""


class TestPostgresSessionStore(SessionStoreContract):
    @pytest.fixture
    async def store(self, database: PostgresDatabase) -> SessionStore:
        self.now = 1_000_000.0
        self.database = database
        await execute(database, EMPTY)
        return self.open(database)

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: SessionStore) -> SessionStore:
        await self.database.rest()
        return self.open(self.database)

    def open(self, database: PostgresDatabase) -> PostgresSessionStore:
        return PostgresSessionStore(database, clock=lambda: self.now)
