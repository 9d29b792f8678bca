"""What is PostgreSQL's own among the promises of the stores of values, rate limits and events."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import anyio.to_thread
import pytest
from tests.adapters.programs import run_python
from tests.stores.postgres import execute, fetch

from agent_runtime import (
    Charge,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    LogBounds,
    Owner,
    RateLimit,
    Refusal,
    RuntimeClosed,
    Settlement,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.postgres import (
    PostgresDatabase,
    PostgresEventLog,
    PostgresKeyValueStore,
    PostgresRateLimitStore,
)

OWNER = Owner(tenant_id=None, user_id="ann")
OTHER = Owner(tenant_id="acme", user_id="ann")
CHARGE = Charge(key=("ann", "requests"), limit=RateLimit(rate=5, period=10, burst=5))
TABLES = ("key_values", "rate_cells", "event_logs", "events")


class Stores:
    """The three stores on one database, with a clock."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.now = 1_000.0
        self.database = database
        self.values = PostgresKeyValueStore(database, clock=lambda: self.now)
        self.limits = PostgresRateLimitStore(database, clock=lambda: self.now)
        self.logs = PostgresEventLog(database, bounds=LogBounds(max_events=5), clock=lambda: self.now)

    async def furnish(self) -> None:
        await execute(self.database, "; ".join(f"DELETE FROM agent_runtime.{table}" for table in TABLES[:3]))
        await self.values.set(OWNER, "k", b"value", ttl=60)
        await self.limits.take([CHARGE])
        await self.begin("s")

    async def begin(self, stream: str, owner: Owner = OWNER) -> int | Refusal:
        return await self.logs.append(owner, stream, [b"a", b"b", b"c"], expected=0, ttl=60, operation="o")

    async def counts(self) -> list[object]:
        counted = ", ".join(f"(SELECT count(*) FROM agent_runtime.{table})" for table in TABLES)
        [row] = await fetch(self.database, f"SELECT {counted}")
        return list(row)

    async def written(self, table: str) -> object:
        """Who has written or locked what is there, which changes with each write."""
        return await fetch(self.database, f"SELECT ctid, xmin::text, xmax::text FROM agent_runtime.{table} ORDER BY 1")


