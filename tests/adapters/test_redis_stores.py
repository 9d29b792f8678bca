"""What is Redis's own among the promises of the stores of values, rate limits and events."""

import math
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from agent_runtime import (
    Charge,
    CorruptRecord,
    LogBounds,
    MemoryEventLog,
    MemoryRateLimitStore,
    Owner,
    RateLimit,
    Refusal,
    Settlement,
    Taken,
)
from agent_runtime.ids import new_id
from agent_runtime.testing.session_samples import done, some, together
from agent_runtime_adapters.redis import RedisEventLog, RedisKeyValueStore, RedisRateLimitStore, RedisServer

OWNER = Owner(tenant_id="acme", user_id="ann")
CHARGE = Charge(key=("ann", "requests"), limit=RateLimit(rate=5, period=10, burst=5))
BOUNDS = LogBounds(max_events=5, max_bytes=50)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Stores:
    """The three stores on one server, with a clock, and what Redis has of them."""

    def __init__(self, url: str, *, shards: int = 1) -> None:
        self.now = 1_000_000.0
        self.prefix = new_id()
        self.url = url
        self.server = RedisServer(url, prefix=self.prefix, shards=shards)
        self.redis: Any = Redis.from_url(url, protocol=2)
        self.values = RedisKeyValueStore(self.server, clock=lambda: self.now)
        self.limits = RedisRateLimitStore(self.server, clock=lambda: self.now)
        self.logs = RedisEventLog(self.server, bounds=BOUNDS, clock=lambda: self.now)

    async def furnish(self) -> None:
        await self.values.set(OWNER, "k", b"value", ttl=60)
        await self.limits.take([CHARGE])
        await self.begin("s")

    async def begin(self, stream: str) -> int | Refusal:
        return await self.logs.append(OWNER, stream, [b"a", b"b", b"c"], expected=0, ttl=60, operation="o")

    async def keys(self, kind: str = "") -> list[bytes]:
        found: list[bytes] = await self.ask("KEYS", f"{{{self.prefix}:*}}{kind}*")
        return sorted(found)

    async def ask(self, *command: str | bytes | int) -> Any:
        return await self.redis.execute_command(*command)

    async def calls(self) -> Mapping[str, int]:
        """How often the server has been asked for each command."""
        stats = await self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(facts["calls"]) for name, facts in stats.items()}

    async def aclose(self) -> None:
        await self.server.aclose()
        await self.redis.aclose()


@pytest.fixture
async def stores(redis_url: str) -> AsyncGenerator[Stores]:
    stores = Stores(redis_url)
    await stores.furnish()
    yield stores
    await stores.aclose()


