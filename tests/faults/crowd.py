"""A user's sessions among many: `python -m tests.faults.crowd -n 100000 --store redis`.

What the server touches to list, count and delete one user's sessions, and to remove those whose time is up, is as much as
it was when there were a tenth as many sessions of others. Redis is asked for its command statistics, PostgreSQL for the
blocks of tables and indexes that were looked at.
"""

import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import asyncpg
from redis.asyncio import Redis
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import url_of

from agent_runtime import Owner, Refusal, SessionFields, SessionQuota, SessionStore, open_stores

GROWN, SLOW = "calls that touched more among more sessions", "calls that missed something"
MINE, OVER = 10, 5  # sessions of the user who is looked at, and of those whose time is up
AT_ONCE = 50
FIELDS = SessionFields(agent_id="support", data=b"x" * 200)
Touched = Callable[[], Awaitable[int]]


@asynccontextmanager
async def commands(url: str, place: str) -> AsyncGenerator[Touched]:
    """How many commands the Redis has run, those inside scripts too."""
    client = Redis.from_url(url, retry=None)

    async def touched() -> int:
        statistics: Mapping[str, Mapping[str, int]] = await client.info("commandstats")
        return sum(each["calls"] for name, each in statistics.items() if name != "cmdstat_info")

    try:
        yield touched
    finally:
        await client.aclose()


@asynccontextmanager
async def blocks(url: str, place: str) -> AsyncGenerator[Touched]:
    """How many blocks of tables and indexes the PostgreSQL has looked at for statements that name the schema."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    async def touched() -> int:
        found = await connection.fetchval(
            "SELECT sum(shared_blks_hit + shared_blks_read)::bigint FROM pg_stat_statements WHERE toplevel AND query LIKE $1",
            f"%{place}%",
        )
        return int(found)

    try:
        yield touched
    finally:
        await connection.close()


LOOKS = {"redis": commands, "postgres": blocks}


class Crowd:
    """Sessions of many users in one store, and the clock of the test."""

    def __init__(self, store: SessionStore, touched: Touched, tally: Tally) -> None:
        self._store = store
        self._touched = touched
        self._tally = tally
        self._made = 0
        self.now = 1_000_000.0

    async def grow(self, sessions: int) -> None:
        """Until there are so many, ten of each user."""

        async def some(first: int) -> None:
            for number in range(first, sessions, AT_ONCE):
                await self._make(Owner(tenant_id="acme", user_id=f"u{number // 10}"), f"s{number}", 3_600.0)

        async with anyio.create_task_group() as group:
            for place in range(AT_ONCE):
                group.start_soon(some, self._made + place)
        self._made = sessions

    async def look(self) -> dict[str, int]:
        """What each call touches."""
        user = Owner(tenant_id="acme", user_id=secrets.token_hex(8))
        for number in range(MINE):
            await self._make(user, f"m{number}", 3_600.0)
        for number in range(OVER):
            await self._make(Owner(tenant_id="acme", user_id=f"gone{number}"), secrets.token_hex(8), 10.0)
        self.now += 10.0
        store = self._store
        return {
            "list": await self._cost(MINE, lambda: _length(store.sessions(user))),
            "count": await self._cost(MINE, lambda: store.count(user)),
            "delete_all": await self._cost(MINE, lambda: store.delete_all(user)),
            "expire": await self._cost(OVER, lambda: _length(store.expire())),
        }

    async def _cost(self, expected: int, call: Callable[[], Awaitable[int]]) -> int:
        before = await self._touched()
        if await call() != expected:
            self._tally.wrong(SLOW, f"{call} gave another number than {expected}")
        return await self._touched() - before

    async def _make(self, owner: Owner, name: str, ttl: float) -> None:
        made = await self._store.create(owner, name, FIELDS, SessionQuota(ttl=ttl), operation=name)
        assert not isinstance(made, Refusal), made


async def _length(found: Awaitable[Sequence[object]]) -> int:
    return len(await found)


async def crowd(store: str, count: int, seed: int) -> Figure:
    """Look among a tenth of `count` sessions, and among all of them."""
    since = time.perf_counter()
    tally = Tally(GROWN, SLOW)
    url, place = url_of(store), f"t{secrets.token_hex(12)}"
    people: list[Crowd] = []
    async with (
        open_stores(url, namespace=place, clock=lambda: people[0].now) as stores,
        LOOKS[store](url, place) as touched,
    ):
        people.append(Crowd(stores.sessions, touched, tally))
        found: list[dict[str, int]] = []
        for sessions in (count // 10, count):
            await people[0].grow(sessions)
            await people[0].look()  # and again, when what a server does now and then for itself is done
            found.append(await people[0].look())
        await stores.erase()
    for name, before in found[0].items():
        tally.saw(f"{name} touches", found[1][name])
        if found[1][name] > 1.2 * before + 5:
            tally.wrong(GROWN, f"{name}: {before} among {count // 10}, {found[1][name]} among {count}")
    return tally.figure("P1", store, count, "sessions", seed=None, since=since)


if __name__ == "__main__":
    main(crowd, LOOKS, count=100_000, description=__doc__)
