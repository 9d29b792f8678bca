import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given

from agent_runtime import (
    MAX_EVENT_BYTES,
    NEVER_SETTLED,
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    Delivery,
    EventBus,
    EventConsumer,
    EventMessage,
    Fetched,
    InvalidInput,
    LimitExceeded,
    MemoryEventTransport,
    OutcomeUnknown,
    Secret,
    StoreUnavailable,
    SystemEvent,
    TopicBounds,
    event_of,
    forward,
    message_of,
)
from agent_runtime.background import runs_on_asyncio
from agent_runtime.ids import new_id
from agent_runtime.testing import hostile_values
from agent_runtime.transport_outage import TransportOutage

CONTENT = "the user's prompt"


def event(number: int = 0, **metadata: Any) -> SystemEvent:
    return SystemEvent(event_type="custom", sequence=number, metadata=metadata)


class Transport(MemoryEventTransport):
    """One that fails where a test says so, with a topic named t and a group named g."""

    def __init__(self) -> None:
        super().__init__()
        self.down: set[str] = set()
        self.error: Callable[[], AgentRuntimeError] = lambda: StoreUnavailable("the server cannot be reached")
        self.calls: list[str] = []
        self.delays: list[float] = []

    async def publish(self, topic: str, messages: Sequence[EventMessage]) -> None:
        await self._pass("publish")
        await super().publish(topic, messages)

    async def fetch(self, *args: Any, **options: Any) -> Fetched:
        await self._pass("fetch")
        return await super().fetch(*args, **options)

    async def renew(self, *args: Any, **options: Any) -> None:
        await self._pass("renew")
        await super().renew(*args, **options)

    async def acknowledge(self, *args: Any, **options: Any) -> None:
        await self._pass("acknowledge")
        await super().acknowledge(*args, **options)

    async def release(self, *args: Any, **options: Any) -> None:
        await self._pass("release")
        self.delays.append(options.get("delay", 0.0))
        await super().release(*args, **options)

    async def bury(self, *args: Any, **options: Any) -> None:
        await self._pass("bury")
        await super().bury(*args, **options)

    async def leave(self, *args: Any, **options: Any) -> None:
        await self._pass("leave")
        await super().leave(*args, **options)

    async def _pass(self, name: str) -> None:
        self.calls.append(name)
        await checkpoint()
        if name in self.down:
            raise self.error()

    async def put(self, *events: SystemEvent) -> None:
        await super().publish("t", [message_of(one) for one in events])

    async def sequences(self) -> list[int]:
        return [event_of(message).sequence for message in (await self.read("t", limit=10_000)).messages]

    async def left(self) -> list[tuple[int, int]]:
        """What nobody has handled, as another consumer gets it at once: number and attempt."""
        fetched = await super().fetch("t", "g", "other", limit=100, idle=60, max_attempts=99)
        return [(event_of(delivery).sequence, delivery.attempt) for delivery in fetched.deliveries]


class Handler:
    """Notes each event, and does with some what the test says."""

    def __init__(self, **actions: Callable[[], Awaitable[object]]) -> None:
        self.seen: list[int] = []
        self.actions = actions
        self.changed = anyio.Event()

    async def __call__(self, event: SystemEvent) -> None:
        self.seen.append(event.sequence)
        self.changed.set()
        self.changed = anyio.Event()
        action = self.actions.get(f"on_{event.sequence}")
        if action is not None:
            await action()

    async def until(self, count: int) -> None:
        with anyio.fail_after(5):
            while len(self.seen) < count:
                await self.changed.wait()


def consumer(
    transport: Transport, handler: Callable[[SystemEvent], Awaitable[object]], **options: Any
) -> EventConsumer:
    options = {"idle": 60.0, "retry_delay": 0.0, **options}
    return EventConsumer(transport, handler, topic="t", group="g", **options)


async def fail() -> None:
    raise ValueError(CONTENT)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - a number that grows sets no event
            await anyio.sleep(0.002)


# Events as messages


