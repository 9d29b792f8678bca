"""What the MongoDB session store adds to the contract: crashes between its commands, the server's clock, what is purged."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import anyio
import pytest
from pymongo.asynchronous.collection import AsyncCollection
from tests.servers.mongodb_server import StandaloneMongoDB
from tests.servers.program import running
from tests.stores.mongodb import emptied

from agent_runtime import (
    CorruptRecord,
    LimitExceeded,
    Message,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoredSession,
)
from agent_runtime.ids import new_id
from agent_runtime.testing.session_calls import OPERATIONS, SessionCalls, picture_of
from agent_runtime.testing.session_samples import done
from agent_runtime_adapters.mongodb import MongoDatabase, MongoSessionStore
from agent_runtime_adapters.mongodb.database import Collections

DATABASE = f"test-{new_id()}"
TTL = 10.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(mongodb_url: str) -> AsyncGenerator[MongoDatabase]:
    async with MongoDatabase(mongodb_url, database=DATABASE, timeout=30.0) as database:
        yield database


@pytest.fixture
async def store(database: MongoDatabase) -> MongoSessionStore:
    return await emptied(MongoSessionStore(database))


class Died(Exception):
    """The process ended."""


class MortalDatabase(MongoDatabase):
    """Its process ends before it sends another command than the first `commands`."""

    commands = 0

    async def connect(self) -> Collections:
        return cast(Collections, _Mortal(self, await super().connect()))


class _Mortal:
    def __init__(self, database: MortalDatabase, real: Any) -> None:
        self._database = database
        self._real = real

    def __getitem__(self, name: str) -> "_Mortal":
        return _Mortal(self._database, self._real[name])

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name == "topology_description":
            return real
        if name in ("client", "admin"):
            return _Mortal(self._database, real)

        def command(*args: Any, **options: Any) -> Any:
            if name != "close":
                self._database.commands -= 1
                if self._database.commands < 0:
                    raise Died
            return real(*args, **options)

        return command


@pytest.fixture
async def mortal(mongodb_url: str) -> AsyncGenerator[MortalDatabase]:
    async with MortalDatabase(mongodb_url, database=DATABASE, timeout=30.0) as database:
        yield database


async def ends(database: MortalDatabase, commands: int, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the call came to its end with so many commands."""
    database.commands = commands
    try:
        await call()
    except Died:
        return False
    return True


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_crash_between_any_two_commands_leaves_all_or_nothing_and_it_can_be_done_again(
    store: MongoSessionStore, mortal: MortalDatabase, name: str
) -> None:
    commands, ended = 0, False
    while not ended:
        s = SessionCalls(store=store, ttl=TTL, owner=Owner(tenant_id=None, user_id=new_id()))
        lease = await s.furnish()
        before = await picture_of(store, s.owner)
        call = partial(OPERATIONS[name], replace(s, store=MongoSessionStore(mortal)), lease)
        ended = await ends(mortal, commands, call)
        left = await picture_of(store, s.owner)
        await OPERATIONS[name](s, lease)
        after = await picture_of(store, s.owner)
        assert after != before
        assert left in ([after] if ended else [before, after]), commands
        commands += 1
    assert commands > 2


@pytest.mark.parametrize("limits", [{"max_sessions": 2}, {"max_sessions_per_user": 2}])
async def test_a_crash_at_the_gate_neither_closes_it_nor_lets_too_many_in(
    store: MongoSessionStore, mortal: MortalDatabase, limits: dict[str, int]
) -> None:
    quota = SessionQuota(ttl=TTL, **limits)
    commands, ended = 0, False
    while not ended:
        await emptied(store)
        s = SessionCalls(store=store, ttl=TTL)
        ended = await ends(
            mortal, commands, partial(replace(s, store=MongoSessionStore(mortal)).create, quota=quota, operation="o")
        )
        made = await s.create(quota=quota, operation="o")
        assert isinstance(made, StoredSession), made
        outcomes = [await s.other(name).create(quota=quota) for name in ("t", "u")]
        assert [isinstance(outcome, Refusal) for outcome in outcomes] == [False, True]
        assert {stored.session_id for stored in await store.sessions(s.owner)} == {"s", "t"}
        commands += 1
    assert commands > 5


