"""The Redis session store keeps the promises of the contract, on one Redis."""

from collections.abc import AsyncGenerator, Callable

import pytest

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime.testing import SessionStoreContract
from agent_runtime_adapters.redis.sessions import RedisSessionStore


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


class TestRedisSessionStore(SessionStoreContract):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncGenerator[SessionStore]:
        self.now = 1_000_000.0
        prefix = new_id()
        self.open: Callable[[], RedisSessionStore] = lambda: RedisSessionStore(
            redis_url, prefix=prefix, clock=lambda: self.now
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
