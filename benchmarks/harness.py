"""How a case is measured: its limit and ours in one process, by turns, warm, and compared round by round."""

import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import FrameType, FunctionType

Measure = Callable[[int], Awaitable[float]]
"""Does what is measured that many times and returns the value of one time, in the case's unit."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What a case compares."""

    limit: Measure
    ours: Measure


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table.

    Attributes:
        name: The figure of `BUDGETS`, "A1" or "F1, 10 idle".
        unit: Of both values: µs, ms, KiB, MB, or what is counted.
        prepare: Opens what is measured; entering it asserts the answers and that every layer is called.
        counted: The value is a count and not a time: one round is enough.
    """

    name: str
    unit: str
    prepare: Callable[[], AbstractAsyncContextManager[Sides]]
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one value over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rounds of one case gave. `ratio` is ours over the limit, each round for itself."""

    case: Case
    rounds: int
    limit: Spread
    ours: Spread
    ratio: Spread


async def measure(case: Case, *, rounds: int, seconds: float) -> Outcome:
    """Measure `case`, for about `seconds` per side and round; a count is taken once."""
    async with case.prepare() as sides:
        if case.counted:
            rounds, limit_times, our_times = 1, 1, 1
        else:
            limit_times = await times(sides.limit, seconds)
            our_times = await times(sides.ours, seconds)
        gc.collect()
        limit: list[float] = []
        ours: list[float] = []
        for number in range(rounds):
            if number % 2 == 0:
                limit.append(await sides.limit(limit_times))
                ours.append(await sides.ours(our_times))
            else:
                ours.append(await sides.ours(our_times))
                limit.append(await sides.limit(limit_times))
    ratios = [our / bare for our, bare in zip(ours, limit, strict=True)]
    return Outcome(case, rounds, Spread.of(limit), Spread.of(ours), Spread.of(ratios))


async def times(side: Measure, seconds: float) -> int:
    """How many times make a round of at least half of `seconds`. Doubling until then also warms up."""
    number = 1
    while True:
        started = time.perf_counter()
        await side(number)
        if time.perf_counter() - started >= seconds / 2:
            return number
        number *= 2


def per_call(function: Callable[[], Awaitable[object]]) -> Measure:
    """Microseconds of one `await function()` that never waits.

    Of CPU time: on an idle machine the time that passes, and on a shared one without the time that others took.
    """

    async def measured(number: int) -> float:
        started = time.process_time()
        for _ in range(number):
            await function()
        return (time.process_time() - started) / number * 1e6

    return measured


def per_plain_call(function: Callable[[], object]) -> Measure:
    """Microseconds of one `function()`, as for `per_call`."""

    async def measured(number: int) -> float:
        started = time.process_time()
        for _ in range(number):
            function()
        return (time.process_time() - started) / number * 1e6

    return measured


def scaled(side: Measure, divisor: float) -> Measure:
    """One part of a whole: a chunk of a stream, a layer of an onion."""

    async def measured(number: int) -> float:
        return await side(number) / divisor

    return measured


async def calls(function: Callable[..., object], during: Callable[[], Awaitable[object]]) -> int:
    """How often `function` is called while `during()` runs, told without a counter that would be measured too."""
    assert isinstance(function, FunctionType)
    frames: set[FrameType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        # A coroutine that goes on after a wait has a call event again, with the same frame.
        if event == "call" and frame.f_code is function.__code__:
            frames.add(frame)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await during()
    finally:
        sys.setprofile(before)
    return len(frames)
