"""What is SQLite's own among the promises of the stores of values, rate limits and events."""

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from agent_runtime import (
    Charge,
    CorruptRecord,
    LogBounds,
    Owner,
    RateLimit,
    Refusal,
    RuntimeClosed,
    Settlement,
    StoreUnavailable,
)
from agent_runtime_adapters.sqlite import SQLiteDatabase, SQLiteEventLog, SQLiteKeyValueStore, SQLiteRateLimitStore

OWNER = Owner(tenant_id=None, user_id="ann")
CHARGE = Charge(key=("ann", "requests"), limit=RateLimit(rate=5, period=10, burst=5))


class Stores:
    """The three stores on one database, with a clock."""

    def __init__(self, file: Path) -> None:
        self.now = 1_000.0
        self.file = file
        self.database = SQLiteDatabase(file, synchronous="NORMAL", busy_timeout=0.05)
        self.values = SQLiteKeyValueStore(self.database, clock=lambda: self.now)
        self.limits = SQLiteRateLimitStore(self.database, clock=lambda: self.now)
        self.logs = SQLiteEventLog(self.database, bounds=LogBounds(max_events=5), clock=lambda: self.now)

    async def furnish(self) -> None:
        await self.values.set(OWNER, "k", b"value", ttl=60)
        await self.limits.take([CHARGE])
        await self.begin("s")

    async def begin(self, stream: str) -> int | Refusal:
        return await self.logs.append(OWNER, stream, [b"a", b"b", b"c"], expected=0, ttl=60, operation="o")

    async def count(self, table: str) -> int:
        [count] = await self.database.read(lambda at: at.execute(f"SELECT count(*) FROM {table}").fetchone())
        return int(count)

    async def change(self, statement: str, *values: object) -> None:
        await self.database.write(lambda at: at.execute(statement, values))


CALLS: dict[str, Callable[[Stores], Awaitable[object]]] = {
    "get": lambda stores: stores.values.get(OWNER, "k"),
    "set": lambda stores: stores.values.set(OWNER, "k", b"", ttl=60),
    "add": lambda stores: stores.values.add(OWNER, "k", b"", ttl=60, operation="o"),
    "delete": lambda stores: stores.values.delete(OWNER, "k"),
    "take": lambda stores: stores.limits.take([CHARGE]),
    "peek": lambda stores: stores.limits.peek([CHARGE]),
    "settle": lambda stores: stores.limits.settle([Settlement(charge=CHARGE, used=0)]),
    "append": lambda stores: stores.logs.append(OWNER, "s", [b"d"], expected=3, ttl=60, operation="o2"),
    "read": lambda stores: stores.logs.read(OWNER, "s"),
    "delete_all": lambda stores: stores.logs.delete_all(OWNER),
}


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncGenerator[Stores]:
    stores = Stores(tmp_path / "stores.db")
    await stores.furnish()
    yield stores
    await stores.database.aclose()


async def test_what_has_expired_takes_no_room_though_nobody_asks_for_it(stores: Stores) -> None:
    for n in range(50):
        await stores.values.set(OWNER, f"k{n}", b"", ttl=60)
        await stores.limits.take([Charge(key=(f"u{n}",), limit=CHARGE.limit)])
        await stores.begin(f"s{n}")
    stores.now += 100
    await stores.values.set(OWNER, "new", b"", ttl=60)
    await stores.limits.settle([Settlement(charge=CHARGE, used=2)])
    for n in range(6):
        await stores.begin(f"new{n}")
    counts = [await stores.count(table) for table in ("key_values", "rate_cells", "event_logs", "events")]
    assert counts == [1, 1, 6, 18]


@pytest.mark.parametrize(("name", "left"), [("take", 1), ("settle", 0)])
async def test_a_key_whose_burst_is_whole_again_is_removed(stores: Stores, name: str, left: int) -> None:
    await stores.limits.take([Charge(key=("gone",), limit=CHARGE.limit)])
    stores.now += 100
    await CALLS[name](stores)
    assert await stores.count("rate_cells") == left


async def test_an_event_that_is_dropped_takes_no_room(stores: Stores) -> None:
    for last in range(3, 100):
        await stores.logs.append(OWNER, "s", [b"x"], expected=last, ttl=60, operation=f"o{last}")
    assert await stores.count("events") == 5


