"""What is MongoDB's own among the promises of the stores of values, rate limits and events."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.adapters.programs import run_python
from tests.servers.mongodb_server import MongoDBProgram, StandaloneMongoDB
from tests.servers.program import running
from tests.stores.mongodb import emptied

from agent_runtime import (
    Charge,
    ConfigurationError,
    CorruptRecord,
    LogBounds,
    OutcomeUnknown,
    Owner,
    RateLimit,
    Refusal,
    RuntimeClosed,
    Settlement,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.mongodb import MongoDatabase, MongoEventLog, MongoKeyValueStore, MongoRateLimitStore

OWNER = Owner(tenant_id=None, user_id="ann")
CHARGE = Charge(key=("ann", "requests"), limit=RateLimit(rate=5, period=10, burst=5))
OTHER_CHARGE = Charge(key=("ann", "tokens"), limit=CHARGE.limit)
COLLECTIONS = ("key_values", "rate_limits", "event_logs")


class Stores:
    """The three stores on one database, with a clock."""

    def __init__(self, database: MongoDatabase) -> None:
        self.now = 1_000.0
        self.database = database
        self.values = MongoKeyValueStore(database, clock=lambda: self.now)
        self.limits = MongoRateLimitStore(database, clock=lambda: self.now)
        self.logs = MongoEventLog(database, bounds=LogBounds(max_events=5), clock=lambda: self.now)

    async def furnish(self) -> None:
        await emptied(self.values, *COLLECTIONS)
        await self.values.set(OWNER, "k", b"value", ttl=60)
        await self.limits.take([CHARGE])
        await self.logs.append(OWNER, "s", [b"a", b"b", b"c"], expected=0, ttl=60, operation="o")

    async def change(self, name: str, **fields: object) -> None:
        await self.database.do(lambda at: at[name].update_many({}, {"$set": fields}))

    async def indexes(self, name: str) -> Mapping[str, Any]:
        return await self.database.do(lambda at: at[name].index_information())

    async def document(self, name: str) -> dict[str, Any]:
        found = await self.database.do(lambda at: at[name].find_one({}))
        assert found is not None
        return found


CALLS: dict[str, Callable[[Stores], Awaitable[object]]] = {
    "get": lambda stores: stores.values.get(OWNER, "k"),
    "add": lambda stores: stores.values.add(OWNER, "k", b"", ttl=60, operation="o"),
    "take": lambda stores: stores.limits.take([CHARGE]),
    "take_all": lambda stores: stores.limits.take([CHARGE, OTHER_CHARGE]),
    "peek": lambda stores: stores.limits.peek([CHARGE]),
    "append": lambda stores: stores.logs.append(OWNER, "s", [b"d"], expected=3, ttl=60, operation="o2"),
    "read": lambda stores: stores.logs.read(OWNER, "s"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(mongodb_url: str) -> AsyncGenerator[MongoDatabase]:
    async with MongoDatabase(mongodb_url, database=f"s_{new_id()}") as database:
        yield database


@pytest.fixture
async def stores(database: MongoDatabase) -> Stores:
    stores = Stores(database)
    await stores.furnish()
    return stores


async def test_the_server_removes_each_document_when_its_time_is_up(stores: Stores) -> None:
    lives = {"key_values": 60, "rate_limits": 2, "event_logs": 60}
    for name in COLLECTIONS:
        left = (await stores.document(name))["purge_at"].timestamp() - time.time()
        assert left == pytest.approx(lives[name], abs=10 if lives[name] > 10 else 2)
        indexes = await stores.indexes(name)
        assert indexes["purge_at_1"]["expireAfterSeconds"] == 0


async def test_a_life_that_is_longer_than_a_date_can_tell_is_kept(stores: Stores) -> None:
    await stores.values.set(OWNER, "k", b"old", ttl=1e300)
    stores.now += 1e12
    assert await stores.values.get(OWNER, "k") is not None
    slow = RateLimit(rate=1e-200, period=1, burst=1)
    assert (await stores.limits.take([Charge(key=("slow",), limit=slow)])).allowed
    assert not (await stores.limits.take([Charge(key=("slow",), limit=slow)])).allowed


async def test_text_that_looks_like_an_expression_is_text(stores: Stores) -> None:
    for text in ("$value", "$$NOW", '{"$gt": ""}'):
        await stores.values.set(OWNER, text, text.encode(), ttl=60)
        found = await stores.values.get(OWNER, text)
        assert found is not None
        assert found.value == text.encode()
        assert await stores.values.delete(OWNER, text)


async def test_a_clock_that_steps_back_delays_no_longer_than_a_burst_takes(stores: Stores) -> None:
    for charges in ([CHARGE], [CHARGE, OTHER_CHARGE]):
        while (await stores.limits.take(charges)).allowed:
            pass
        stores.now -= 300
        refused = await stores.limits.take(charges)
        assert (refused.allowed, refused.retry_after) == (False, 2)
        stores.now += 2
        assert (await stores.limits.take(charges)).allowed
        assert not (await stores.limits.take(charges)).allowed


async def test_what_is_taken_of_one_key_at_the_same_time_is_counted_apart(stores: Stores) -> None:
    answers = list[float]()
    limit = RateLimit(rate=1, period=1e6, burst=10)

    async def take(cost: float) -> None:
        taken = await stores.limits.take([Charge(key=("k",), limit=limit, cost=cost)])
        answers.append(cost if taken.allowed else 0)

    async with anyio.create_task_group() as group:
        for cost in (4, 5, 3, 1, 1):
            group.start_soon(take, cost)
    assert sum(answers) == 10


async def test_those_who_take_together_fail_together(stores: Stores) -> None:
    await stores.change("rate_limits", level="full")
    failed = list[str]()

    async def take() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await stores.limits.take([CHARGE])
        failed.append(str(caught.value))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(take)
    assert len(failed) == 5
    await stores.furnish()
    assert (await stores.limits.take([CHARGE])).allowed


async def test_what_waits_longer_than_its_time_is_in_doubt_and_leaves_nothing_behind(mongodb_url: str) -> None:
    with running(MongoDBProgram) as server:
        async with MongoRateLimitStore(server.url, timeout=0.5) as limits:
            assert (await limits.take([CHARGE])).allowed
            server.pause()
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(in_doubt, limits)
            server.go_on()
            assert not vars(limits)["_waiting"]
            assert (await limits.peek([CHARGE])).allowances[0].remaining >= 1


async def in_doubt(limits: MongoRateLimitStore) -> None:
    with pytest.raises(OutcomeUnknown):
        await limits.take([CHARGE])


async def test_without_a_clock_the_server_s_counts(stores: Stores) -> None:
    values, limits = MongoKeyValueStore(stores.database), MongoRateLimitStore(stores.database)
    logs, owner = MongoEventLog(stores.database), Owner(tenant_id="t", user_id="u")
    charges = [Charge(key=(name,), limit=RateLimit(rate=1, period=0.3, burst=1)) for name in ("x", "y")]
    await values.set(owner, "k", b"", ttl=0.3)
    found = await values.get(owner, "k")
    assert found is not None
    assert found.expires_at == pytest.approx(time.time(), abs=5)
    assert await logs.append(owner, "t", [b"x"], expected=0, ttl=0.3, operation="o") == 1
    assert (await limits.take(charges)).allowed
    assert not (await limits.take(charges[:1])).allowed
    await anyio.sleep(0.31)
    assert await values.get(owner, "k") is None
    assert await logs.read(owner, "t") is None
    assert (await limits.take(charges)).allowed


async def test_a_position_that_no_log_has_is_one_after_its_end(stores: Stores) -> None:
    page = await stores.logs.read(OWNER, "s", after=1 << 80, limit=1 << 80)
    assert page is not None
    assert (page.events, page.missed, page.last) == ((), 0, 3)
    assert await stores.logs.append(OWNER, "s", [], expected=1 << 80, ttl=60, operation="o3") is Refusal.CHANGED


async def test_a_version_that_no_value_has_is_another_one(stores: Stores) -> None:
    for version in (-1, 0, 1 << 95, 1 << 96):
        assert not await stores.values.delete(OWNER, "k", expected_version=version)
        call = stores.values.replace(OWNER, "k", b"", expected_version=version, ttl=60, operation="o")
        assert await call is Refusal.CHANGED


async def test_a_log_that_no_document_holds_is_refused(stores: Stores) -> None:
    for bounds in (LogBounds(max_bytes=15 << 20), LogBounds(max_events=1 << 20)):
        with pytest.raises(ConfigurationError, match="more than a document of MongoDB holds"):
            MongoEventLog(stores.database, bounds=bounds)
    largest = MongoEventLog(stores.database, bounds=LogBounds(max_bytes=14 << 20))
    assert await largest.append(OWNER, "large", [bytes(14 << 20)], expected=0, ttl=60, operation="o1") == 1
    assert await largest.append(OWNER, "large", [b"x"], expected=1, ttl=60, operation="o2") == 2
    page = await largest.read(OWNER, "large")
    assert page is not None
    assert (page.first, page.last) == (2, 2)


# Two processes

_TAKES = """
import sys
import anyio
from agent_runtime import Charge, RateLimit
from agent_runtime_adapters.mongodb import MongoRateLimitStore

