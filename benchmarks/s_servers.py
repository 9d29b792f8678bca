"""D and E on servers: what a conversation, a lease, a check of a limit and an event cost beside the driver alone.

The clock's time, for the server is what is waited for; it runs on this machine, and keeps what it acknowledges.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tests.servers.mongodb_server import MongoDBProgram
from tests.servers.postgres_server import PostgresProgram
from tests.servers.program import Program, served
from tests.servers.redis_server import RedisProgram

from agent_runtime import Charge, EventMessage, RateLimit, Refusal, SessionQuota, Stores, open_stores
from agent_runtime_adapters.redis import RedisEventTransport
from benchmarks import bare, bare_postgres, bare_redis
from benchmarks.d_stores import AT_ONCE, BARE, BATCH, FIELDS, LOADED, OWNER, TTL, at_once, median
from benchmarks.harness import Case, Sides

Preparing: TypeAlias = Callable[[], AbstractAsyncContextManager[Sides]]


class EverySecond(RedisProgram):
    """Redis as it is recommended: an append-only file, synchronised each second."""

    options = ("--appendonly", "yes", "--appendfsync", "everysec")


class Bare(Protocol):
    """What the driver alone does."""

    async def append(self, name: str, turn: tuple[bare.Turn, ...]) -> object: ...

    async def load(self, name: str, last: int = ...) -> list[bare.Turn]: ...


@dataclass(frozen=True, slots=True)
class Sessions:
    """Our sessions in one place."""

    stores: Stores
    operations: "itertools.count[int]"

    async def create(self, name: str, turns: int) -> None:
        await self.stores.sessions.create(OWNER, name, FIELDS, SessionQuota(ttl=TTL), operation="create")
        for _ in range(turns):
            await self.append(name)

    async def append(self, name: str) -> int:
        count = await self.stores.sessions.append(
            OWNER, name, BATCH, expected=None, ttl=TTL, operation=f"operation-{next(self.operations):022}"
        )
        assert not isinstance(count, Refusal)
        return count

    async def load(self, name: str, last: int | None = None) -> None:
        messages = await self.stores.sessions.messages(OWNER, name, last=last)
        assert messages is not None
        assert len(messages) >= (last or 2 * LOADED)

    async def turn(self, name: str) -> None:
        """As a run makes it: load a window, append."""
        await self.load(name, last=20)
        await self.append(name)

    async def lease(self, name: str) -> None:
        lease = await self.stores.sessions.acquire(OWNER, name, f"holder-{next(self.operations)}", seconds=30, ttl=TTL)
        assert not isinstance(lease, Refusal)
        assert await self.stores.sessions.release(OWNER, name, lease.token)

    async def checkpoint(self, name: str) -> None:
        point = f"c{next(self.operations) % 8}-{next(self.operations)}"
        put = await self.stores.sessions.put_checkpoint(OWNER, name, point, b"x" * 1_024, ttl=TTL)
        assert not isinstance(put, Refusal)


@asynccontextmanager
async def ours(url: str) -> AsyncGenerator[Sessions]:
    async with open_stores(url, namespace=f"bench_{time.time_ns():x}") as stores:
        yield Sessions(stores, itertools.count())
        await stores.erase()


@asynccontextmanager
async def on_redis() -> AsyncGenerator[tuple[bare_redis.Store, Sessions]]:
    with served(EverySecond) as url:
        async with bare_redis.opened(url) as limit, ours(url) as sessions:
            yield limit, sessions


@asynccontextmanager
async def on_postgres() -> AsyncGenerator[tuple[bare_postgres.Store, Sessions]]:
    with served(PostgresProgram) as url:
        async with bare_postgres.opened(url) as limit, ours(url) as sessions:
            yield limit, sessions


async def conversed(limit: Bare, sessions: Sessions) -> None:
    """The same conversation on both sides."""
    await sessions.create("s0", LOADED)
    for _ in range(LOADED):
        await limit.append("s0", BARE)
    messages = await sessions.stores.sessions.messages(OWNER, "s0")
    assert messages is not None
    assert [message.content for message in messages] == [turn.content for turn in await limit.load("s0")]


@asynccontextmanager
async def appending_on_redis() -> AsyncGenerator[Sides]:
    async with on_redis() as (limit, sessions):
        await conversed(limit, sessions)
        yield Sides(limit=median(lambda: limit.append("s0", BARE)), ours=median(lambda: sessions.append("s0")))


@asynccontextmanager
async def appending_on_postgres() -> AsyncGenerator[Sides]:
    async with on_postgres() as (limit, sessions):
        await conversed(limit, sessions)
        yield Sides(limit=median(lambda: limit.append("s0", BARE)), ours=median(lambda: sessions.append("s0")))


@asynccontextmanager
async def appending_at_once() -> AsyncGenerator[Sides]:
    """The limit has all appends of one moment in one pipeline, by hand."""
    async with on_redis() as (limit, sessions):
        names = [f"s{place}" for place in range(AT_ONCE)]
        for name in names:
            await sessions.create(name, 1)

        async def by_hand(number: int) -> float:
            started = time.perf_counter()
            for _ in range(number):
                await limit.append_to_each(names, BARE)
            return (time.perf_counter() - started) / number / AT_ONCE * 1e6

        yield Sides(limit=by_hand, ours=at_once(sessions.append))


def loading_on_redis(last: int | None) -> Preparing:
    @asynccontextmanager
    async def prepare() -> AsyncGenerator[Sides]:
        async with on_redis() as (limit, sessions):
            await conversed(limit, sessions)
            batches = 0 if last is None else last // 2
            yield Sides(limit=median(lambda: limit.load("s0", batches)), ours=median(lambda: sessions.load("s0", last)))

    return prepare


@asynccontextmanager
async def loading_on_postgres() -> AsyncGenerator[Sides]:
    async with on_postgres() as (limit, sessions):
        await conversed(limit, sessions)
        yield Sides(limit=median(lambda: limit.load("s0")), ours=median(lambda: sessions.load("s0")))


@asynccontextmanager
async def leasing_on_redis() -> AsyncGenerator[Sides]:
    """Taken and given back. The limit is `SET NX PX` and `DEL`."""
    async with on_redis() as (limit, sessions):
        await sessions.create("s0", 1)

        async def by_hand() -> None:
            assert await limit.client.set("lease", "holder", nx=True, px=30_000)
            assert await limit.client.delete("lease") == 1

        yield Sides(limit=median(by_hand), ours=median(lambda: sessions.lease("s0")))


@asynccontextmanager
async def checkpointing_on_redis() -> AsyncGenerator[Sides]:
    """1 KiB. The limit is `HSET` and `PEXPIRE` in one round trip."""
    async with on_redis() as (limit, sessions):
        await sessions.create("s0", 1)
        numbers = itertools.count()

        async def by_hand() -> None:
            async with limit.client.pipeline(transaction=False) as pipeline:
                pipeline.hset("points", f"c{next(numbers)}", b"x" * 1_024)
                pipeline.pexpire("points", 3_600_000)
                await pipeline.execute()

        yield Sides(limit=median(by_hand), ours=median(lambda: sessions.checkpoint("s0")))


def checking(limits: int) -> Preparing:
    """One check of so many limits. The limit of both is one script that counts against one."""

    @asynccontextmanager
    async def prepare() -> AsyncGenerator[Sides]:
        async with on_redis() as (limit, sessions):
            script = limit.client.register_script(bare_redis.GCRA)
            never_full = RateLimit(rate=1e6, period=1.0, burst=1e9)
            charges = [Charge(key=("acme", "ann", str(number)), limit=never_full) for number in range(limits)]

            async def check() -> None:
                assert (await sessions.stores.rate_limits.take(charges)).allowed

            async def by_hand() -> None:
                assert await script(keys=["user"], args=[1e-6, 1e3]) == 1

            yield Sides(limit=median(by_hand), ours=median(check))

    return prepare


@asynccontextmanager
async def publishing() -> AsyncGenerator[Sides]:
    """One event of 1 KiB into a topic. The limit is `XADD` with the same bound."""
    with served(EverySecond) as url:
        async with bare_redis.opened(url) as limit, RedisEventTransport(url) as transport:
            numbers = itertools.count()
            data = b"x" * 1_024

            async def publish() -> None:
                await transport.publish("runs", [EventMessage(id=f"e{next(numbers)}", data=data)])

            async def by_hand() -> None:
                fields = {"id": f"e{next(numbers)}", "data": data}
                await limit.client.xadd("runs", fields, maxlen=100_000, approximate=True)

            yield Sides(limit=median(by_hand), ours=median(publish))


def after_a_long_history(kind: type[Program], turns: int) -> Preparing:
    """One turn, beside our own in a conversation that has just begun."""

    @asynccontextmanager
    async def prepare() -> AsyncGenerator[Sides]:
        with served(kind) as url:
            async with ours(url) as sessions:
                await sessions.create("short", 10)
                await sessions.create("long", 0)
                await _grow(sessions, turns)
                yield Sides(limit=median(lambda: sessions.turn("short")), ours=median(lambda: sessions.turn("long")))

    return prepare


async def _grow(sessions: Sessions, turns: int) -> None:
    async def some(number: int) -> None:
        for _ in range(number):
            await sessions.append("long")

    await asyncio.gather(*(some(turns // 10) for _ in range(10)))
    found = await sessions.stores.sessions.read(OWNER, "long")
    assert found is not None
    assert found.message_count == turns * 2


CASES = (
    Case("D1", "µs", appending_on_redis),
    Case("D2", "µs", appending_at_once),
    Case("D3, all", "µs", loading_on_redis(None)),
    Case("D3, last 20", "µs", loading_on_redis(20)),
    Case("D7", "µs", appending_on_postgres),
    Case("D8", "µs", loading_on_postgres),
    Case("D, lease on Redis", "µs", leasing_on_redis),
    Case("D, checkpoint on Redis", "µs", checkpointing_on_redis),
    Case("D, Redis after 100 turns", "µs", after_a_long_history(EverySecond, 100)),
    Case("D, Redis after 1,000 turns", "µs", after_a_long_history(EverySecond, 1_000)),
    Case("D, Redis after 10,000 turns", "µs", after_a_long_history(EverySecond, 10_000)),
    Case("D, PostgreSQL after 10,000 turns", "µs", after_a_long_history(PostgresProgram, 10_000)),
    Case("D, MongoDB after 1,000 turns", "µs", after_a_long_history(MongoDBProgram, 1_000)),
    Case("E1", "µs", checking(1)),
    Case("E1, three limits", "µs", checking(3)),
    Case("F, publish to a topic", "µs", publishing),
)
