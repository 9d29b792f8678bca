"""The MongoDB session store keeps the promises of the contract, with a test's clock."""

from collections.abc import AsyncGenerator

import pytest
from tests.stores.mongodb import emptied

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime.testing import SessionStoreContract
from agent_runtime_adapters.mongodb import MongoDatabase, MongoSessionStore

DATABASE = f"test-{new_id()}"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture(scope="module")
async def database(mongodb_url: str) -> AsyncGenerator[MongoDatabase]:
    async with MongoDatabase(mongodb_url, database=DATABASE, timeout=30.0) as database:
        yield database


class TestMongoSessionStore(SessionStoreContract):
    @pytest.fixture
    async def store(self, database: MongoDatabase, mongodb_url: str) -> AsyncGenerator[SessionStore]:
        self.now = 1_000_000.0
        self.url = mongodb_url
        self.reopened: list[MongoSessionStore] = []
        yield await emptied(MongoSessionStore(database, clock=lambda: self.now))
        for store in self.reopened:
            await store.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: SessionStore) -> SessionStore:
        """Another connection, as of another process."""
        self.reopened.append(MongoSessionStore(self.url, database=DATABASE, clock=lambda: self.now))
        return self.reopened[-1]