LIMITS = [
    Charge(key=("a",), limit=RateLimit(rate=1, period=1e6, burst=7)),
    Charge(key=("b",), limit=RateLimit(rate=1, period=1e6, burst=60)),
]
answers = []

async def take(store, charges):
    answers.append((len(charges), (await store.take(charges)).allowed))

async def main():
    async with MongoRateLimitStore(sys.argv[1], database=sys.argv[2], timeout=30) as store:
        async with anyio.create_task_group() as group:
            for n in range(10):
                group.start_soon(take, store, LIMITS if n % 2 else LIMITS[::-1])
            for n in range(40):
                group.start_soon(take, store, LIMITS[1:])
    print(answers.count((2, True)), answers.count((1, True)))

anyio.run(main)
"""


async def test_two_processes_at_once_admit_exactly_the_limits(stores: Stores, mongodb_url: str) -> None:
    answers: list[tuple[int, ...]] = []

    async def one() -> None:
        printed = await anyio.to_thread.run_sync(run_python, _TAKES, mongodb_url, stores.database.database)
        answers.append(tuple(map(int, printed.split())))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    both, second = map(sum, zip(*answers, strict=True))
    assert both <= 7
    assert both + second == 60


# A standalone server


async def test_several_charges_need_transactions() -> None:
    with running(StandaloneMongoDB) as server:
        async with MongoRateLimitStore(server.url) as limits:
            with pytest.raises(ConfigurationError, match="make it a replica set"):
                await limits.take([CHARGE, OTHER_CHARGE])
            assert (await limits.peek([CHARGE, OTHER_CHARGE])).allowed
            assert (await limits.take([CHARGE])).allowed
            await limits.settle([Settlement(charge=CHARGE, used=0)])
            with pytest.raises(ConfigurationError, match="make it a replica set"):
                await limits.settle([Settlement(charge=CHARGE, used=0)] * 2)


# Damage, and wrong use


@pytest.mark.parametrize(
    ("name", "fields", "call"),
    [
        ("key_values", {"value": "text"}, "get"),
        ("key_values", {"version": 1}, "add"),
        ("rate_limits", {"level": "full"}, "peek"),
        ("rate_limits", {"level": "full"}, "take_all"),
        ("event_logs", {"events": ["text"]}, "read"),
        ("event_logs", {"last": "3"}, "append"),
    ],
)
async def test_what_something_else_has_changed_is_damage(
    stores: Stores, name: str, fields: dict[str, object], call: str
) -> None:
    await stores.change(name, **fields)
    with pytest.raises(CorruptRecord, match="was changed by something else"):
        await CALLS[call](stores)


@pytest.mark.parametrize("name", CALLS)
async def test_a_store_that_is_closed_says_so(mongodb_url: str, name: str) -> None:
    closed = Stores(MongoDatabase(mongodb_url))
    await closed.database.aclose()
    with pytest.raises(RuntimeClosed):
        await CALLS[name](closed)


async def test_stores_by_url_have_a_namespace_that_is_erased(mongodb_url: str) -> None:
    name = f"n{new_id()[:20].lower()}"
    async with open_stores(mongodb_url, namespace=name, log_bounds=LogBounds(max_events=2)) as stores:
        await stores.key_values.set(OWNER, "k", b"", ttl=60)
        await stores.event_log.append(OWNER, "s", [b"x"] * 3, expected=0, ttl=60, operation="o")
        page = await stores.event_log.read(OWNER, "s")
        assert page is not None
        assert page.first == 2
        await stores.erase()
    async with open_stores(mongodb_url, namespace=name) as stores:
        assert await stores.key_values.get(OWNER, "k") is None
        await stores.erase()


async def test_a_namespace_wins_over_the_database_of_the_url(mongodb_url: str) -> None:
    name = f"n{new_id()[:20].lower()}"
    async with open_stores(mongodb_url.replace("/?", f"/{new_id()}?"), namespace=name) as there:
        await there.key_values.set(OWNER, "k", b"v", ttl=60)
        async with open_stores(mongodb_url, namespace=name) as same:
            assert await same.key_values.get(OWNER, "k") == await there.key_values.get(OWNER, "k") is not None
        await there.erase()
