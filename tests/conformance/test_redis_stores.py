"""The stores of values, rate limits and events in Redis, and its topics, keep the promises of the contracts."""

from collections.abc import AsyncGenerator, Callable

import anyio
import pytest

from agent_runtime import EventLog, EventTransport, KeyValueStore, RateLimitStore
from agent_runtime.ids import new_id
from agent_runtime.testing import (
    EventLogContract,
    EventTransportContract,
    KeyValueStoreContract,
    RateLimitStoreContract,
)
from agent_runtime_adapters.redis import RedisEventLog, RedisEventTransport, RedisKeyValueStore, RedisRateLimitStore


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class TestRedisKeyValueStore(KeyValueStoreContract):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncGenerator[KeyValueStore]:
        self.now, prefix = 1_000_000.0, new_id()
        self.open: Callable[[], RedisKeyValueStore] = lambda: RedisKeyValueStore(
            redis_url, prefix=prefix, shards=4, clock=lambda: self.now
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last


class TestRedisRateLimitStore(RateLimitStoreContract):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncGenerator[RateLimitStore]:
        self.now, prefix = 1_000_000.0, new_id()
        self.open: Callable[[], RedisRateLimitStore] = lambda: RedisRateLimitStore(
            redis_url, prefix=prefix, shards=4, clock=lambda: self.now
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        assert store is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last


class TestRedisEventLog(EventLogContract):
    @pytest.fixture
    async def store(self, redis_url: str) -> AsyncGenerator[EventLog]:
        self.now, prefix = 1_000_000.0, new_id()
        self.open: Callable[[], RedisEventLog] = lambda: RedisEventLog(
            redis_url, bounds=self.bounds, prefix=prefix, shards=4, clock=lambda: self.now
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


class TestRedisEventTransport(EventTransportContract):
    idle = 0.4
    slack = 100

    @pytest.fixture
    async def transport(self, redis_url: str) -> AsyncGenerator[EventTransport]:
        prefix = new_id()
        self.open: Callable[[], RedisEventTransport] = lambda: RedisEventTransport(
            redis_url, bounds=self.bounds, prefix=prefix, shards=4
        )
        self.last = self.open()
        yield self.last
        await self.last.aclose()

    async def advance(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def reopen(self, transport: EventTransport) -> EventTransport:
        assert transport is self.last
        await self.last.aclose()
        self.last = self.open()
        return self.last