def test_an_event_comes_back_as_it_was_sent() -> None:
    sent = SystemEvent(
        event_type="order.paid",
        agent_id="support",
        user_id="ann",
        session_id="s1",
        run_id="r1",
        sequence=7,
        timestamp=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        execution_time_ms=1.5,
        error_type="tool",
        error_message="ünï 💥",
        trace_id="0af7",
        metadata={"a": [1, 2.5, None, True], "b": {"c": "d"}},
    )
    message = message_of(sent)
    came = event_of(message)
    assert message.id == sent.event_id
    fields = SystemEvent.__struct_fields__
    assert [getattr(came, field) for field in fields] == [getattr(sent, field) for field in fields]
    assert CONTENT not in repr(EventMessage(id="m", data=CONTENT.encode()))


def kind_of(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", [Secret("key"), ValueError(CONTENT), object(), "\ud800", 2**70], ids=kind_of)
def test_what_is_no_data_is_not_sent(value: object) -> None:
    with pytest.raises(InvalidInput, match="holds more than data"):
        message_of(event(value=value))


@pytest.mark.parametrize("event_id", ["", "a b", "x" * 129])
def test_an_event_without_an_id_of_its_own_is_not_sent(event_id: str) -> None:
    with pytest.raises(InvalidInput, match="event_id"):
        message_of(event().replace(event_id=event_id))


@given(value=hostile_values())
def test_whatever_an_event_holds_it_is_sent_or_refused(value: object) -> None:
    with suppress(InvalidInput, LimitExceeded):
        event_of(message_of(event(value=value)))


def test_an_event_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(LimitExceeded, match="send less") as raised:
        message_of(event(text="x" * MAX_EVENT_BYTES))
    assert raised.value.details["limit"] == MAX_EVENT_BYTES


def test_what_is_damaged_is_no_event() -> None:
    message = message_of(event(text="hello"))
    for place in range(len(message.data)):
        data = bytearray(message.data)
        data[place] ^= 1
        with pytest.raises(CorruptRecord):
            event_of(EventMessage(id=message.id, data=bytes(data)))
    with pytest.raises(CorruptRecord, match="another one is in its place"):
        event_of(EventMessage(id="other", data=message.data))


@pytest.mark.parametrize("field", TopicBounds.__struct_fields__)
def test_bounds_are_above_zero(field: str) -> None:
    with pytest.raises(ConfigurationError, match="above zero"):
        TopicBounds(**{field: 0})


# From a bus


async def test_what_a_bus_tells_is_in_the_topic_when_the_block_ends() -> None:
    transport = Transport()
    async with EventBus() as bus:
        async with forward(bus, transport, topic="t") as forwarding:
            for number in range(250):
                await bus.publish(event(number))
        await bus.publish(event(999))
    assert await transport.sequences() == list(range(250))
    stats = forwarding.stats
    assert (stats.sent, stats.refused, stats.lost, stats.dropped, stats.failures) == (250, 0, 0, 0, 0)


async def test_only_what_is_asked_for_is_sent() -> None:
    transport = Transport()
    async with EventBus() as bus:
        async with forward(bus, transport, topic="t", event_type="custom", where=lambda event: event.sequence > 1):
            for number in range(4):
                await bus.publish(event(number))
                await bus.publish(event(number).replace(event_type="other"))
    assert await transport.sequences() == [2, 3]


async def test_what_cannot_be_sent_is_counted_and_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    transport = Transport()
    async with EventBus() as bus:
        async with forward(bus, transport, topic="t") as forwarding:
            await bus.publish(event(1, error=ValueError(CONTENT)))
            await bus.drain()
            await bus.publish(event(2, error=ValueError(CONTENT)))
            await bus.publish(event(3))
    assert await transport.sequences() == [3]
    assert (forwarding.stats.sent, forwarding.stats.refused) == (1, 2)
    assert CONTENT not in caplog.text
    assert len(caplog.records) == 2


async def test_an_outage_delays_nobody_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    transport = Transport()
    transport.down.add("publish")
    async with EventBus() as bus:
        async with forward(bus, transport, topic="t") as forwarding:
            before = anyio.current_time()
            for number in range(50):
                await bus.publish(event(number))
            assert anyio.current_time() - before < 0.1
            await until(lambda: forwarding.stats.failures >= 2)
            transport.down.clear()
    assert await transport.sequences() == list(range(50))
    assert (forwarding.stats.sent, forwarding.stats.lost) == (50, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "cannot be reached" in caplog.messages[0]
    assert "answers again, after" in caplog.messages[1]


async def test_an_unknown_outcome_is_repeated() -> None:
    transport = Transport()
    transport.error = lambda: OutcomeUnknown("no answer came")
    transport.down.add("publish")
    async with EventBus() as bus, forward(bus, transport, topic="t") as forwarding:
        await bus.publish(event(1))
        await until(lambda: forwarding.stats.failures)
        transport.down.clear()
    assert await transport.sequences() == [1]


async def test_what_waits_while_the_transport_fails_is_bounded_and_counted() -> None:
    transport = Transport()
    transport.down.add("publish")
    async with EventBus() as bus:
        async with forward(bus, transport, topic="t", queue_size=10, grace=0.01) as forwarding:
            for number in range(10):
                await bus.publish(event(number))
            await until(lambda: forwarding.stats.failures)
            for number in range(100):
                await bus.publish(event(number))
            assert forwarding.stats.dropped == 90
        await until(lambda: forwarding.stats.lost == 20)
    assert (forwarding.stats.sent, forwarding.stats.dropped) == (0, 90)


async def test_a_cancelled_caller_sends_what_is_queued() -> None:
    transport = Transport()
    async with EventBus() as bus:
        with anyio.CancelScope() as scope:
            async with forward(bus, transport, topic="t"):
                await bus.publish(event(1))
                scope.cancel()
        assert await transport.sequences() == [1]


async def test_two_buses_may_be_joined_both_ways() -> None:
    transport, seen = Transport(), Handler()
    async with EventBus() as here, EventBus() as there, anyio.create_task_group() as group:
        await here.subscribe("custom", seen)
        consumers = [
            EventConsumer(transport, bus.publish, topic="t", group=name)
            for name, bus in (("here", here), ("there", there))
        ]
        async with forward(here, transport, topic="t"), forward(there, transport, topic="t"):
            for one in consumers:
                group.start_soon(one.run)
            await there.publish(event(1))
            await seen.until(1)
            await until(lambda: all(one.stats.handled for one in consumers))
            for one in consumers:
                one.stop()
    assert await transport.sequences() == [1]
    assert seen.seen == [1]


# As a consumer of a group


async def run(one: EventConsumer, handler: Handler, count: int) -> None:
    """Let it run until so many events came to the handler, and all that is fetched is handled."""
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await handler.until(count)
        await anyio.wait_all_tasks_blocked()
        one.stop()


async def test_events_are_handled_in_order_and_once() -> None:
    transport, handler = Transport(), Handler()
    await transport.put(*(event(number) for number in range(40)))
    one = consumer(transport, handler, batch=7)
    await run(one, handler, 40)
    assert handler.seen == list(range(40))
    assert (one.stats.handled, one.stats.failed) == (40, 0)
    assert await transport.left() == []


async def test_an_event_that_comes_later_is_handled_soon() -> None:
    transport, handler = Transport(), Handler()
    one = consumer(transport, handler)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        for number in range(3):
            await anyio.wait_all_tasks_blocked()
            await transport.put(event(number))
            await handler.until(number + 1)
        one.stop()


async def test_what_fails_is_tried_again_and_then_a_dead_letter_while_others_are_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport, handler = Transport(), Handler(on_1=fail)
    await transport.put(*(event(number) for number in range(4)))
    one = consumer(transport, handler, max_attempts=3, batch=2)
    await run(one, handler, 6)
    assert sorted(handler.seen) == [0, 1, 1, 1, 2, 3]
    assert (one.stats.handled, one.stats.failed, one.stats.buried) == (3, 3, 1)
    [letter] = await transport.dead_letters("t", "g")
    assert (event_of(letter).sequence, letter.attempt, letter.reason) == (1, 3, "internal error (ValueError)")
    assert CONTENT not in caplog.text
    assert await transport.left() == []


async def test_each_try_waits_longer_than_the_one_before() -> None:
    transport, handler = Transport(), Handler(on_1=fail)
    await transport.put(event(1))
    one = consumer(transport, handler, max_attempts=5, idle=0.05, retry_delay=0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.buried)
        one.stop()
    assert transport.delays == [0.01, 0.02, 0.04, 0.05]


async def test_what_is_no_event_is_a_dead_letter_at_once() -> None:
    transport, handler = Transport(), Handler()
    await MemoryEventTransport.publish(transport, "t", [EventMessage(id="m", data=b"rubbish")])
    await transport.put(event(1))
    one = consumer(transport, handler)
    await run(one, handler, 1)
    [letter] = await transport.dead_letters("t", "g")
    assert (letter.id, letter.attempt) == ("m", 1)
    assert "cannot be read" in letter.reason
    assert handler.seen == [1]


async def test_a_handler_that_hangs_is_cancelled_after_its_time() -> None:
    transport, handler = Transport(), Handler(on_1=anyio.sleep_forever)
    await transport.put(event(1), event(2))
    one = consumer(transport, handler, timeout=0.01, max_attempts=1)
    await run(one, handler, 2)
    assert handler.seen == [1, 2]
    assert [letter.reason for letter in await transport.dead_letters("t", "g")] == ["internal error (TimeoutError)"]


async def test_a_handler_that_awaits_what_another_cancelled_has_failed() -> None:
    if not runs_on_asyncio():
        return  # trio has no such thing

    async def wait() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    transport, handler = Transport(), Handler(on_1=wait)
    await transport.put(event(1), event(2))
    one = consumer(transport, handler, max_attempts=1)
    await run(one, handler, 2)
    assert (one.stats.handled, one.stats.buried) == (1, 1)


async def test_who_is_cancelled_gives_back_what_it_has() -> None:
    transport, handler = Transport(), Handler(on_1=anyio.sleep_forever)
    await transport.put(*(event(number) for number in range(4)))
    one = consumer(transport, handler)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await handler.until(2)
        group.cancel_scope.cancel()
    assert await transport.left() == [(1, 1), (2, 1), (3, 1)]
    assert transport.calls[-1] == "leave"
    assert one.stats.failed == 0


async def test_who_is_stopped_handles_what_it_is_at_and_gives_back_the_rest() -> None:
    transport, opened = Transport(), anyio.Event()
    handler = Handler(on_1=opened.wait)
    await transport.put(*(event(number) for number in range(4)))
    one = consumer(transport, handler)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await handler.until(2)
        one.stop()
        opened.set()
    assert one.stats.handled == 2
    assert await transport.left() == [(2, 1), (3, 1)]


async def test_who_is_stopped_while_it_waits_returns_at_once() -> None:
    transport = Transport()
    for turns in range(10):
        one = consumer(transport, Handler())
        with anyio.fail_after(0.5):
            async with anyio.create_task_group() as group:
                group.start_soon(one.run)
                for _ in range(turns):
                    await checkpoint()
                one.stop()


async def test_what_is_slowly_handled_stays_with_its_consumer() -> None:
    transport, handler = Transport(), Handler(on_1=partial(anyio.sleep, 0.3))
    await transport.put(event(1), event(2))
    others = Handler()
    mine, theirs = consumer(transport, handler, idle=0.1), consumer(transport, others, idle=0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(mine.run)
        await handler.until(1)
        group.start_soon(theirs.run)
        await handler.until(2)
        await anyio.wait_all_tasks_blocked()
        mine.stop()
        theirs.stop()
    assert others.seen == []


# While the transport fails


def test_each_outage_is_told_and_tries_grow_rarer_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    outage = TransportOutage("it")
    for _ in range(2):
        delays: list[float] = []
        for _ in range(20):
            outage.failed(StoreUnavailable("the server cannot be reached"))
            delays.append(outage.delay)
        assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
        assert max(delays) == delays[-1] == 5
        outage.answered()
        outage.answered()
    assert (
        caplog.messages
        == [
            "it waits for its transport, which fails: the server cannot be reached",
            "the transport of it answers again, after 20 failures",
        ]
        * 2
    )
    assert outage.failures == 40


@pytest.mark.parametrize("name", ["fetch", "acknowledge", "release", "renew"])
async def test_a_consumer_goes_on_after_an_outage(name: str) -> None:
    transport, handler = Transport(), Handler(on_0=partial(anyio.sleep, 0.05), on_1=fail)
    one = consumer(transport, handler, idle=0.03, max_attempts=99)
    transport.down.add(name)
    await transport.put(*(event(number) for number in range(3)))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.failures)
        transport.down.clear()
        handler.actions.clear()
        await until(lambda: one.stats.handled == 3)
        one.stop()
    assert set(handler.seen) == {0, 1, 2}
    assert await transport.left() == []


async def test_what_could_not_be_buried_is_buried_later() -> None:
    transport, handler = Transport(), Handler(on_1=fail)
    await transport.put(event(1))
    transport.down.add("bury")
    one = consumer(transport, handler, idle=0.02, max_attempts=1)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.failures)
        await transport.put(event(2))
        await until(lambda: transport.calls[-2:] == ["fetch", "fetch"])
        await anyio.sleep(0.03)
        await transport.put(event(3))
        await handler.until(3)
        one.stop()
    assert handler.seen == [1, 2, 3]
    assert [letter.reason for letter in await transport.dead_letters("t", "g")] == [NEVER_SETTLED]


async def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    transport = Transport()
    one = consumer(transport, Handler())
    transport.down.add("fetch")
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.failures >= 2)
        transport.down.clear()
        await until(lambda: len(caplog.records) > 1)
        one.stop()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "waits for its transport" in caplog.messages[0]
    assert "answers again, after" in caplog.messages[1]


