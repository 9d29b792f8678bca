"""What the contract of session stores cannot ask of Redis: its own clock, what keys are left, what an append costs, and damage."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias, cast

import anyio
import pytest
from redis.asyncio import Redis

from agent_runtime import (
    ConfigurationError,
    CorruptRecord,
    Message,
    MessageBatch,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoredLease,
    StoreUnavailable,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.redis import RedisSessionStore
from agent_runtime_adapters.redis.keys import owner_of, owner_part

ANN = Owner(tenant_id=None, user_id="ann")
FIELDS = SessionFields(agent_id="support", data=b"fields")
TTL = 100.0
QUOTA = SessionQuota(ttl=TTL)
TURN = MessageBatch.of([Message(role="user", content="What?"), Message(role="assistant", content="That.")])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    return new_id()


@pytest.fixture
async def store(redis_url: str, prefix: str) -> AsyncGenerator[RedisSessionStore]:
    store = RedisSessionStore(redis_url, prefix=prefix)
    yield store
    await store.aclose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncGenerator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def append(store: RedisSessionStore, name: str = "s", ttl: float = TTL) -> int | Refusal:
    return await store.append(ANN, name, TURN, expected=None, ttl=ttl, operation=new_id())


async def furnish(store: RedisSessionStore, name: str = "s", ttl: float = TTL) -> None:
    """A session with everything."""
    await store.create(ANN, name, FIELDS, SessionQuota(ttl=ttl), operation="c")
    lease = await store.acquire(ANN, name, "r", seconds=ttl, ttl=ttl, entry=b"1")
    assert isinstance(lease, StoredLease)
    await store.put_checkpoint(ANN, name, "c1", b"data", ttl=ttl)
    await store.append(ANN, name, TURN, expected=0, ttl=ttl, operation="a", lease=lease.token)
    await store.write(ANN, name, FIELDS, expected=1, ttl=ttl, operation="w")


def key(store: RedisSessionStore, kind: str, name: str = "s") -> bytes:
    whose = owner_part(ANN)
    return store.server.tag(whose) + kind.encode() + whose + name.encode()


async def keys_of(redis: Redis, prefix: str) -> dict[bytes, int]:
    """Each key, and in how many milliseconds it goes."""
    found = cast("list[bytes]", await redis.keys(f"{{{prefix}:*"))
    return {name: await redis.pttl(name) for name in found}


# The server's clock


async def test_by_the_server_s_clock_a_session_ends_and_is_told_of(store: RedisSessionStore) -> None:
    await furnish(store, ttl=0.1)
    await store.create(ANN, "other", FIELDS, QUOTA, operation="c")
    found = await store.read(ANN, "s")
    assert found is not None
    assert (found.holder, found.message_count) == ("r", 2)
    assert not await store.expire()
    await anyio.sleep(0.15)
    assert await store.read(ANN, "s") is None
    assert await store.messages(ANN, "s") is None
    assert await store.count(ANN) == 1
    [told] = await store.expire()
    assert (told.owner, told.session_id, told.agent_id) == (ANN, "s", "support")


async def test_two_stores_have_one_clock(redis_url: str, prefix: str, store: RedisSessionStore) -> None:
    other = RedisSessionStore(redis_url, prefix=prefix)
    await store.create(ANN, "s", FIELDS, QUOTA, operation="c")
    assert isinstance(await store.acquire(ANN, "s", "h", seconds=0.1, ttl=TTL), StoredLease)
    assert await other.acquire(ANN, "s", "k", seconds=1, ttl=TTL) is Refusal.HELD
    await anyio.sleep(0.12)
    assert isinstance(await other.acquire(ANN, "s", "k", seconds=1, ttl=TTL), StoredLease)
    assert await store.acquire(ANN, "s", "h", seconds=1, ttl=TTL) is Refusal.HELD
    await other.aclose()


# Keys


async def test_all_that_is_a_session_s_has_a_time(store: RedisSessionStore, redis: Redis, prefix: str) -> None:
    await furnish(store)
    await store.fork(ANN, "s", "c1", "fork", QUOTA, operation="f")
    left = await keys_of(redis, prefix)
    forever = {kept for kept, milliseconds in left.items() if milliseconds < 0}
    assert {kept[-1:] for kept in forever} == {b"x", b"n"}
    assert len(left) == 8  # three of the session, two of the fork, their owner's, and the two of all
    assert all(TTL * 1_000 - 1_000 < left[kept] <= TTL * 1_250 for kept in left.keys() - forever)


async def test_what_redis_has_dropped_itself_is_told_of_and_leaves_nothing(
    store: RedisSessionStore, redis: Redis, prefix: str
) -> None:
    await furnish(store, ttl=0.05)
    await anyio.sleep(0.15)
    assert {kept[-1:] for kept in await keys_of(redis, prefix)} == {b"x", b"n"}
    assert [told.session_id for told in await store.expire()] == ["s"]
    assert {kept[-1:] for kept in await keys_of(redis, prefix)} == {b"n"}


async def test_what_is_deleted_leaves_nothing(store: RedisSessionStore, redis: Redis, prefix: str) -> None:
    await furnish(store)
    await furnish(store, "t")
    assert await store.delete(ANN, "s")
    assert await store.delete_all(ANN) == 1
    assert {kept[-1:] for kept in await keys_of(redis, prefix)} == {b"n"}


async def test_an_owner_s_index_forgets_sessions_that_nobody_expires(store: RedisSessionStore, redis: Redis) -> None:
    for number in range(20):
        await store.create(ANN, f"s{number}", FIELDS, SessionQuota(ttl=0.01), operation="c")
    await anyio.sleep(0.02)
    await store.create(ANN, "s", FIELDS, QUOTA, operation="c")
    assert await redis.zcard(store.server.tag(owner_part(ANN)) + b"o" + owner_part(ANN)) == 1


# Cost


async def test_an_append_writes_as_much_after_hundreds(store: RedisSessionStore, redis: Redis) -> None:
    await store.create(ANN, "s", FIELDS, QUOTA, operation="c")

    async def written(times: int) -> float:
        before = (await redis.info("persistence"))["aof_current_size"]
        for _ in range(times):
            await append(store)
        return float((await redis.info("persistence"))["aof_current_size"] - before) / times

    early = await written(20)
    for _ in range(300):
        await append(store)
    assert await written(20) < early * 1.2


async def test_the_last_messages_are_read_without_the_others(redis_url: str, prefix: str) -> None:
    whole = RedisSessionStore(redis_url, prefix=prefix)
    long = MessageBatch.of([Message(role="user", content="x" * 10_000)])
    await whole.create(ANN, "s", FIELDS, QUOTA, operation="c")
    for number in range(100):
        await whole.append(ANN, "s", long, expected=number, ttl=TTL, operation=f"o{number}")
    async with Redis.from_url(redis_url) as redis:
        before = (await redis.info("stats"))["total_net_output_bytes"]
        assert len(await whole.messages(ANN, "s", last=3) or ()) == 3
        after = (await redis.info("stats"))["total_net_output_bytes"]
    assert after - before < 60_000
    await whole.aclose()


async def test_messages_are_those_of_one_moment_while_others_append(store: RedisSessionStore) -> None:
    await store.create(ANN, "s", FIELDS, QUOTA, operation="c")

    async def read(last: int | None) -> None:
        for _ in range(30):
            found = await store.messages(ANN, "s", last=last)
            assert found is not None
            assert [item.content for item in found] == ["What?", "That."] * (len(found) // 2)

    async def grow() -> None:
        for _ in range(30):
            await append(store)

    async with anyio.create_task_group() as group:
        for last in (None, 2, 4, 10):
            group.start_soon(read, last)
            group.start_soon(grow)
    assert len(await store.messages(ANN, "s") or ()) == 240


# Shards


async def test_with_many_shards_all_are_expired_a_thousand_at_most(redis_url: str, prefix: str) -> None:
    now = 1_000.0
    store = RedisSessionStore(redis_url, prefix=prefix, shards=8, clock=lambda: now)

    async def create(number: int) -> None:
        await store.create(Owner(tenant_id="t", user_id=f"u{number}"), "s", FIELDS, QUOTA, operation="c")

    async with anyio.create_task_group() as group:
        for number in range(1_005):
            group.start_soon(create, number)
    with pytest.raises(ConfigurationError, match="8 shards"):
        await store.create(ANN, "s", FIELDS, SessionQuota(ttl=TTL, max_sessions=9), operation="c")
    now += TTL
    assert [len(await store.expire()) for _ in range(3)] == [1_000, 5, 0]
    await store.aclose()


async def test_what_one_shard_has_told_is_returned_when_the_next_cannot_be_asked(redis_url: str, prefix: str) -> None:
    class Failing(RedisSessionStore):
        calls = 0

        def now(self) -> bytes:
            self.calls += 1
            if self.calls > self.most:
                raise StoreUnavailable("gone")
            return super().now()

        most = 1_000

    now = 1_000.0
    store = Failing(redis_url, prefix=prefix, shards=8, clock=lambda: now)
    for number in range(30):
        await store.create(Owner(tenant_id=None, user_id=f"{number}"), "s", FIELDS, QUOTA, operation="c")
    now += TTL
    store.most = store.calls + 4
    first = await store.expire()
    assert 0 < len(first) < 30
    with pytest.raises(StoreUnavailable):
        await store.expire()
    store.most = 1_000
    assert len(await store.expire()) == 30 - len(first)
    await store.aclose()


# Damage


Damage: TypeAlias = Callable[[Redis, RedisSessionStore], Any]
Read: TypeAlias = Callable[[RedisSessionStore], Any]
_DAMAGED: Sequence[tuple[Damage, Read]] = [
    (lambda r, s: r.lset(key(s, "m"), 0, "short"), lambda s: s.messages(ANN, "s")),
    (lambda r, s: r.lset(key(s, "m"), 0, "x" * 200), lambda s: s.messages(ANN, "s")),
    (lambda r, s: r.lpop(key(s, "m")), lambda s: s.messages(ANN, "s")),
    (lambda r, s: r.rpop(key(s, "m")), lambda s: s.messages(ANN, "s", last=1)),
    (lambda r, s: r.hset(key(s, "s"), "c:c1", b"short"), lambda s: s.checkpoints(ANN, "s")),
    (lambda r, s: r.hset(key(s, "s"), "r:r", b"{}"), lambda s: s.runs(ANN, "s")),
    (lambda r, s: r.hdel(key(s, "s"), "r:r"), lambda s: s.runs(ANN, "s")),
    (lambda r, s: r.hdel(key(s, "s"), "e:r:1"), lambda s: s.entries(ANN, "s", "r")),
    (lambda r, s: r.hdel(key(s, "s"), "data"), lambda s: s.read(ANN, "s")),
    (lambda r, s: r.hset(key(s, "s"), "version", "x"), lambda s: s.sessions(ANN)),
    (lambda r, s: r.hset(key(s, "s"), "r:r", b"x"), lambda s: s.entries(ANN, "s", "r")),
    (lambda r, s: r.hset(key(s, "s"), "r:r", b"1"), lambda s: s.entries(ANN, "s", "r")),
    (lambda r, s: r.hset(key(s, "s"), "r:r", b"[]"), lambda s: s.entries(ANN, "s", "r")),
    (lambda r, s: r.hset(key(s, "s"), "c:c1", b"short"), lambda s: s.fork(ANN, "s", "c1", "t", QUOTA, operation="f")),
    (lambda r, s: r.hdel(key(s, "s"), "data"), lambda s: s.fork(ANN, "s", "c1", "t", QUOTA, operation="f")),
]


@pytest.mark.parametrize(("damage", "read"), _DAMAGED)
async def test_damage_is_told_and_never_guessed_at(
    store: RedisSessionStore,
    redis: Redis,
    damage: Damage,
    read: Read,
) -> None:
    await furnish(store)
    await append(store)
    await damage(redis, store)
    with pytest.raises(CorruptRecord):
        await read(store)


FACTS = (
    "agent",
    "checkpoints",
    "count",
    "created",
    "expires",
    "fence",
    "kept",
    "lent",
    "number",
    "open",
    "runs",
    "updated",
)


@pytest.mark.parametrize("name", [*FACTS, "version"])
async def test_a_damaged_session_is_told_by_all_that_use_it_and_can_be_deleted(
    store: RedisSessionStore, redis: Redis, prefix: str, name: str
) -> None:
    calls: list[Read] = [
        lambda s: s.read(ANN, "s"),
        append,
        lambda s: s.acquire(ANN, "s", "r", seconds=9, ttl=9),
    ]
    if name in ("count", "expires"):
        calls.append(lambda s: s.messages(ANN, "s"))
    deletes: list[Read] = [lambda s: s.delete(ANN, "s"), lambda s: s.delete_all(ANN)]
    for delete in deletes:
        await furnish(store)
        if name in ("agent", "open"):
            await cast("Any", redis).hdel(key(store, "s"), name)
        else:
            await cast("Any", redis).hset(key(store, "s"), name, "x")
        for call in calls:
            with pytest.raises(CorruptRecord):
                await call(store)
        assert await delete(store) == 1
        assert {kept[-1:] for kept in await keys_of(redis, prefix)} <= {b"n", b"x"}


def test_the_name_of_an_owner_that_is_damaged_is_told() -> None:
    for data in (b"", b"-", b"x:ann", b"-9:ann", b"3:ann"):
        with pytest.raises(CorruptRecord):
            owner_of(data)