async def test_time_is_the_server_s(store: MongoSessionStore) -> None:
    s = SessionCalls(store=store, ttl=0.15)
    made = done(await s.create())
    lease = done(await s.acquire("h", seconds=0.15))
    assert abs(made.created_at - time.time()) < 60
    assert lease.session.holder == "h"
    await s.append(lease=lease.token)
    await anyio.sleep(0.2)
    assert await s.read() is None
    assert await s.append() is Refusal.MISSING
    assert await store.count(s.owner) == 0
    assert [told.session_id for told in await store.expire()] == ["s"]
    assert await store.expire() == []


async def test_fences_grow_also_when_a_session_is_made_again(store: MongoSessionStore) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    fences: list[int] = []
    for _ in range(3):
        await s.create()
        for holder in ("a", "b"):
            token = await s.leased(holder)
            fences.append(token.fence)
            await s.release(token)
        await s.delete()
    assert fences == sorted(set(fences))


async def test_a_claim_that_is_over_is_not_written_again_by_another(
    store: MongoSessionStore, database: MongoDatabase
) -> None:
    now, end = 1_000.0, 1_030.0
    told: list[str] = []

    async def expire() -> None:
        mine = MongoSessionStore(database, clock=lambda: now)  # which takes no turns with the others
        while now < end:
            told.extend(expired.session_id for expired in await mine.expire())

    s = SessionCalls(store=MongoSessionStore(database, clock=lambda: now), ttl=1.0)
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(expire)
        while now < end:
            await s.other(f"s{now:.0f}").create()
            now += 1
    told += [expired.session_id for expired in await s.store.expire()]
    assert len(told) == 30
    [counter] = [found for found in await documents(database, "counters") if found["_id"] == "expired"]
    assert counter["claims"] == []


async def test_there_may_be_more_sessions_than_anybody_counts(
    store: MongoSessionStore, database: MongoDatabase
) -> None:
    ever = {"$set": {"value": 1 << 32}}
    await database.do(lambda found: found["counters"].update_one({"_id": "sessions"}, ever, upsert=True))
    s = SessionCalls(store=store, ttl=TTL)
    assert isinstance(await s.create(), StoredSession)
    assert (await s.leased()).fence > 1 << 32