async def test_an_outage_at_the_end_is_nothing_to_who_stops() -> None:
    transport, handler = Transport(), Handler()
    await transport.put(event(1))
    transport.down.add("leave")
    one = consumer(transport, handler)
    await run(one, handler, 1)
    assert one.stats.handled == 1


async def test_what_was_handled_and_could_not_be_acknowledged_is_not_handled_again() -> None:
    transport, handler = Transport(), Handler()
    await transport.put(event(1))
    transport.down.add("acknowledge")
    one = consumer(transport, handler, idle=0.02)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.failures >= 2)
        transport.down.clear()
        await until(lambda: transport.calls[-3:].count("fetch") == 2)
        await transport.put(event(2))
        await handler.until(2)
        one.stop()
    assert handler.seen == [1, 2]
    assert await transport.left() == []


async def test_what_was_sent_twice_is_handled_once() -> None:
    transport, handler = Transport(), Handler()
    events = event(1), event(2)
    await transport.put(*events, *events)
    one = consumer(transport, handler)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: transport.calls.count("acknowledge") == 4)
        one.stop()
    assert handler.seen == [1, 2]
    assert one.stats.handled == 2
    assert await transport.left() == []


async def test_what_is_remembered_of_an_outage_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runtime.event_consumer._REMEMBERED", 2)
    transport, handler = Transport(), Handler()
    await transport.put(*(event(number) for number in range(5)))
    transport.down.add("acknowledge")
    one = consumer(transport, handler)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await until(lambda: one.stats.failures == 5)
        transport.down.clear()
        lying = [Delivery(place=str(n), id="", data=b"", attempt=1) for n in range(1, 6)]
        await transport.release("t", "g", one.name, lying, idle=60, tried=True)
        await transport.put(event(5))
        await until(lambda: 5 in handler.seen)
        one.stop()
    assert handler.seen == [0, 1, 2, 3, 4, 0, 1, 2, 5]