CALLS: dict[str, Callable[[Stores], Awaitable[object]]] = {
    "get": lambda stores: stores.values.get(OWNER, "k"),
    "set": lambda stores: stores.values.set(OWNER, "k", b"", ttl=60),
    "add": lambda stores: stores.values.add(OWNER, "k", b"", ttl=60, operation="o"),
    "replace": lambda stores: stores.values.replace(OWNER, "k", b"", expected_version=1, ttl=60, operation="o"),
    "delete": lambda stores: stores.values.delete(OWNER, "k"),
    "delete_all values": lambda stores: stores.values.delete_all(OWNER),
    "take": lambda stores: stores.limits.take([CHARGE]),
    "take three": lambda stores: stores.limits.take([Charge(key=(key,), limit=CHARGE.limit) for key in "abc"]),
    "peek": lambda stores: stores.limits.peek([CHARGE]),
    "settle": lambda stores: stores.limits.settle([Settlement(charge=CHARGE, used=0)]),
    "append": lambda stores: stores.logs.append(OWNER, "s", [b"d"], expected=3, ttl=60, operation="o2"),
    "read": lambda stores: stores.logs.read(OWNER, "s"),
    "delete log": lambda stores: stores.logs.delete(OWNER, "s"),
    "delete_all logs": lambda stores: stores.logs.delete_all(OWNER),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_operation_is_one_script(stores: Stores, name: str) -> None:
    before = await stores.calls()
    await CALLS[name](stores)
    after = await stores.calls()
    asked = {command: after[command] - before.get(command, 0) for command in ("evalsha", "eval") if command in after}
    assert sum(asked.values()) - asked.get("eval", 0) == 1  # one that the server does not know yet is sent twice
    assert asked.get("eval", 0) <= 1


async def test_all_of_an_owner_is_in_one_slot_and_owners_are_spread(redis_url: str) -> None:
    stores, tags = Stores(redis_url, shards=16), set[bytes]()
    before = set[bytes]()
    for n in range(40):
        owner = Owner(tenant_id=None, user_id=f"u{n}")
        await stores.values.set(owner, "k", b"", ttl=60)
        await stores.logs.append(owner, "s", [b"a"], expected=0, ttl=60, operation="o")
        after = set(await stores.keys())
        [tag] = {key.partition(b"}")[0] for key in after - before}
        tags.add(tag)
        before = after
    assert len(tags) > 8
    await stores.aclose()


# Time and room


async def test_without_a_clock_the_time_is_the_servers(stores: Stores) -> None:
    values = RedisKeyValueStore(stores.server)
    await values.set(OWNER, "k", b"", ttl=60)
    assert some(await values.get(OWNER, "k")).expires_at == pytest.approx(time.time() + 60, abs=5)
    limits = RedisRateLimitStore(stores.server)
    quick = Charge(key=("quick",), limit=RateLimit(rate=1, period=0.05, burst=1))
    assert (await limits.take([quick])).allowed
    refused = await limits.take([quick])
    assert not refused.allowed
    await anyio.sleep(refused.retry_after)
    assert (await limits.take([quick])).allowed


async def test_what_has_expired_takes_no_room_though_nobody_asks_for_it(redis_url: str) -> None:
    stores = Stores(redis_url)
    values, limits = RedisKeyValueStore(stores.server), RedisRateLimitStore(stores.server)
    logs = RedisEventLog(stores.server)
    for n in range(5):
        await values.set(OWNER, f"k{n}", b"", ttl=0.6)
        await limits.take([Charge(key=(f"u{n}",), limit=RateLimit(rate=5, period=3, burst=5))])
        await logs.append(OWNER, f"s{n}", [b"a"], expected=0, ttl=0.6, operation="o")
    assert len(await stores.keys()) == 5 + 1 + 1 + 5 + 5 + 5 + 1
    await anyio.sleep(0.65)
    assert [key.rpartition(b"}")[2] for key in await stores.keys()] == [b"kn"]
    await stores.aclose()


async def test_what_expires_is_gone_at_that_very_moment(stores: Stores) -> None:
    stores.now += 60
    assert await stores.values.get(OWNER, "k") is None
    assert await stores.values.delete(OWNER, "k") is False
    assert await stores.logs.read(OWNER, "s") is None
    assert await stores.values.delete_all(OWNER) == await stores.logs.delete_all(OWNER) == 0


async def test_every_key_but_the_count_of_versions_expires(stores: Stores) -> None:
    await stores.values.set(OWNER, "long", b"", ttl=1_000)
    await stores.values.set(OWNER, "forever", b"", ttl=1e300)
    await stores.values.set(OWNER, "short", b"", ttl=1)
    for key in await stores.keys():
        if not key.endswith(b"}kn"):
            assert await stores.ask("PTTL", key) > 0, key
    [index] = await stores.keys("ki")
    assert await stores.ask("PTTL", index) > 60_000


async def test_names_of_what_has_expired_leave_the_index(stores: Stores) -> None:
    await together(150, lambda n: stores.values.set(OWNER, f"k{n}", b"", ttl=60))
    await together(150, lambda n: stores.begin(f"s{n}"))
    stores.now += 100
    for n in range(2):
        await stores.values.set(OWNER, f"new{n}", b"", ttl=60)
        await stores.begin(f"new{n}")
    for kind in ("ki", "ei"):
        [index] = await stores.keys(kind)
        assert await stores.ask("ZCARD", index) == 2


@pytest.mark.parametrize("kind", ["values", "logs"])
async def test_what_deletes_an_owner_touches_nobody_elses_keys(stores: Stores, kind: str) -> None:
    async def add(n: int) -> None:
        owner = Owner(tenant_id="acme", user_id=f"u{n}")
        await stores.values.set(owner, "k", b"", ttl=60)
        await stores.logs.append(owner, "s", [b"a"], expected=0, ttl=60, operation="o")

    await together(200, add)
    before = await stores.calls()
    assert await CALLS[f"delete_all {kind}"](stores) == 1
    after = await stores.calls()
    commands = {command: after[command] - before.get(command, 0) for command in after}
    assert {command: n for command, n in commands.items() if n and command not in ("evalsha", "eval", "info")} == {
        "zrange": 1,
        "unlink": 2,
    }


async def test_an_event_that_is_dropped_takes_no_room(stores: Stores) -> None:
    for last in range(3, 50):
        await stores.logs.append(OWNER, "s", [b"x"], expected=last, ttl=60, operation=f"o{last}")
    await stores.logs.append(OWNER, "s", [b"x"] * 10_000, expected=50, ttl=60, operation="many")
    [events] = await stores.keys("ee")
    assert await stores.ask("LLEN", events) == BOUNDS.max_events
    page = some(await stores.logs.read(OWNER, "s"))
    assert (page.first, page.last) == (10_046, 10_050)


async def test_a_charge_that_is_refused_is_not_written(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    [cell] = await stores.keys("rl")
    before = await stores.ask("GET", cell)
    stores.now += 1
    for _ in range(3):
        assert not (await stores.limits.take([CHARGE])).allowed
    assert await stores.ask("GET", cell) == before


# Arithmetic


async def test_a_charge_that_is_given_back_as_a_whole_leaves_nothing(stores: Stores) -> None:
    whole, nothing = (Charge(key=CHARGE.key, limit=CHARGE.limit, cost=cost) for cost in (5, 0))
    await stores.limits.settle([Settlement(charge=CHARGE, used=0)])
    assert await stores.keys("rl") == []
    assert (await stores.limits.take([whole])).allowed
    await stores.limits.settle([Settlement(charge=whole, used=0)] * 2)
    assert (await stores.limits.peek([nothing])).allowances[0].remaining == 5


async def test_a_clock_that_steps_back_delays_no_longer_than_a_burst_takes(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    stores.now -= 900
    refused = await stores.limits.take([CHARGE])
    assert (refused.allowed, refused.retry_after) == (False, 2)
    stores.now += 2
    assert (await stores.limits.take([CHARGE])).allowed


# Slow ones, for Redis drops a cell when by its own clock the burst is whole again, and that clock goes on here.
_any_limits = st.builds(
    RateLimit, rate=st.floats(0.1, 1), period=st.floats(1e5, 1e6), burst=st.sampled_from([0.3, 1.0, 7.0, 1e6])
)
_any_parts = st.lists(st.just(0.0) | st.floats(0.01, 1), min_size=3, max_size=3)
_any_steps = st.tuples(st.sampled_from(["take", "peek", "settle"]), st.floats(0, 1e6), _any_parts)


def told(taken: Taken) -> list[tuple[Any, Any, Any]]:
    """The allowances, as another counting would tell them."""
    return [
        (
            pytest.approx(allowance.remaining, rel=1e-9, abs=1e-6),
            pytest.approx(allowance.retry_after, rel=1e-9, abs=0.1),
            pytest.approx(allowance.reset_after, rel=1e-9, abs=0.1),
        )
        for allowance in taken.allowances
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.tuples(_any_limits, _any_limits, _any_limits), steps=st.lists(_any_steps, max_size=8))
async def test_what_is_counted_is_what_memory_counts(
    stores: Stores, limits: tuple[RateLimit, ...], steps: list[tuple[str, float, list[float]]]
) -> None:
    memory, name = MemoryRateLimitStore(clock=lambda: stores.now), new_id()
    for operation, seconds, parts in steps:
        stores.now += seconds
        charges = [
            Charge(key=(name, str(n)), limit=limit, cost=limit.burst * part)
            for n, (limit, part) in enumerate(zip(limits, parts, strict=True))
        ]
        if operation == "settle":
            settlements = [Settlement(charge=charge, used=charge.cost * parts[0]) for charge in charges]
            await memory.settle(settlements)
            await stores.limits.settle(settlements)
        else:
            wanted = await (memory.take(charges) if operation == "take" else memory.peek(charges))
            found = await (stores.limits.take(charges) if operation == "take" else stores.limits.peek(charges))
            assert found.allowed == wanted.allowed
            assert [msgspec.structs.astuple(allowance) for allowance in found.allowances] == told(wanted)


async def test_limits_are_exact_across_connections(stores: Stores) -> None:
    others = [RedisRateLimitStore(stores.url, prefix=stores.prefix, clock=lambda: stores.now) for _ in range(3)]
    limit = RateLimit(rate=1, period=1_000, burst=7)
    answers = await together(90, lambda n: others[n % 3].take([Charge(key=("all",), limit=limit)]))
    assert sum(taken.allowed for taken in answers) == 7
    for other in others:
        await other.aclose()


_any_appends = st.lists(
    st.tuples(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 30), st.integers(0, 9)), max_size=8
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(appends=_any_appends)
async def test_a_log_keeps_what_one_in_memory_keeps(stores: Stores, appends: list[tuple[list[int], int, int]]) -> None:
    memory, stream, last = MemoryEventLog(bounds=BOUNDS, clock=lambda: stores.now), new_id(), 0
    for sizes, after, limit in appends:
        events = [bytes(size) for size in sizes]
        for log in (memory, stores.logs):
            found = await log.append(OWNER, stream, events, expected=last, ttl=60, operation=new_id())
            assert found == last + len(events)
        last += len(events)
        pages = [await log.read(OWNER, stream, after=after, limit=limit) for log in (memory, stores.logs)]
        assert pages[0] == pages[1]


# Versions


async def test_no_version_comes_again_where_their_count_was_lost(stores: Stores) -> None:
    first = await stores.values.set(OWNER, "k", b"", ttl=60)
    [count] = await stores.keys("kn")
    await stores.ask("DEL", count)
    second = await stores.values.set(OWNER, "k", b"", ttl=60)
    assert second > first
    await stores.ask("SET", count, second + 10**9)  # the clock of the server stepped back
    assert await stores.values.set(OWNER, "k", b"", ttl=60) == second + 10**9 + 1


async def test_an_operation_may_have_any_name(stores: Stores) -> None:
    for key, operation in (("a", ""), ("b", "x" * 10_000), ("c", "\ud800")):
        version = done(await stores.values.add(OWNER, key, b"", ttl=60, operation=operation))
        assert await stores.values.add(OWNER, key, b"", ttl=60, operation=operation) == version
        assert await stores.values.add(OWNER, key, b"", ttl=60, operation=operation + "x") is Refusal.EXISTS


# Damage


@pytest.mark.parametrize("place", [33, 36, 40, -1])
async def test_a_value_that_is_damaged_is_not_given(stores: Stores, place: int) -> None:
    [key] = await stores.keys("kv")
    data = bytearray(await stores.ask("GET", key))
    data[place] ^= 1
    await stores.ask("SET", key, bytes(data))
    with pytest.raises(CorruptRecord, match="checksum"):
        await stores.values.get(OWNER, "k")


@pytest.mark.parametrize("version", [math.nan, math.inf, 1.5])
async def test_a_value_whose_version_is_damaged_is_not_given(stores: Stores, version: float) -> None:
    [key] = await stores.keys("kv")
    await stores.ask("SETRANGE", key, 0, struct.pack(">d", version))
    with pytest.raises(CorruptRecord, match="version"):
        await stores.values.get(OWNER, "k")


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0, 1.5])
async def test_a_log_whose_numbers_are_damaged_is_told_and_can_be_deleted(
    stores: Stores, place: int, number: float
) -> None:
    [key] = await stores.keys("el")
    await stores.ask("SETRANGE", key, 8 * place, struct.pack(">d", number))
    for name in ("read", "append"):
        with pytest.raises(CorruptRecord):
            await CALLS[name](stores)
    assert await stores.logs.delete(OWNER, "s")
    assert await stores.logs.read(OWNER, "s") is None


@pytest.mark.parametrize("name", ["get", "add", "replace", "delete", "take", "peek", "settle", "append", "read"])
async def test_what_was_cut_off_is_damaged(stores: Stores, name: str) -> None:
    for kind in ("kv", "rl", "el"):
        [key] = await stores.keys(kind)
        await stores.ask("SET", key, (await stores.ask("GET", key))[:15])
    with pytest.raises(CorruptRecord):
        await CALLS[name](stores)


async def test_a_log_with_an_event_that_is_damaged_or_missing_is_not_given(stores: Stores) -> None:
    [events] = await stores.keys("ee")
    await stores.ask("LSET", events, 1, b"\0\0\0\0b")
    with pytest.raises(CorruptRecord, match="checksum"):
        await stores.logs.read(OWNER, "s")
    assert [event.data for event in some(await stores.logs.read(OWNER, "s", limit=1)).events] == [b"a"]
    await stores.ask("RPOP", events)
    with pytest.raises(CorruptRecord, match="missing"):
        await stores.logs.read(OWNER, "s")