async def test_sessions_that_others_write_all_the_time_are_listed_at_once(
    store: MongoSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    for name in ("s", "t"):
        await s.other(name).create()
    readings: list[str] = []
    real = cast(Any, AsyncCollection).find

    def find(collection: AsyncCollection[dict[str, Any]], *args: Any, **options: Any) -> Any:
        readings.append(collection.name)
        return real(collection, *args, **options)

    monkeypatch.setattr(AsyncCollection, "find", find)
    assert len(await store.sessions(s.owner)) == 2
    assert readings == ["sessions"]


async def test_the_server_removes_what_nobody_has_a_day_after_its_time(
    store: MongoSessionStore, database: MongoDatabase
) -> None:
    s = SessionCalls(store=store, ttl=1_000_000.0)
    await s.create()
    await s.append()
    longer = replace(s, ttl=9_000_000.0)
    await longer.append()
    now = datetime.now(UTC)
    [session] = await documents(database, "sessions")
    parts = await documents(database, "session_parts")
    left = timedelta(seconds=9_000_000, days=1)
    assert abs(session["purge_at"] - now - left) < timedelta(minutes=5)
    assert [part["purge_at"] >= session["purge_at"] for part in parts] == [True, True]


async def test_a_part_is_kept_as_long_as_its_session_though_it_is_written_late(
    store: MongoSessionStore, mortal: MortalDatabase, database: MongoDatabase
) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    await s.create()
    assert not await ends(mortal, 2, replace(s, store=MongoSessionStore(mortal)).append)
    assert await documents(database, "session_parts") == []
    assert len(await s.messages()) == 2
    assert [part["place"] for part in await documents(database, "session_parts")] == ["m000000000002"]


async def test_nothing_of_a_session_is_left_when_it_is_deleted(
    store: MongoSessionStore, database: MongoDatabase
) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    await s.furnish()
    assert await documents(database, "session_parts")
    await store.delete_all(s.owner)
    assert await documents(database, "session_parts") == []
    assert await documents(database, "sessions") == []


async def test_who_died_at_the_gate_leaves_no_session_that_comes_after_it_was_deleted(
    store: MongoSessionStore, mortal: MortalDatabase, database: MongoDatabase
) -> None:
    quota = SessionQuota(ttl=TTL, max_sessions=2)
    s = SessionCalls(store=store, ttl=TTL)
    deletions: list[Callable[[], Awaitable[object]]] = [s.delete, partial(store.delete_all, s.owner)]
    for delete in deletions:
        commands, ended = 0, False
        while not ended:
            ended = await ends(
                mortal, commands, partial(replace(s, store=MongoSessionStore(mortal)).create, quota=quota)
            )
            await delete()
            assert await documents(database, "sessions") == []
            await s.other("t").create(quota=quota)
            assert await s.read() is None, commands
            await s.other("t").delete()
            commands += 1
        assert commands > 5


async def test_a_session_that_gets_another_agent_while_its_old_one_is_deleted_keeps_its_messages(
    store: MongoSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    await s.create()
    await s.append()
    real = cast(Any, AsyncCollection).delete_many

    async def after_a_write(*args: Any) -> Any:
        monkeypatch.setattr(AsyncCollection, "delete_many", real)
        fields = SessionFields(agent_id="another", data=b"")
        done(await store.write(s.owner, "s", fields, expected=1, ttl=TTL, operation="w"))
        return await real(*args)

    monkeypatch.setattr(AsyncCollection, "delete_many", after_a_write)
    [session] = await store.sessions(s.owner)
    assert await store.delete_all(s.owner, agent_id=session.fields.agent_id) == 0
    assert len(await s.messages()) == 2


@pytest.mark.parametrize("collection", ["sessions", "session_parts"])
async def test_what_was_changed_by_something_else_is_told_as_damage(
    store: MongoSessionStore, database: MongoDatabase, collection: str
) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    await s.furnish()
    await database.do(lambda found: found[collection].update_many({}, {"$set": {"data": 1, "count": "x"}}))
    with pytest.raises(CorruptRecord):
        await s.messages()


async def test_a_part_that_is_missing_is_told_as_damage(store: MongoSessionStore, database: MongoDatabase) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    lease = await s.furnish()
    await database.do(lambda found: found["session_parts"].delete_many({}))
    with pytest.raises(CorruptRecord):
        await s.messages()
    with pytest.raises(CorruptRecord):
        await s.record(1, b"first", lease=lease)


async def test_a_batch_that_is_too_large_is_refused(store: MongoSessionStore) -> None:
    s = SessionCalls(store=store, ttl=TTL)
    await s.create()
    with pytest.raises(LimitExceeded, match="16 MB"):
        await s.append([Message(role="user", content="x" * 17_000_000)])
    assert await s.messages() == []


async def test_it_works_alike_on_a_standalone_server() -> None:
    with running(StandaloneMongoDB) as program:
        async with MongoSessionStore(program.url) as store:
            s = SessionCalls(store=store, ttl=TTL)
            quota = SessionQuota(ttl=TTL, max_sessions=9, max_sessions_per_user=1)
            await s.create(quota=quota)
            assert await s.other("t").create(quota=quota) is Refusal.OWNER_FULL
            lease = await s.leased()
            assert await s.append(lease=lease) == 2
            assert await s.finish(lease=lease) == 4
            assert len(await s.messages()) == 4
            await s.other("t").create()
            assert {stored.session_id for stored in await store.sessions(s.owner)} == {"s", "t"}
            assert await s.delete()


async def documents(database: MongoDatabase, collection: str) -> list[dict[str, Any]]:
    return await database.do(lambda found: found[collection].find({}).sort("_id", 1).to_list(), writes=False)
