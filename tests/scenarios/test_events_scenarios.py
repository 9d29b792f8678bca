"""Scenarios 41, 42, 43 and 45 to 47, and the reliability rows G1 to G5: the event bus as a user meets it."""

import functools
import time
from collections.abc import AsyncGenerator
from statistics import quantiles
from threading import Event

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import EventBus, EventType, SystemEvent, batched


@pytest.fixture(name="bus")
async def open_bus() -> AsyncGenerator[EventBus]:
    async with EventBus() as bus:
        yield bus


def event(number: int = 0, event_type: str = EventType.AGENT_STARTED) -> SystemEvent:
    return SystemEvent(event_type=event_type, sequence=number, run_id="r1")


async def note(seen: list[SystemEvent], event: SystemEvent) -> None:
    await checkpoint()
    seen.append(event)


async def test_s41_the_wildcard_sees_every_event_and_ids_and_counts_are_exact(bus: EventBus) -> None:
    everything: list[SystemEvent] = []
    started: list[SystemEvent] = []
    on_everything = functools.partial(note, everything)
    subscription = await bus.subscribe(EventType.AGENT_STARTED, functools.partial(note, started))
    await bus.subscribe(EventType.ANY, on_everything)
    await bus.subscribe(EventType.AGENT_COMPLETED, on_everything, where=lambda event: False)
    counts = [await bus.publish(event(0, kind)) for kind in EventType if kind != EventType.ANY]
    assert counts == [2] + [1] * (len(EventType) - 2)
    await bus.drain()
    assert [event.event_type for event in everything] == [kind for kind in EventType if kind != EventType.ANY]
    assert [event.event_type for event in started] == [EventType.AGENT_STARTED]
    assert await bus.unsubscribe(subscription) is True
    assert await bus.unsubscribe(subscription) is False
    assert await bus.unsubscribe_handler(on_everything) == 2
    assert await bus.publish(event()) == 0


async def test_s42_every_shape_of_handler_is_called_and_a_failure_is_surfaced() -> None:
    failures: list[str] = []
    called: list[str] = []

    async def raising(event: SystemEvent) -> None:
        raise ValueError("no")

    class Object:
        async def __call__(self, event: SystemEvent) -> None:
            called.append("object")

    def sync(event: SystemEvent) -> None:
        called.append("sync")

    async with EventBus(on_error=lambda event, error: failures.append(f"{event.event_type}: {error}")) as bus:
        ids = [await bus.subscribe(EventType.ANY, handler) for handler in (raising, Object(), sync)]
        assert await bus.publish(event()) == 3
        await bus.drain()
        assert [(bus.stats(one).delivered, bus.stats(one).failed) for one in ids] == [(0, 1), (1, 0), (1, 0)]
    assert sorted(called) == ["object", "sync"]
    assert failures == ["agent_started: no"]


async def test_s43_a_sleeping_handler_delays_nobody_its_queue_is_bounded_and_closing_delivers_the_rest() -> None:
    seen: list[int] = []
    asleep = anyio.Event()
    awake = anyio.Event()

    async def sleeping(event: SystemEvent) -> None:
        asleep.set()
        await awake.wait()
        seen.append(event.sequence)

    async with EventBus() as bus:
        subscription = await bus.subscribe(EventType.ANY, sleeping, queue_size=10)
        await bus.publish(event(0))
        await asleep.wait()
        for number in range(1, 31):
            await bus.publish(event(number))
        assert (bus.stats(subscription).queued, bus.stats(subscription).dropped) == (10, 20)
        awake.set()
    assert seen == [0, *range(21, 31)]


async def test_s45_only_matching_events_arrive_and_a_transform_is_invisible_to_others(bus: EventBus) -> None:
    slow: list[SystemEvent] = []
    hidden: list[SystemEvent] = []
    plain: list[SystemEvent] = []

    async def without_message(event: SystemEvent) -> None:
        await note(hidden, event.replace(error_message=None))

    await bus.subscribe(
        EventType.AGENT_COMPLETED,
        functools.partial(note, slow),
        where=lambda event: (event.execution_time_ms or 0) > 5000,
    )
    await bus.subscribe(EventType.ERROR_OCCURRED, without_message)
    await bus.subscribe(EventType.ANY, functools.partial(note, plain))
    for milliseconds in (10.0, 6000.0):
        await bus.publish(SystemEvent(event_type=EventType.AGENT_COMPLETED, execution_time_ms=milliseconds))
    await bus.publish(SystemEvent(event_type=EventType.ERROR_OCCURRED, error_message="no such tool"))
    await bus.drain()
    assert [event.execution_time_ms for event in slow] == [6000.0]
    assert [event.error_message for event in hidden] == [None]
    assert [event.error_message for event in plain] == [None, None, "no such tool"]