async def test_a_charge_that_is_refused_is_not_written(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    before = stores.file.with_name("stores.db-wal").read_bytes()
    stores.now += 1
    for _ in range(10):
        assert not (await stores.limits.take([CHARGE])).allowed
    assert stores.file.with_name("stores.db-wal").read_bytes() == before


async def test_a_clock_that_steps_back_delays_no_longer_than_a_burst_takes(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    stores.now -= 900
    refused = await stores.limits.take([CHARGE])
    assert (refused.allowed, refused.retry_after) == (False, 2)
    stores.now += 2
    assert (await stores.limits.take([CHARGE])).allowed
    assert not (await stores.limits.take([CHARGE])).allowed


# Two connections, as two processes have


async def test_exactly_the_burst_is_admitted_by_two_at_once(stores: Stores) -> None:
    limit = RateLimit(rate=1, period=1e6, burst=70)
    answers: list[bool] = []

    async def take(store: SQLiteRateLimitStore) -> None:
        taken = await store.take([Charge(key=("k",), limit=limit)])
        answers.append(taken.allowed)

    async with SQLiteRateLimitStore(stores.file, synchronous="NORMAL", clock=lambda: stores.now) as other:
        async with anyio.create_task_group() as group:
            for n in range(200):
                group.start_soon(take, other if n % 2 else stores.limits)
    assert answers.count(True) == 70


async def test_increments_of_two_at_once_are_all_there(stores: Stores) -> None:
    await stores.values.set(OWNER, "n", b"0", ttl=60)

    async def increment(store: SQLiteKeyValueStore) -> None:
        for n in range(20):
            while True:
                found = await store.get(OWNER, "n")
                assert found is not None
                value, version = b"%d" % (int(found.value) + 1), found.version
                operation = f"{id(store)}-{n}-{version}"
                if not isinstance(
                    await store.replace(OWNER, "n", value, expected_version=version, ttl=60, operation=operation),
                    Refusal,
                ):
                    break

    async with SQLiteKeyValueStore(stores.file, synchronous="NORMAL", clock=lambda: stores.now) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(increment, other)
            group.start_soon(increment, stores.values)
    found = await stores.values.get(OWNER, "n")
    assert found is not None
    assert found.value == b"40"


# Outages and damage are never absence


@pytest.mark.parametrize("name", CALLS)
async def test_a_store_that_is_closed_says_so(stores: Stores, name: str) -> None:
    await stores.database.aclose()
    with pytest.raises(RuntimeClosed):
        await CALLS[name](stores)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("get", "peek", "read")])
async def test_a_file_that_another_has_locked_is_an_outage(stores: Stores, name: str) -> None:
    other = sqlite3.connect(stores.file, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await CALLS[name](stores)
        other.execute("COMMIT")
    finally:
        other.close()
    assert await stores.values.get(OWNER, "k") is not None
    await CALLS[name](stores)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("key_values", "get"),
        ("key_values", "add"),
        ("key_values", "delete"),
        ("rate_cells", "take"),
        ("rate_cells", "peek"),
        ("rate_cells", "settle"),
        ("event_logs", "append"),
        ("event_logs", "read"),
        ("events", "read"),
    ],
)
async def test_a_damaged_byte_is_found(stores: Stores, table: str, name: str) -> None:
    [record] = await stores.database.read(lambda at: at.execute(f"SELECT record FROM {table}").fetchone())
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] ^= 1 << place % 8
        await stores.change(f"UPDATE {table} SET record = ?", bytes(damaged))
        with pytest.raises(CorruptRecord, match="is damaged"):
            await CALLS[name](stores)


async def test_a_record_in_another_one_s_place_is_found(stores: Stores) -> None:
    other = Owner(tenant_id=None, user_id="bob")
    await stores.values.set(other, "k", b"", ttl=60)
    await stores.logs.append(other, "s", [b"x", b"y", b"z"], expected=0, ttl=60, operation="o")
    await stores.limits.take([Charge(key=("bob",), limit=CHARGE.limit)])
    for table in ("key_values", "rate_cells", "event_logs"):
        swap = f"UPDATE {table} SET record = (SELECT max(record) FROM {table})"
        await stores.change(swap)
    for calls in (
        (lambda: stores.values.get(OWNER, "k"), lambda: stores.values.get(other, "k")),
        (lambda: stores.logs.read(OWNER, "s"), lambda: stores.logs.read(other, "s")),
        (lambda: stores.limits.peek([CHARGE]), lambda: stores.limits.peek([Charge(key=("bob",), limit=CHARGE.limit)])),
    ):
        assert sorted([await is_damaged(call) for call in calls]) == [False, True]


@pytest.mark.parametrize(
    "change", ["DELETE FROM events WHERE id % 3 = 0", "UPDATE events SET id = id + 1 WHERE id % 4 = 3"]
)
async def test_an_event_that_is_missing_is_found(stores: Stores, change: str) -> None:
    await stores.change(change)
    with pytest.raises(CorruptRecord, match="an event is missing"):
        await stores.logs.read(OWNER, "s")


async def is_damaged(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except CorruptRecord:
        return True
    return False