CALLS: dict[str, Callable[[Stores], Awaitable[object]]] = {
    "get": lambda stores: stores.values.get(OWNER, "k"),
    "set": lambda stores: stores.values.set(OWNER, "k", b"", ttl=60),
    "take": lambda stores: stores.limits.take([CHARGE]),
    "settle": lambda stores: stores.limits.settle([Settlement(charge=CHARGE, used=0)]),
    "append": lambda stores: stores.logs.append(OWNER, "s", [b"d"], expected=3, ttl=60, operation="o2"),
    "read": lambda stores: stores.logs.read(OWNER, "s"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    async with PostgresDatabase(postgres_url, schema=f"s_{new_id().lower()}") as database:
        yield database


@pytest.fixture
async def stores(database: PostgresDatabase) -> Stores:
    stores = Stores(database)
    await stores.furnish()
    return stores


# Room


async def test_what_has_expired_takes_no_room_though_nobody_asks_for_it(stores: Stores) -> None:
    for n in range(30):
        await stores.values.set(OWNER, f"k{n}", b"", ttl=60)
        await stores.limits.take([Charge(key=(f"u{n}",), limit=CHARGE.limit)])
        await stores.begin(f"s{n}")
    stores.now += 100
    await stores.values.set(OWNER, "new", b"", ttl=60)
    await stores.limits.settle([Settlement(charge=CHARGE, used=2)])
    for n in range(4):
        await stores.begin(f"new{n}")
    assert await stores.counts() == [1, 1, 4, 12]


async def test_one_write_removes_no_more_than_a_few(stores: Stores) -> None:
    for n in range(120):
        await stores.values.set(OWNER, f"k{n}", b"", ttl=60)
    stores.now += 100
    await stores.values.set(OWNER, "new", b"", ttl=60)
    assert (await stores.counts())[0] == 22


@pytest.mark.parametrize(("name", "left"), [("take", 1), ("settle", 0)])
async def test_a_key_whose_burst_is_whole_again_is_removed(stores: Stores, name: str, left: int) -> None:
    await stores.limits.take([Charge(key=("gone",), limit=CHARGE.limit)])
    stores.now += 100
    await CALLS[name](stores)
    assert (await stores.counts())[1] == left


async def test_an_event_that_is_dropped_takes_no_room(stores: Stores) -> None:
    for last in range(3, 30):
        await stores.logs.append(OWNER, "s", [b"x"], expected=last, ttl=60, operation=f"o{last}")
    assert (await stores.counts())[3] == 5
    await stores.logs.append(OWNER, "s", [b"x"] * 9, expected=30, ttl=60, operation="o")
    assert (await stores.counts())[3] == 5


@pytest.mark.parametrize("call", ["delete", "delete_all", "begin"])
async def test_events_of_a_log_that_is_over_take_no_room(stores: Stores, call: str) -> None:
    await stores.begin("s", OTHER)
    if call == "begin":
        stores.now += 100
        assert await stores.begin("s") == 3
    else:
        await (stores.logs.delete(OWNER, "s") if call == "delete" else stores.logs.delete_all(OWNER))
    assert (await stores.counts())[2:] == [1, 3]


# What is refused is only read


async def test_a_charge_that_is_refused_is_not_written(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    before = await stores.written("rate_cells")
    stores.now += 1
    for charges in ([CHARGE], [CHARGE, Charge(key=("new",), limit=CHARGE.limit)]):
        assert not (await stores.limits.take(charges)).allowed
    assert await stores.written("rate_cells") == before


async def test_a_value_that_is_refused_is_not_written(stores: Stores) -> None:
    before = await stores.written("key_values")
    assert await stores.values.add(OWNER, "k", b"", ttl=60, operation="o") is Refusal.EXISTS
    call = stores.values.replace(OWNER, "k", b"", expected_version=1 << 70, ttl=60, operation="o")
    assert await call is Refusal.CHANGED
    assert not await stores.values.delete(OWNER, "k", expected_version=1 << 70)
    assert await stores.written("key_values") == before


# Clocks, and numbers


async def test_a_clock_that_steps_back_delays_no_longer_than_a_burst_takes(stores: Stores) -> None:
    while (await stores.limits.take([CHARGE])).allowed:
        pass
    stores.now -= 900
    refused = await stores.limits.take([CHARGE])
    assert (refused.allowed, refused.retry_after) == (False, 2)
    stores.now += 2
    assert (await stores.limits.take([CHARGE])).allowed
    assert not (await stores.limits.take([CHARGE])).allowed


async def test_without_a_clock_the_server_s_counts(stores: Stores) -> None:
    values, limits = PostgresKeyValueStore(stores.database), PostgresRateLimitStore(stores.database)
    logs = PostgresEventLog(stores.database)
    charge = Charge(key=("server",), limit=RateLimit(rate=1, period=0.1, burst=1))
    await values.set(OTHER, "k", b"", ttl=0.1)
    found = await values.get(OTHER, "k")
    assert found is not None
    assert found.expires_at == pytest.approx(time.time(), abs=5)
    assert (await limits.take([charge])).allowed
    assert not (await limits.take([charge])).allowed
    assert await logs.append(OTHER, "t", [b"x"], expected=0, ttl=0.1, operation="o") == 1
    await anyio.sleep(0.11)
    assert await values.get(OTHER, "k") is None
    assert (await limits.take([charge])).allowed
    assert await logs.read(OTHER, "t") is None


async def test_a_position_that_no_log_has_is_one_after_its_end(stores: Stores) -> None:
    page = await stores.logs.read(OWNER, "s", after=1 << 80, limit=1 << 80)
    assert page is not None
    assert (page.events, page.missed, page.last) == ((), 0, 3)
    assert await stores.logs.append(OWNER, "s", [], expected=1 << 80, ttl=60, operation="o3") is Refusal.CHANGED


async def test_a_limit_that_no_number_of_the_server_holds_is_refused(stores: Stores) -> None:
    limit = RateLimit(rate=1e306, period=1, burst=1e306)
    charge = Charge(key=("huge",), limit=limit)
    await stores.limits.take([charge])
    stores.now += 1e6
    with pytest.raises(InvalidInput):
        await stores.limits.take([charge])


# Two processes

_TAKES = """
import sys
import anyio
from agent_runtime import Charge, RateLimit
from agent_runtime_adapters.postgres import PostgresRateLimitStore

LIMITS = [
    Charge(key=("a",), limit=RateLimit(rate=1, period=1e6, burst=30)),
    Charge(key=("b",), limit=RateLimit(rate=1, period=1e6, burst=60)),
]
answers = []

async def take(store, n):
    answers.append(await store.take(LIMITS if n % 2 else LIMITS[::-1]))

async def main():
    async with PostgresRateLimitStore(sys.argv[1], schema=sys.argv[2]) as store:
        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(take, store, n)
    print(sum(answer.allowed for answer in answers))

anyio.run(main)
"""


async def test_two_processes_at_once_admit_exactly_the_limit(stores: Stores, postgres_url: str) -> None:
    answers: list[int] = []

    async def one() -> None:
        printed = await anyio.to_thread.run_sync(run_python, _TAKES, postgres_url, stores.database.schema)
        answers.append(int(printed))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    assert sum(answers) == 30


# Damage, and wrong use


async def test_an_event_that_is_missing_is_found(stores: Stores) -> None:
    await execute(stores.database, "DELETE FROM agent_runtime.events WHERE sequence = 1")
    with pytest.raises(CorruptRecord, match="an event is missing"):
        await stores.logs.read(OWNER, "s")
    assert await stores.logs.append(OWNER, "s", [b"x"] * 2, expected=3, ttl=60, operation="o3") == 5
    with pytest.raises(CorruptRecord):  # where it would have been dropped
        await stores.logs.append(OWNER, "s", [b"x"], expected=5, ttl=60, operation="o4")


@pytest.mark.parametrize("name", CALLS)
async def test_a_store_that_is_closed_says_so(stores: Stores, postgres_url: str, name: str) -> None:
    closed = Stores(PostgresDatabase(postgres_url, schema=stores.database.schema))
    await closed.database.aclose()
    with pytest.raises(RuntimeClosed):
        await CALLS[name](closed)


async def test_a_database_that_is_shared_has_its_own_options(stores: Stores) -> None:
    with pytest.raises(ConfigurationError, match="set where the database that is shared is made"):
        PostgresKeyValueStore(stores.database, timeout=1)
