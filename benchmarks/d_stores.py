"""D: what it costs to keep a conversation in a file: the clock's time, for the disk is what is waited for."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from agent_runtime import MemorySessionStore, Message, MessageBatch, Owner, Refusal, SessionFields, SessionQuota
from agent_runtime_adapters.sqlite import SQLiteSessionStore
from benchmarks import bare, bare_sqlite
from benchmarks.harness import Case, Measure, Sides, per_call

TTL = 3_600.0
OWNER = Owner(tenant_id=None, user_id="ann")
FIELDS = SessionFields(agent_id="support", data=b"{}")
TEXTS = ("What do people ask? " * 25, "What is answered to them. " * 20)  # 1 KiB
BATCH = MessageBatch.of([Message(role="user", content=TEXTS[0]), Message(role="assistant", content=TEXTS[1])])
BARE = (bare.Turn(role="user", content=TEXTS[0]), bare.Turn(role="assistant", content=TEXTS[1]))
AT_ONCE = 50
LOADED = 100  # turns


@dataclass(frozen=True, slots=True)
class Both:
    """The two stores, each with the sessions "s0", "s1" and so on."""

    limit: bare_sqlite.Store
    ours: SQLiteSessionStore
    operations: "itertools.count[int]"

    async def append(self, name: str) -> int:
        count = await self.ours.append(
            OWNER, name, BATCH, expected=None, ttl=TTL, operation=f"operation-{next(self.operations):022}"
        )
        assert not isinstance(count, Refusal)
        return count

    async def converse(self, name: str, turns: int) -> None:
        """So many turns of each."""
        await self.limit.create(name)
        await self.ours.create(OWNER, name, FIELDS, SessionQuota(ttl=TTL), operation="create")
        for start in range(0, turns, AT_ONCE):
            times = range(min(AT_ONCE, turns - start))
            await asyncio.gather(*(self.limit.append(name, BARE) for _ in times))
            await asyncio.gather(*(self.append(name) for _ in times))
        messages = await self.ours.messages(OWNER, name)
        assert messages is not None
        assert [message.content for message in messages] == [turn.content for turn in await self.limit.load(name)]
        assert len(messages) == 2 * turns


@asynccontextmanager
async def stores(synchronous: Literal["FULL", "NORMAL"]) -> AsyncGenerator[Both]:
    with TemporaryDirectory() as folder:
        async with (
            bare_sqlite.opened(Path(folder) / "limit.db", synchronous) as limit,
            SQLiteSessionStore(Path(folder) / "ours.db", synchronous=synchronous) as ours,
        ):
            yield Both(limit, ours, itertools.count())


def median(call: Callable[[], Awaitable[object]]) -> Measure:
    """Microseconds of one `await call()`: the clock's, of the one in the middle."""

    async def measured(number: int) -> float:
        times: list[float] = []
        for _ in range(number):
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1e6

    return measured


def at_once(call: Callable[[str], Awaitable[object]]) -> Measure:
    """Microseconds of one of the calls that all sessions make at once, each again and again."""

    async def measured(number: int) -> float:
        async def one(name: str) -> None:
            for _ in range(number):
                await call(name)

        started = time.perf_counter()
        await asyncio.gather(*(one(f"s{place}") for place in range(AT_ONCE)))
        return (time.perf_counter() - started) / number / AT_ONCE * 1e6

    return measured


def appending(synchronous: Literal["FULL", "NORMAL"]) -> Case:
    @asynccontextmanager
    async def prepare() -> AsyncGenerator[Sides]:
        async with stores(synchronous) as both:
            await both.converse("s0", LOADED)
            yield Sides(limit=median(lambda: both.limit.append("s0", BARE)), ours=median(lambda: both.append("s0")))

    return Case(f"D4, {synchronous}", "µs", prepare)


@asynccontextmanager
async def appending_at_once() -> AsyncGenerator[Sides]:
    async with stores("FULL") as both:
        for place in range(AT_ONCE):
            await both.converse(f"s{place}", 1)
        yield Sides(limit=at_once(lambda name: both.limit.append(name, BARE)), ours=at_once(both.append))


@asynccontextmanager
async def loading() -> AsyncGenerator[Sides]:
    async with stores("FULL") as both:
        await both.converse("s0", LOADED)
        yield Sides(limit=median(lambda: both.limit.load("s0")), ours=median(lambda: both.ours.messages(OWNER, "s0")))


@asynccontextmanager
async def after_a_long_history() -> AsyncGenerator[Sides]:
    """A turn as a run makes it: load a window, append. The limit is our own, of a conversation that has just begun."""
    async with stores("NORMAL") as both:
        await both.converse("s0", 10)
        await both.converse("s1", 10_000)

        async def turn(name: str) -> None:
            messages = await both.ours.messages(OWNER, name, last=20)
            assert messages is not None
            assert len(messages) == 20
            await both.append(name)

        yield Sides(limit=median(lambda: turn("s0")), ours=median(lambda: turn("s1")))


@asynccontextmanager
async def remembering(call: Literal["append", "load"]) -> AsyncGenerator[Sides]:
    """The store of this process. The limit is a list in a dict, and the time of the last use beside it."""
    store = MemorySessionStore()
    await store.create(OWNER, "s0", FIELDS, SessionQuota(ttl=TTL), operation="create")
    kept: dict[tuple[Owner, str], tuple[list[Message], list[float]]] = {(OWNER, "s0"): ([], [0.0])}
    operations = itertools.count()

    async def keep() -> int:
        messages, used = kept[OWNER, "s0"]
        messages.extend(BATCH.messages)
        used[0] = time.time()
        return len(messages)

    async def load() -> list[Message]:
        return kept[OWNER, "s0"][0][:]

    async def append() -> object:
        return await store.append(OWNER, "s0", BATCH, expected=None, ttl=TTL, operation=str(next(operations)))

    if call == "append":
        yield Sides(limit=per_call(keep), ours=per_call(append))
        return
    for _ in range(LOADED):
        await keep()
        await append()
    yield Sides(limit=per_call(load), ours=per_call(lambda: store.messages(OWNER, "s0")))


CASES = (
    appending("NORMAL"),
    appending("FULL"),
    Case("D5", "µs", appending_at_once),
    Case("D6", "µs", loading),
    Case("D, after 10,000 turns", "µs", after_a_long_history),
    Case("D9, append", "µs", lambda: remembering("append")),
    Case("D9, load", "µs", lambda: remembering("load")),
)
