"""F: what it costs to tell subscribers something."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from agent_runtime import EventBus, SystemEvent
from benchmarks.harness import Case, Measure, Sides, per_call

QUEUE = 1_000_000  # nothing is dropped in a round
BUSES = 100  # subscribers, on as many buses, that are idle when a round starts

EVENT = SystemEvent(event_type="a")
Handler = Callable[[SystemEvent], Awaitable[None]]


class Counter:
    """Counts what its handlers get."""

    def __init__(self) -> None:
        self.events = 0

    async def handle(self, event: SystemEvent) -> None:
        self.events += 1


def calling(handlers: Sequence[Handler]) -> Callable[[], Awaitable[None]]:
    """Call all `handlers`; one that raises does not keep the event from the others."""
    failures: list[Exception] = []

    async def publish() -> None:
        for handle in handlers:
            try:
                await handle(EVENT)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises
                failures.append(error)

    return publish


async def subscribed(bus: EventBus, counter: Counter, subscribers: int) -> None:
    for _ in range(subscribers):
        await bus.subscribe("a", counter.handle, queue_size=QUEUE)
    assert await bus.publish(EVENT) == subscribers
    await bus.drain()
    assert counter.events == subscribers
    counter.events = 0


@asynccontextmanager
async def published(subscribers: int, ours: Callable[[EventBus, Counter, int], Measure]) -> AsyncGenerator[Sides]:
    limited, counter = Counter(), Counter()
    limit = calling([limited.handle] * subscribers)
    await limit()
    assert limited.events == subscribers
    async with EventBus() as bus:
        await subscribed(bus, counter, subscribers)
        yield Sides(limit=per_call(limit), ours=ours(bus, counter, subscribers))


def busy(bus: EventBus, counter: Counter, subscribers: int) -> Measure:
    """Microseconds of one publish to subscribers that have work already; the handlers' own time is not in it."""

    async def measured(number: int) -> float:
        await bus.publish(EVENT)  # wakes them
        started = time.process_time()
        for _ in range(number):
            await bus.publish(EVENT)
        took = time.process_time() - started
        await drained(bus, counter, subscribers * (number + 1))
        return took / number * 1e6

    return measured


def handled(bus: EventBus, counter: Counter, subscribers: int) -> Measure:
    """Microseconds of one event from publish until every handler has had it, a burst at a time."""

    async def measured(number: int) -> float:
        started = time.process_time()
        for _ in range(number):
            await bus.publish(EVENT)
        await drained(bus, counter, subscribers * number)
        return (time.process_time() - started) / number * 1e6

    return measured


async def drained(bus: EventBus, counter: Counter, events: int) -> None:
    await bus.drain()
    assert counter.events == events
    counter.events = 0


@asynccontextmanager
async def to_idle(subscribers: int) -> AsyncGenerator[Sides]:
    """Microseconds of one publish to subscribers that all wait for it, and must be woken."""
    limited, counter = Counter(), Counter()
    buses = [EventBus() for _ in range(BUSES // subscribers)]
    for bus in buses:
        await subscribed(bus, counter, subscribers)

    async def ours(number: int) -> float:
        took = 0.0
        for _ in range(number):
            started = time.process_time()
            for bus in buses:
                await bus.publish(EVENT)
            took += time.process_time() - started
            for bus in buses:
                await bus.drain()
            assert counter.events == subscribers * len(buses)
            counter.events = 0
        return took / number / len(buses) * 1e6

    try:
        yield Sides(limit=per_call(calling([limited.handle] * subscribers)), ours=ours)
    finally:
        for bus in buses:
            await bus.aclose()


@asynccontextmanager
async def to_nobody() -> AsyncGenerator[Sides]:
    async with EventBus() as bus:
        assert await bus.publish(EVENT) == 0
        assert not bus.wants(EVENT.event_type)
        yield Sides(limit=per_call(calling([])), ours=per_call(lambda: bus.publish(EVENT)))


COUNTS = (1, 10, 100)
CASES = (
    Case("F1, nobody listens", "µs", to_nobody),
    *(Case(f"F1, {count} busy", "µs", partial(published, count, busy)) for count in COUNTS),
    *(Case(f"F1, {count} idle", "µs", partial(to_idle, count)) for count in COUNTS),
    *(Case(f"F1, {count}, until handled", "µs", partial(published, count, handled)) for count in COUNTS),
)
