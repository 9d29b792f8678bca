"""What is the memory store's own among the promises of rate limit stores; what a limit refuses; clocks that jump."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    Charge,
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    MemoryRateLimitStore,
    RateCell,
    RateLimit,
    Settlement,
)

LIMIT = RateLimit(rate=5, period=10, burst=5)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def charge(name: str = "k", cost: float = 1, limit: RateLimit = LIMIT) -> Charge:
    return Charge(key=(name,), limit=limit, cost=cost)


@pytest.mark.parametrize("field", ["rate", "period", "burst"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_that_limits_nothing_or_everything_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"RateLimit.{field} is {value}"):
        RateLimit(**{"rate": 1, "period": 1, "burst": 1, field: value})


@pytest.mark.parametrize("numbers", [(1e-300, 1, 1e300), (1e300, 1, 1e-300)])
def test_a_limit_that_never_comes_back_is_refused(numbers: tuple[float, float, float]) -> None:
    rate, period, burst = numbers
    with pytest.raises(ConfigurationError, match="nearer to each other"):
        RateLimit(rate=rate, period=period, burst=burst)


def test_a_cost_that_would_never_be_admitted_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="ask for less, or raise its burst") as refusal:
        charge(cost=5.5)
    assert refusal.value.details == {"limit": 5, "found": 5.5}


@pytest.mark.parametrize("cost", [-1, math.nan])
def test_a_cost_is_a_number_from_zero(cost: float) -> None:
    with pytest.raises(InvalidInput, match="not below 0"):
        charge(cost=cost)


@pytest.mark.parametrize("used", [-1, math.nan, math.inf])
def test_what_was_used_is_a_number_from_zero(used: float) -> None:
    with pytest.raises(InvalidInput, match="not below 0"):
        Settlement(charge=charge(), used=used)


def test_a_cell_never_has_more_than_the_whole_burst_to_give() -> None:
    cell = RateCell(level=3, at=0)
    cell.settle(Settlement(charge=charge(cost=4), used=0), now=0)
    assert cell.level == 0


def test_a_store_that_counts_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="above zero"):
        MemoryRateLimitStore(max_keys=0)


async def test_twenty_thousand_names_leave_nothing_behind() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(max_keys=1_000_000, clock=clock)
    for n in range(20_000):
        await store.take([charge(f"u{n}")])
        clock.now += 0.001
    assert store.key_count <= 2_001  # those of the last 2 seconds, after which one unit is back
    clock.now += 2
    for _ in range(21):
        await store.peek([charge()])
    assert store.key_count == 0
    assert len(vars(store)["_expiry"]._heap) == 0  # pyright: ignore[reportPrivateUsage]: that it is empty is the point


async def test_a_refused_charge_takes_no_room() -> None:
    store = MemoryRateLimitStore(clock=Clock())
    await store.take([charge("full", 5)])
    for n in range(1_000):
        assert not (await store.take([charge(f"u{n}"), charge("full")])).allowed
    assert store.key_count == 2


async def test_names_beyond_the_room_have_one_allowance_together() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(max_keys=3, clock=clock)
    known = [charge(name, 2) for name in "abc"]
    for one in known:
        assert (await store.take([one])).allowed
    admitted = [(await store.take([charge(f"u{n}")])).allowed for n in range(100)]
    assert admitted == [True] * 5 + [False] * 95
    assert store.overflowed == 100
    other = RateLimit(rate=1, period=1, burst=2)
    assert (await store.take([charge("u1", 2, other)])).allowed
    assert [(await store.take([one])).allowed for one in known] == [True] * 3
    clock.now += 100
    assert (await store.take([charge("u1", 5)])).allowed
    assert (await store.take([charge("u2", 5)])).allowed
    assert store.overflowed == 101


async def test_a_clock_that_steps_back_gives_nothing_and_delays_no_longer_than_a_burst_takes() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(clock=clock)
    await store.take([charge(cost=5)])
    clock.now -= 3_600
    refused = await store.take([charge()])
    assert (refused.allowed, refused.retry_after) == (False, 2)
    clock.now += 2
    assert (await store.take([charge()])).allowed
    assert not (await store.take([charge()])).allowed
    clock.now += 10
    assert (await store.take([charge(cost=5)])).allowed


@given(
    steps=st.lists(
        st.tuples(st.one_of(st.floats(0, 5), st.floats(-1e6, 0)), st.floats(0, 5), st.booleans()), max_size=60
    )
)
async def test_whatever_the_clock_does_no_more_is_admitted_than_burst_and_rate(
    steps: list[tuple[float, float, bool]],
) -> None:
    clock = Clock()
    store = MemoryRateLimitStore(clock=clock)
    forward = admitted = 0.0
    for step, cost, settled in steps:
        clock.now += step
        forward += max(0.0, step)
        one = charge(cost=cost)
        taken = await store.take([one])
        admitted += cost * taken.allowed
        assert taken.retry_after <= LIMIT.period + 1e-6
        if taken.allowed and settled:
            await store.settle([Settlement(charge=one, used=cost / 2)])
            admitted -= cost / 2
        assert admitted <= LIMIT.burst + forward * LIMIT.rate / LIMIT.period + 1e-6


@given(
    limit=st.builds(RateLimit, rate=st.floats(0.1, 1e4), period=st.floats(0.1, 1e4), burst=st.floats(1, 1e4)),
    costs=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
async def test_what_is_refused_fits_after_the_time_that_was_told(limit: RateLimit, costs: list[float]) -> None:
    clock = Clock()
    clock.now = 0.0  # where a float is finest
    store = MemoryRateLimitStore(clock=clock)
    for part in costs:
        one = charge(cost=part * limit.burst, limit=limit)
        taken = await store.take([one])
        if not taken.allowed:
            clock.now += taken.retry_after
            assert (await store.take([one])).allowed