async def test_s46_thirty_events_of_a_hundred_are_flushed_after_the_interval(bus: EventBus) -> None:
    sizes: list[int] = []
    flushed = anyio.Event()

    async def handler(events: list[SystemEvent]) -> None:
        sizes.append(len(events))
        flushed.set()

    await bus.subscribe(EventType.ANY, batched(handler, size=100, every=0.05))
    started = anyio.current_time()
    for number in range(30):
        await bus.publish(event(number))
    await flushed.wait()
    assert sizes == [30]
    assert anyio.current_time() - started >= 0.05


async def test_s46_events_that_arrive_during_a_flush_are_not_lost(bus: EventBus) -> None:
    batches: list[list[int]] = []
    flushing = anyio.Event()
    go_on = anyio.Event()

    async def handler(events: list[SystemEvent]) -> None:
        flushing.set()
        await go_on.wait()
        batches.append([event.sequence for event in events])

    await bus.subscribe(EventType.ANY, batched(handler, size=100, every=5))
    for number in range(100):
        await bus.publish(event(number))
    await flushing.wait()
    for number in range(100, 130):
        await bus.publish(event(number))
    go_on.set()
    await bus.drain()
    assert batches == [list(range(100)), list(range(100, 130))]


async def test_s47_custom_types_route_like_built_in_ones_and_equal_rank_keeps_its_order(bus: EventBus) -> None:
    paid: list[SystemEvent] = []
    everything: list[SystemEvent] = []
    await bus.subscribe("order.paid", functools.partial(note, paid))
    await bus.subscribe(EventType.ANY, functools.partial(note, everything))
    for number in range(50):
        assert await bus.publish(event(number, "order.paid")) == 2
        assert await bus.publish(event(number, "order.shipped")) == 1
    await bus.drain()
    assert [event.sequence for event in paid] == list(range(50))
    assert [event.event_type for event in everything] == ["order.paid", "order.shipped"] * 50


async def test_g1_a_subscriber_that_sleeps_does_not_stall_the_publisher() -> None:
    async def sleep(event: SystemEvent) -> None:
        await anyio.sleep(1)

    async with EventBus(drain_timeout=0) as bus:
        await bus.subscribe(EventType.ANY, sleep)
        times: list[float] = []
        for number in range(500):
            started = time.perf_counter()
            await bus.publish(event(number))
            times.append(time.perf_counter() - started)
            await checkpoint()
    assert quantiles(times, n=100)[-1] < 0.001


async def test_g2_a_sync_handler_that_blocks_does_not_block_the_event_loop(bus: EventBus) -> None:
    turned = Event()
    waited: list[bool] = []

    def block(event: SystemEvent) -> None:
        waited.append(turned.wait(10))

    await bus.subscribe(EventType.ANY, block)
    await bus.publish(event())
    for _ in range(10):
        await anyio.sleep(0.001)
    turned.set()
    await bus.drain()
    assert waited == [True]


async def test_g3_a_handlers_error_is_counted_told_and_never_reaches_the_run() -> None:
    told: list[BaseException] = []

    async def broken(event: SystemEvent) -> None:
        raise RuntimeError("broken")

    async with EventBus(on_error=lambda event, error: told.append(error)) as bus:
        subscription = await bus.subscribe(EventType.ANY, broken)
        for number in range(3):
            await bus.publish(event(number))
        await bus.drain()
        assert bus.stats(subscription).failed == 3
    assert [str(error) for error in told] == ["broken"] * 3


async def test_g4_interleaved_runs_keep_their_own_order(bus: EventBus) -> None:
    seen: list[SystemEvent] = []
    await bus.subscribe(EventType.ANY, functools.partial(note, seen))

    async def run(run_id: str) -> None:
        for number in range(20):
            await bus.publish(event(number).replace(run_id=run_id))
            await checkpoint()

    async with anyio.create_task_group() as group:
        for run_id in ("r1", "r2", "r3"):
            group.start_soon(run, run_id)
    await bus.drain()
    for run_id in ("r1", "r2", "r3"):
        assert [event.sequence for event in seen if event.run_id == run_id] == list(range(20))


async def test_g5_a_replayed_event_is_known_by_its_id(bus: EventBus) -> None:
    known: dict[str, SystemEvent] = {}

    async def keep_first(event: SystemEvent) -> None:
        known.setdefault(event.event_id, event)

    await bus.subscribe(EventType.ANY, keep_first)
    originals = [event(number) for number in range(3)]
    for replayed in (*originals, *originals):
        await bus.publish(replayed)
    await bus.drain()
    assert list(known.values()) == originals
