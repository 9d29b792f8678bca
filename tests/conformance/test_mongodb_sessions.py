"""The MongoDB session store keeps the promises of the contract, with a test's clock, and whatever the deployment is."""

from collections.abc import AsyncGenerator, Callable

import pytest
from tests.stores.mongodb import emptied

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime.testing import SessionStoreContract
from agent_runtime_adapters.mongodb import MongoSessionStore

DATABASE = f"test-{new_id()}"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


class TestMongoSessionStore(SessionStoreContract):
    @pytest.fixture
    async def store(self, mongodb_url: str) -> AsyncGenerator[SessionStore]:
        self.now = 1_000_000.0
        self.open: Callable[[], MongoSessionStore] = lambda: MongoSessionStore(
            mongodb_url, database=DATABASE, clock=lambda: self.now
        )
        self.last = await emptied(self.open())
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: SessionStore) -> SessionStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