async def test_an_error_that_does_not_pass_ends_the_consumer() -> None:
    transport = Transport()
    transport.error = lambda: ConfigurationError("the server does not let this user")
    transport.down.add("fetch")
    with pytest.raises(ConfigurationError):
        await consumer(transport, Handler()).run()


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"max_attempts": 0},
        {"idle": 0},
        {"idle": float("inf")},
        {"retry_delay": -1},
        {"retry_delay": float("nan")},
        {"timeout": 0},
    ],
    ids=repr,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be above 0"):
        consumer(Transport(), Handler(), **options)


@pytest.mark.parametrize("name", ["", "a:b", "{a}", "x" * 129])
async def test_names_of_topics_and_groups_are_plain(name: str) -> None:
    with pytest.raises(InvalidInput, match="topic"):
        EventConsumer(Transport(), Handler(), topic=name, group="g")
    with pytest.raises(InvalidInput, match="group"):
        EventConsumer(Transport(), Handler(), topic="t", group=name)
    with pytest.raises(InvalidInput, match="topic"):
        async with EventBus() as bus, forward(bus, Transport(), topic=name):
            pass


# In memory


async def test_topics_in_memory_are_bounded() -> None:
    transport = MemoryEventTransport(max_topics=2)
    for topic in ("a", "b", "a", "c"):
        await transport.publish(topic, [EventMessage(id=new_id(), data=b"")])
    counts = [len((await transport.read(topic)).messages) for topic in ("a", "c", "b")]
    assert counts == [2, 1, 0]
