import asyncio
import functools
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import ContextVar
from datetime import UTC, timedelta
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    ConfigurationError,
    EventBus,
    EventType,
    RuntimeClosed,
    SystemEvent,
    batched,
)
from agent_runtime.subscription import SubscriberStats

SECRET = "the user's prompt"


def event(number: int = 0, event_type: str = "custom") -> SystemEvent:
    return SystemEvent(event_type=event_type, sequence=number)


class Gate:
    """A handler that records each event and then waits until the gate is open."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.entered = anyio.Event()
        self.opened = anyio.Event()

    async def __call__(self, event: SystemEvent) -> None:
        self.seen.append(event.sequence)
        self.entered.set()
        await self.opened.wait()


@pytest.fixture(name="bus")
async def open_bus() -> AsyncGenerator[EventBus]:
    async with EventBus(drain_timeout=0.5) as bus:
        yield bus


def not_suspending(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine by hand; it may not suspend once."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    value: int = stop.value.value
    return value


# The event


def test_an_event_is_stamped_with_an_id_that_sorts_and_an_aware_time() -> None:
    first, second = event(), event()
    assert first.event_id != second.event_id
    assert first.timestamp.tzinfo is UTC
    assert second.timestamp - first.timestamp < timedelta(seconds=5)


def test_an_event_cannot_be_changed_but_copied_with_a_change() -> None:
    first = SystemEvent(event_type=EventType.RETRY, metadata={"attempt": 1})
    with pytest.raises(AttributeError):
        first.sequence = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # the point of the test
    second = first.replace(metadata={"attempt": 2})
    assert (first.metadata, second.metadata) == ({"attempt": 1}, {"attempt": 2})
    assert second.event_id == first.event_id


def test_the_repr_holds_no_content() -> None:
    shown = repr(SystemEvent(event_type="custom", run_id="r1", error_message=SECRET, metadata={"prompt": SECRET}))
    assert "r1" in shown
    assert SECRET not in shown


# Routing


async def test_any_and_named_subscribers_are_served_in_the_order_of_subscription(bus: EventBus) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[SystemEvent], object]:
        async def handler(event: SystemEvent) -> None:
            order.append(name)

        return handler

    first = await bus.subscribe("paid", note("first"))
    await bus.subscribe(EventType.ANY, note("any"))
    await bus.subscribe("paid", note("last"))
    assert await bus.publish(event(event_type="paid")) == 3
    assert await bus.publish(event(event_type="other")) == 1
    await bus.drain()
    assert sorted(order) == ["any", "any", "first", "last"]
    assert await bus.unsubscribe(first)
    assert await bus.publish(event(event_type="paid")) == 2


async def test_wants_follows_the_subscriptions(bus: EventBus) -> None:
    assert not bus.wants("paid")
    paid = await bus.subscribe("paid", Gate())
    assert (bus.wants("paid"), bus.wants("other")) == (True, False)
    everything = await bus.subscribe(EventType.ANY, Gate())
    assert bus.wants("other")
    await bus.unsubscribe(paid)
    await bus.unsubscribe(everything)
    assert not bus.wants("paid")


async def test_counts_include_those_who_want_everything(bus: EventBus) -> None:
    await bus.subscribe("paid", Gate())
    await bus.subscribe(EventType.ANY, Gate())
    counts = [bus.get_subscriber_count(kind) for kind in (None, "paid", "other", EventType.ANY)]
    assert counts == [2, 2, 1, 1]


async def test_a_raising_filter_counts_as_failed_and_does_not_match() -> None:
    errors: list[BaseException] = []

    def broken(event: SystemEvent) -> bool:
        raise KeyError(SECRET)

    async with EventBus(on_error=lambda event, error: errors.append(error)) as bus:
        one = await bus.subscribe("custom", Gate(), where=broken)
        assert await bus.publish(event()) == 0
        assert bus.stats(one).failed == 1
    assert [type(error) for error in errors] == [KeyError]


# Handlers


class AsyncCall:
    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    async def __call__(self, event: SystemEvent) -> None:
        await checkpoint()
        self.seen.append(event.sequence)


class SyncCall(AsyncCall):
    def __call__(self, event: SystemEvent) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # a fake of the other colour
        self.seen.append(event.sequence)


async def append(seen: list[int], event: SystemEvent) -> None:
    await checkpoint()
    seen.append(event.sequence)


SHAPES: dict[str, Callable[[list[int]], Callable[[SystemEvent], object]]] = {
    "partial of an async function": lambda seen: functools.partial(append, seen),
    "sync function": lambda seen: lambda event: seen.append(event.sequence),
    "sync function around an async one": lambda seen: lambda event: append(seen, event),
    "object with an async call": AsyncCall,
    "object with a sync call": SyncCall,
    "bound async method": lambda seen: AsyncCall(seen).__call__,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_handler_may_have_any_shape(bus: EventBus, shape: str) -> None:
    seen: list[int] = []
    one = await bus.subscribe("custom", SHAPES[shape](seen))
    for number in range(3):
        await bus.publish(event(number))
    await bus.drain()
    assert seen == [0, 1, 2]
    assert bus.stats(one) == SubscriberStats(delivered=3, failed=0, dropped=0, timed_out=0, queued=0)


async def test_a_sync_handler_runs_outside_the_event_loops_thread(bus: EventBus) -> None:
    threads: list[int] = []
    await bus.subscribe("custom", lambda event: threads.append(threading.get_ident()))
    await bus.publish(event())
    await bus.drain()
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_failing_handler_is_counted_reported_and_called_again(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[tuple[int, str]] = []

    def sync_handler(event: SystemEvent) -> None:
        if event.sequence == 1:
            raise ValueError(SECRET)

    async def async_handler(event: SystemEvent) -> None:
        sync_handler(event)

    async with EventBus(on_error=lambda event, error: reported.append((event.sequence, str(error)))) as bus:
        one = await bus.subscribe("custom", async_handler if is_async else sync_handler)
        for number in range(3):
            await bus.publish(event(number).replace(error_message=SECRET))
        await bus.drain()
        assert (bus.stats(one).delivered, bus.stats(one).failed) == (2, 1)
    assert reported == [(1, SECRET)]
    assert [(record.name, record.levelno) for record in caplog.records] == [("agent_runtime.events", logging.ERROR)]
    assert "custom" in caplog.text
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_failing_on_error_is_logged_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(event: SystemEvent, error: BaseException) -> None:
        raise LookupError(SECRET)

    async def fail(event: SystemEvent) -> None:
        raise ValueError

    async with EventBus(on_error=on_error) as bus:
        one = await bus.subscribe("custom", fail)
        await bus.publish(event())
        await bus.publish(event())
        await bus.drain()
        assert bus.stats(one).failed == 2
    assert "LookupError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_call_that_takes_too_long_is_ended_and_the_next_one_made() -> None:
    errors: list[BaseException] = []
    gate = Gate()
    async with EventBus(on_error=lambda event, error: errors.append(error)) as bus:
        one = await bus.subscribe("custom", gate, timeout=0.02)
        await bus.publish(event(1))
        await bus.publish(event(2))
        await bus.drain()
        assert bus.stats(one).timed_out == 2
    assert gate.seen == [1, 2]
    assert [str(error) for error in errors] == ["the handler took longer than 0.02 s"] * 2


async def test_a_timeout_of_the_handlers_own_is_a_failure(bus: EventBus) -> None:
    async def give_up(event: SystemEvent) -> None:
        raise TimeoutError

    one = await bus.subscribe("custom", give_up, timeout=5)
    await bus.publish(event())
    await bus.drain()
    assert (bus.stats(one).failed, bus.stats(one).timed_out) == (1, 0)


async def test_a_sync_call_that_takes_too_long_keeps_its_thread_and_the_next_call_waits(bus: EventBus) -> None:
    release = threading.Event()
    running = [0, 0]  # now, and at most

    def stuck(event: SystemEvent) -> None:
        running[0] += 1
        running[1] = max(running)
        release.wait(5)
        running[0] -= 1

    one = await bus.subscribe("custom", stuck, timeout=0.02)
    await bus.publish(event())
    await bus.publish(event())
    await bus.drain()
    assert bus.stats(one).timed_out == 2
    release.set()
    while not bus.stats(one).delivered:  # on a busy machine the first call may be late again
        await bus.publish(event())
        await bus.drain()
    assert running == [0, 1]


def test_a_handler_that_awaited_a_cancelled_task_has_failed_and_is_called_again() -> None:
    async def await_cancelled(event: SystemEvent) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        async with EventBus() as bus:
            one = await bus.subscribe("custom", await_cancelled)
            await bus.publish(event())
            await bus.publish(event())
            await bus.drain()
            assert bus.stats(one).failed == 2

    anyio.run(main)


async def test_handlers_see_the_context_variables_of_who_subscribed(bus: EventBus) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen: list[str] = []

    async def handler(event: SystemEvent) -> None:
        seen.append(variable.get())

    variable.set("subscriber")
    await bus.subscribe("custom", handler)
    variable.set("publisher")
    await bus.publish(event())
    await bus.drain()
    assert seen == ["subscriber"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"event_type": ""}, ValueError),
        ({"handler": 7}, TypeError),
        ({"queue_size": 0}, ValueError),
        ({"overflow": "grow"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"handler": batched(print, size=11), "queue_size": 10}, ValueError),
    ],
)
async def test_a_wrong_subscription_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    arguments: dict[str, Any] = {"event_type": "custom", "handler": print} | wrong
    bus = EventBus()
    with pytest.raises(error):
        await bus.subscribe(**arguments)
    assert bus.get_subscriber_count() == 0


# The publisher


async def test_publish_never_suspends(bus: EventBus) -> None:
    assert not_suspending(bus.publish(event())) == 0
    await bus.subscribe("custom", Gate(), queue_size=1)
    await bus.subscribe("custom", Gate(), queue_size=1, overflow="drop_newest")
    for number in range(5):
        assert not_suspending(bus.publish(event(number))) == 2


async def test_publish_works_while_the_caller_is_being_cancelled(bus: EventBus) -> None:
    seen: list[int] = []
    await bus.subscribe("custom", functools.partial(append, seen))
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await bus.publish(event(1)) == 1
    await bus.drain()
    assert seen == [1]


@given(numbers=st.lists(st.integers(), max_size=40), pauses=st.sets(st.integers(0, 40)))
async def test_every_subscriber_gets_every_event_in_order(numbers: list[int], pauses: set[int]) -> None:
    async with EventBus() as bus:
        seen: list[list[int]] = [[], [], []]
        for one in seen:
            await bus.subscribe("custom", functools.partial(append, one))
        for index, number in enumerate(numbers):
            await bus.publish(event(number))
            if index in pauses:
                await checkpoint()
        await bus.drain()
        assert seen == [numbers] * 3


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
@given(count=st.integers(1, 30), size=st.integers(1, 12))
async def test_a_full_queue_keeps_what_its_policy_says(overflow: Any, count: int, size: int) -> None:
    gate = Gate()
    async with EventBus() as bus:
        one = await bus.subscribe("custom", gate, queue_size=size, overflow=overflow)
        await bus.publish(event(0))
        await gate.entered.wait()
        for number in range(1, count + 1):
            await bus.publish(event(number))
        assert bus.stats(one).queued == min(count, size)
        gate.opened.set()
        await bus.drain()
        rest = list(range(1, count + 1))
        assert gate.seen == [0, *(rest[-size:] if overflow == "drop_oldest" else rest[:size])]
        stats = bus.stats(one)
        assert (stats.delivered, stats.dropped) == (1 + min(count, size), max(0, count - size))


@given(publishers=st.integers(1, 6), each=st.integers(1, 6), size=st.integers(1, 4))
async def test_a_blocking_queue_loses_nothing_and_keeps_each_publishers_order(
    publishers: int, each: int, size: int
) -> None:
    seen: list[SystemEvent] = []

    async def slow(event: SystemEvent) -> None:
        await checkpoint()
        seen.append(event)

    async def publish(publisher: int) -> None:
        for number in range(each):
            await bus.publish(event(number).replace(run_id=str(publisher)))

    async with EventBus() as bus:
        one = await bus.subscribe("custom", slow, queue_size=size, overflow="block")
        async with anyio.create_task_group() as group:
            for publisher in range(publishers):
                group.start_soon(publish, publisher)
        await bus.drain()
        assert bus.stats(one).dropped == 0
    for publisher in range(publishers):
        assert [event.sequence for event in seen if event.run_id == str(publisher)] == list(range(each))


async def test_a_publisher_that_waits_delays_only_itself(bus: EventBus) -> None:
    seen: list[int] = []
    gate = Gate()
    await bus.subscribe("custom", gate, queue_size=1, overflow="block")
    await bus.subscribe("custom", functools.partial(append, seen))
    await bus.publish(event(0))
    await gate.entered.wait()
    await bus.publish(event(1))
    async with anyio.create_task_group() as group:
        group.start_soon(bus.publish, event(2))
        await anyio.wait_all_tasks_blocked()
        assert (gate.seen, seen) == ([0], [0, 1, 2])
        gate.opened.set()
    await bus.drain()
    assert gate.seen == [0, 1, 2]


async def test_a_publisher_cancelled_while_it_waits_withdraws_its_event(bus: EventBus) -> None:
    gates = [Gate(), Gate()]
    ids = [await bus.subscribe("custom", gate, queue_size=1, overflow="block") for gate in gates]
    await bus.publish(event(0))
    for gate in gates:
        await gate.entered.wait()
    await bus.publish(event(1))
    with anyio.move_on_after(0.02) as scope:
        await bus.publish(event(2))
    assert scope.cancelled_caught
    for gate in gates:
        gate.opened.set()
    await bus.drain()
    assert [gate.seen for gate in gates] == [[0, 1], [0, 1]]
    assert [bus.stats(one).dropped for one in ids] == [1, 1]


@pytest.mark.parametrize("end", ["unsubscribe", "aclose"])
async def test_a_waiting_publisher_is_released_when_the_subscriber_goes(end: str) -> None:
    gate = Gate()
    async with EventBus(drain_timeout=0.02) as bus:
        one = await bus.subscribe("custom", gate, queue_size=1, overflow="block")
        await bus.publish(event(0))
        await gate.entered.wait()
        await bus.publish(event(1))
        async with anyio.create_task_group() as group:
            group.start_soon(bus.publish, event(2))
            await anyio.wait_all_tasks_blocked()
            await (bus.unsubscribe(one) if end == "unsubscribe" else bus.aclose())
        gate.opened.set()
    assert gate.seen == [0]


# Unsubscribing


async def test_after_unsubscribing_the_handler_is_not_called_again(bus: EventBus) -> None:
    gate = Gate()
    one = await bus.subscribe("custom", gate)
    await bus.publish(event(0))
    await bus.publish(event(1))
    await gate.entered.wait()
    assert await bus.unsubscribe(one)
    gate.opened.set()
    await anyio.wait_all_tasks_blocked()
    assert gate.seen == [0]
    with pytest.raises(KeyError):
        bus.stats(one)


async def test_a_subscriber_that_never_got_an_event_never_had_a_worker() -> None:
    bus = EventBus()  # not entered: on trio a worker could not even start
    assert await bus.unsubscribe(await bus.subscribe("custom", Gate()))
    assert not bus.wants("custom")


async def test_a_handler_may_unsubscribe_itself(bus: EventBus) -> None:
    seen: list[int] = []

    async def once(event: SystemEvent) -> None:
        seen.append(event.sequence)
        await bus.unsubscribe_handler(once)

    await bus.subscribe("custom", once)
    await bus.publish(event(1))
    await bus.publish(event(2))
    await bus.drain()
    await anyio.wait_all_tasks_blocked()
    assert seen == [1]


async def test_a_filter_that_unsubscribes_another_leaves_the_publisher_unharmed(bus: EventBus) -> None:
    gate = Gate()

    async def last(event: SystemEvent) -> None: ...

    def where(event: SystemEvent) -> bool:
        not_suspending(bus.unsubscribe_handler(gate))
        return True

    await bus.subscribe("custom", last, where=where)
    await bus.subscribe("custom", gate)
    await bus.publish(event())
    await bus.drain()
    assert gate.seen == []


async def test_g8_subscribers_that_come_and_go_leave_nothing_behind(bus: EventBus) -> None:
    seen: list[int] = []
    before = len(anyio.get_running_tasks())
    for number in range(200):
        one = await bus.subscribe(f"type {number}", functools.partial(append, seen))
        two = await bus.subscribe(EventType.ANY, functools.partial(append, seen))
        await bus.publish(event(number, f"type {number}"))
        await bus.drain()
        assert await bus.unsubscribe(one)
        assert await bus.unsubscribe(two)
    await anyio.wait_all_tasks_blocked()
    assert len(anyio.get_running_tasks()) == before
    assert bus.get_subscriber_count() == 0
    assert len(seen) == 400


# Publishing inside a handler


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block"])
async def test_g8_a_handler_that_publishes_to_itself_is_bounded_and_starves_nobody(overflow: Any) -> None:
    handled = 0

    async def echo_twice(event: SystemEvent) -> None:
        nonlocal handled
        handled += 1
        await bus.publish(event)
        await bus.publish(event)

    async with EventBus(drain_timeout=0.05) as bus:
        one = await bus.subscribe("custom", echo_twice, queue_size=4, overflow=overflow)
        await bus.publish(event())
        while not bus.stats(one).dropped:
            await checkpoint()
        assert bus.stats(one).queued <= 4
        before = handled
        await anyio.sleep(0.01)
        assert handled > before
    assert bus.stats(one).queued == 0


async def test_drain_waits_for_what_handlers_publish(bus: EventBus) -> None:
    seen: list[int] = []

    async def pass_on(event: SystemEvent) -> None:
        await checkpoint()
        await bus.publish(event.replace(event_type="second"))

    await bus.subscribe("second", functools.partial(append, seen))
    await bus.subscribe("custom", pass_on)
    await bus.publish(event(1))
    await bus.drain()
    assert seen == [1]


async def test_two_callers_may_drain_at_once(bus: EventBus) -> None:
    gate = Gate()
    await bus.subscribe("custom", gate)
    await bus.publish(event(1))
    async with anyio.create_task_group() as group:
        group.start_soon(bus.drain)
        group.start_soon(bus.drain)
        await gate.entered.wait()
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
    assert gate.seen == [1]


@pytest.mark.parametrize("operation", ["drain", "aclose"])
async def test_a_handler_that_drains_its_own_bus_is_told_so(operation: str) -> None:
    errors: list[str] = []

    async def handler(event: SystemEvent) -> None:
        await (bus.drain() if operation == "drain" else bus.aclose())

    async with EventBus(on_error=lambda event, error: errors.append(str(error))) as bus:
        await bus.subscribe("custom", handler)
        await bus.publish(event())
        await bus.drain()
        assert len(errors) == 1
        assert "wait for itself" in errors[0]
        assert await bus.publish(event()) == 1


# Batches


async def test_a_batch_is_handed_over_when_it_is_full(bus: EventBus) -> None:
    batches: list[list[int]] = []

    async def handler(events: list[SystemEvent]) -> None:
        batches.append([event.sequence for event in events])

    one = await bus.subscribe("custom", batched(handler, size=3, every=60))
    for number in range(7):
        await bus.publish(event(number))
        await anyio.wait_all_tasks_blocked()
    assert batches == [[0, 1, 2], [3, 4, 5]]
    await bus.drain()
    assert batches[2:] == [[6]]
    assert bus.stats(one).delivered == 7


async def test_a_partial_batch_is_handed_over_when_its_first_event_is_old_enough(bus: EventBus) -> None:
    flushed = anyio.Event()

    async def handler(events: list[SystemEvent]) -> None:
        assert len(events) == 2
        flushed.set()

    await bus.subscribe("custom", batched(handler, size=100, every=0.05))
    started = anyio.current_time()
    await bus.publish(event())
    await checkpoint()
    await bus.publish(event())
    await flushed.wait()
    assert anyio.current_time() - started >= 0.05


@given(numbers=st.lists(st.integers(), max_size=30), size=st.integers(1, 5), pauses=st.sets(st.integers(0, 30)))
async def test_batches_keep_order_and_lose_nothing(numbers: list[int], size: int, pauses: set[int]) -> None:
    batches: list[list[int]] = []

    async def handler(events: list[SystemEvent]) -> None:
        await checkpoint()
        batches.append([event.sequence for event in events])

    async with EventBus() as bus:
        await bus.subscribe("custom", batched(handler, size=size, every=60))
        for index, number in enumerate(numbers):
            await bus.publish(event(number))
            if index in pauses:
                await checkpoint()
    assert [number for batch in batches for number in batch] == numbers
    assert all(1 <= len(batch) <= size for batch in batches)


async def test_a_failing_batch_reports_each_of_its_events() -> None:
    reported: list[int] = []

    def handler(events: list[SystemEvent]) -> None:
        raise ValueError

    async with EventBus(on_error=lambda event, error: reported.append(event.sequence)) as bus:
        one = await bus.subscribe("custom", batched(handler, size=2))
        await bus.publish(event(1))
        await bus.publish(event(2))
        await bus.drain()
        assert bus.stats(one).failed == 2
    assert reported == [1, 2]


async def test_unsubscribing_drops_a_partial_batch(bus: EventBus) -> None:
    batches: list[list[SystemEvent]] = []
    handler = batched(batches.append, size=3, every=60)
    await bus.subscribe("custom", handler)
    await bus.publish(event())
    await anyio.wait_all_tasks_blocked()
    assert await bus.unsubscribe_handler(handler) == 1
    await anyio.wait_all_tasks_blocked()
    assert batches == []


@pytest.mark.parametrize(("size", "every"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_a_batch_has_a_size_and_an_interval(size: int, every: float) -> None:
    with pytest.raises(ValueError, match="batch"):
        batched(print, size=size, every=every)


# The lifespan


async def test_a_closed_bus_refuses_events_and_subscribers_and_closes_again() -> None:
    async with EventBus() as bus:
        await bus.aclose()
        await bus.aclose()
        with pytest.raises(RuntimeClosed, match="closed"):
            await bus.publish(event())
        with pytest.raises(RuntimeClosed, match="closed"):
            await bus.subscribe("custom", Gate())
        with pytest.raises(RuntimeClosed, match="inside its lifespan"):
            await bus.__aenter__()


async def test_closing_delivers_what_was_queued() -> None:
    seen: list[int] = []
    async with EventBus() as bus:
        await bus.subscribe("custom", functools.partial(append, seen))
        await bus.subscribe("custom", batched(lambda events: seen.append(len(events)), size=100, every=60))
        for _ in range(30):
            await bus.publish(event())
    assert sorted(seen) == [0] * 30 + [30]


async def test_closing_gives_up_on_a_handler_that_hangs() -> None:
    gate = Gate()
    async with EventBus(drain_timeout=0.02) as bus:
        one = await bus.subscribe("custom", gate)
        await bus.publish(event())
        await bus.publish(event())
    assert bus.stats(one) == SubscriberStats(delivered=0, failed=1, dropped=1, timed_out=0, queued=0)


async def test_closing_gives_up_on_a_sync_handler_that_hangs() -> None:
    release = threading.Event()
    async with EventBus(drain_timeout=0.02) as bus:
        one = await bus.subscribe("custom", lambda event: release.wait(5))
        await bus.publish(event())
    assert bus.stats(one).failed == 1
    release.set()


async def test_closing_in_a_cancelled_caller_still_delivers() -> None:
    seen: list[int] = []
    with anyio.CancelScope() as scope:
        async with EventBus() as bus:
            await bus.subscribe("custom", functools.partial(append, seen))
            await bus.publish(event(1))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert seen == [1]


async def test_nested_entries_close_with_the_last_exit() -> None:
    seen: list[int] = []
    bus = EventBus()
    async with bus:
        async with bus:
            await bus.subscribe("custom", functools.partial(append, seen))
            await bus.publish(event(1))
        await bus.publish(event(2))
    assert seen == [1, 2]
    with pytest.raises(RuntimeClosed):
        await bus.publish(event(3))


async def test_entering_a_closed_bus_opens_it_with_its_subscriptions() -> None:
    seen: list[int] = []
    bus = EventBus()
    for number in (1, 2):
        async with bus:
            if number == 1:
                await bus.subscribe("custom", functools.partial(append, seen))
            await bus.publish(event(number))
    assert seen == [1, 2]


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_task_that_entered_first_may_leave_first(hangs: bool) -> None:
    bus = EventBus(drain_timeout=0.02)
    gate = Gate()
    if not hangs:
        gate.opened.set()
    leave, left = anyio.Event(), anyio.Event()

    async def first(entered: anyio.Event) -> None:
        async with bus:
            entered.set()
            await leave.wait()
        left.set()

    async with anyio.create_task_group() as group:
        entered = anyio.Event()
        group.start_soon(first, entered)
        await entered.wait()
        async with bus:
            await bus.subscribe("custom", gate)
            await bus.publish(event(1))
            await gate.entered.wait()
            await bus.publish(event(2))
            leave.set()
            await left.wait()
            gate.opened.set()
            await bus.publish(event(3))
    assert gate.seen == [1, 2, 3]


def test_a_second_event_loop_is_refused_while_the_first_lives(anyio_backend: str) -> None:
    async def enter(bus: EventBus) -> None:
        async with bus:
            pass

    async def main() -> None:
        async with EventBus() as bus:
            with pytest.raises(RuntimeError, match="another event loop"):
                await anyio.to_thread.run_sync(anyio.run, enter, bus)

    anyio.run(main, backend=anyio_backend)


def test_outside_a_lifespan_a_bus_works_on_asyncio_in_one_loop_after_another() -> None:
    seen: list[int] = []
    bus = EventBus()
    anyio.run(bus.subscribe, "custom", functools.partial(append, seen))

    async def publish(number: int, drain: bool) -> None:
        await bus.publish(event(number))
        if drain:
            await bus.drain()

    anyio.run(publish, 1, False)  # this loop ends before the worker's first step
    anyio.run(publish, 2, True)
    anyio.run(publish, 3, True)
    assert seen == [1, 2, 3]


def test_outside_a_lifespan_aclose_ends_the_workers() -> None:
    async def main() -> None:
        bus = EventBus()
        await bus.subscribe("custom", Gate())
        await bus.publish(event())
        bus = EventBus(drain_timeout=0)
        await bus.subscribe("custom", Gate())
        await bus.publish(event())
        await bus.aclose()
        assert len(asyncio.all_tasks()) == 2

    anyio.run(main)


def test_outside_a_lifespan_trio_is_told_to_use_one() -> None:
    async def main() -> None:
        bus = EventBus()
        one = await bus.subscribe("custom", Gate())
        with pytest.raises(ConfigurationError, match="async with"):
            await bus.publish(event())
        assert bus.stats(one).queued == 0
        await bus.aclose()

    anyio.run(main, backend="trio")
