"""Events across processes: what is Redis's own, and what becomes of events when a process or the server is killed."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from textwrap import dedent
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from tests.servers.program import running
from tests.servers.redis_server import RedisProgram

from agent_runtime import (
    NEVER_SETTLED,
    CorruptRecord,
    Delivery,
    EventBus,
    EventConsumer,
    RuntimeClosed,
    SystemEvent,
    TopicBounds,
    event_of,
    forward,
    message_of,
)
from agent_runtime.ids import new_id
from agent_runtime.testing.session_samples import cut
from agent_runtime_adapters.redis import RedisEventTransport

IDLE = 0.5

WORKER = """
    import sys

    import anyio

    from agent_runtime import EventConsumer
    from agent_runtime_adapters.redis import RedisEventTransport

    async def hang(event):
        print(event.sequence, flush=True)
        await anyio.sleep_forever()

    async def main(url, prefix, idle):
        async with RedisEventTransport(url, prefix=prefix) as transport:
            await EventConsumer(transport, hang, topic="t", group="g", idle=float(idle)).run()

    anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def prefix() -> str:
    return new_id()


@pytest.fixture
async def transport(redis_url: str, prefix: str) -> AsyncGenerator[RedisEventTransport]:
    async with RedisEventTransport(redis_url, prefix=prefix) as transport:
        yield transport


@pytest.fixture
async def redis(redis_url: str) -> AsyncGenerator[Any]:
    async with Redis.from_url(redis_url, protocol=2) as redis:
        yield redis


def event(number: int = 0) -> SystemEvent:
    return SystemEvent(event_type="custom", sequence=number)


async def put(transport: RedisEventTransport, *numbers: int) -> None:
    await transport.publish("t", [message_of(event(number)) for number in numbers])


async def fetch(transport: RedisEventTransport, consumer: str = "c", *, max_attempts: int = 5) -> list[int]:
    fetched = await transport.fetch("t", "g", consumer, limit=100, idle=IDLE, max_attempts=max_attempts)
    return [event_of(delivery).sequence for delivery in fetched.deliveries]


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a list that grows sets no event
            await anyio.sleep(0.005)


@contextmanager
def worker(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """A consumer in a process of its own, whose handler says the event's number and never returns."""
    with subprocess.Popen(
        [sys.executable, "-c", dedent(WORKER), *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Processes and servers that are killed


async def test_what_a_killed_process_was_at_goes_to_another_and_what_kills_all_is_buried(
    transport: RedisEventTransport, redis_url: str, prefix: str
) -> None:
    await put(transport, 1, 2)
    for n in range(2):
        with worker(redis_url, prefix, str(IDLE)) as process:
            assert process.stdout is not None
            assert await anyio.to_thread.run_sync(process.stdout.readline) == "1\n"
            if not n:
                await anyio.sleep(IDLE * 1.5)
                assert await fetch(transport) == []  # it lives, and has both
        await anyio.sleep(IDLE * 1.2)
    seen: list[int] = []

    async def handle(event: SystemEvent) -> None:
        seen.append(event.sequence)

    consumer = EventConsumer(transport, handle, topic="t", group="g", idle=IDLE, max_attempts=2)
    async with anyio.create_task_group() as group:
        group.start_soon(consumer.run)
        await put(transport, 3)
        await until(lambda: 3 in seen)
        consumer.stop()
    letters = await transport.dead_letters("t", "g")
    assert [(event_of(letter).sequence, letter.attempt, letter.reason) for letter in letters] == [
        (1, 3, NEVER_SETTLED),
        (2, 3, NEVER_SETTLED),
    ]


async def test_nothing_is_lost_when_the_server_is_killed_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    seen: set[int] = set()

    async def handle(event: SystemEvent) -> None:
        seen.add(event.sequence)

    with running(RedisProgram) as program:
        async with RedisEventTransport(program.url, timeout=0.5) as transport, EventBus() as bus:
            consumer = EventConsumer(transport, handle, topic="t", group="g", idle=IDLE)
            async with forward(bus, transport, topic="t") as forwarding, anyio.create_task_group() as group:
                group.start_soon(consumer.run)
                for number in range(50):
                    await bus.publish(event(number))
                await until(lambda: len(seen) > 10)
                program.kill()
                for number in range(50, 100):
                    await bus.publish(event(number))
                await until(lambda: forwarding.stats.failures and consumer.stats.failures)
                program.start()
                await until(lambda: len(seen) == 100)
                consumer.stop()
    assert (forwarding.stats.sent, forwarding.stats.lost, forwarding.stats.dropped) == (100, 0, 0)
    begun = [message for message in caplog.messages if "waits for its transport" in message]
    assert len(begun) <= 2, begun  # one of each


async def test_two_consumers_share_the_events_of_many_buses(transport: RedisEventTransport) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}
    consumers: list[EventConsumer] = []
    async with anyio.create_task_group() as group:
        for name, numbers in seen.items():

            async def handle(event: SystemEvent, numbers: list[int] = numbers) -> None:
                numbers.append(event.sequence)
                await anyio.sleep(0.001)

            consumers.append(EventConsumer(transport, handle, topic="t", group="g", batch=4))
            group.start_soon(consumers[-1].run, name=name)
        for start in (0, 100):
            async with EventBus() as bus, forward(bus, transport, topic="t"):
                for number in range(start, start + 100):
                    await bus.publish(event(number))
        await until(lambda: len(seen["a"]) + len(seen["b"]) == 200)
        for consumer in consumers:
            consumer.stop()
    assert sorted(seen["a"] + seen["b"]) == list(range(200))
    assert min(map(len, seen.values())) > 0


async def test_who_reads_goes_on_where_it_was_in_another_process(
    transport: RedisEventTransport, redis_url: str, prefix: str
) -> None:
    await put(transport, 1, 2)
    place = (await transport.read("t")).last
    await put(transport, 3)
    async with RedisEventTransport(redis_url, prefix=prefix) as another:
        page = await another.read("t", after=place)
    assert [event_of(message).sequence for message in page.messages] == [3]


# Calls that end early


@pytest.mark.parametrize("name", ["fetch", "renew", "release", "bury"])
async def test_a_call_that_is_cancelled_loses_nothing(transport: RedisEventTransport, name: str) -> None:
    turns, finished = 0, False
    while not finished:
        topic = new_id()
        await transport.publish(topic, [message_of(event(1))])
        if name != "fetch":
            await _fetch(transport, topic, "c")
        finished = await cut(partial(CALLS[name], transport, topic), turns)
        with anyio.fail_after(5):  # what was cancelled may go on for a while
            while not await _fetch(transport, topic, "d") and not await transport.dead_letters(topic, "g"):
                pass
        turns += 1


_DELIVERY = Delivery(place="1", id="m", data=b"", attempt=1)
CALLS: dict[str, Callable[[RedisEventTransport, str], Awaitable[object]]] = {
    "fetch": lambda transport, topic: _fetch(transport, topic, "c"),
    "renew": lambda transport, topic: transport.renew(topic, "g", "c", ["1"]),
    "release": lambda transport, topic: transport.release(topic, "g", "c", [_DELIVERY], idle=0.001, tried=False),
    "bury": lambda transport, topic: transport.bury(topic, "g", _DELIVERY, "why"),
}


async def _fetch(transport: RedisEventTransport, topic: str, consumer: str) -> tuple[Delivery, ...]:
    return (await transport.fetch(topic, "g", consumer, limit=9, idle=0.001, max_attempts=9)).deliveries


async def test_a_transport_that_is_closed_says_so(redis_url: str) -> None:
    transport = RedisEventTransport(redis_url)
    await transport.aclose()
    with pytest.raises(RuntimeClosed):
        await transport.read("t")


# What Redis has of it


async def test_a_consumer_that_left_takes_no_room(transport: RedisEventTransport, redis: Any, prefix: str) -> None:
    for n in range(3):
        await put(transport, n)
        await fetch(transport, f"c{n}")
        await transport.leave("t", "g", f"c{n}")
    [topic] = await redis.execute_command("KEYS", f"{{{prefix}:*}}et:t")
    assert len(await redis.execute_command("XINFO", "CONSUMERS", topic, "g")) == 3  # what they have is not lost
    await anyio.sleep(IDLE * 1.2)
    fetched = await transport.fetch("t", "g", "c", limit=9, idle=IDLE, max_attempts=9)
    await transport.acknowledge("t", "g", fetched.deliveries)
    for n in range(3):
        await transport.leave("t", "g", f"c{n}")
    await transport.leave("t", "g", "c")
    assert await redis.execute_command("XINFO", "CONSUMERS", topic, "g") == []


async def test_a_topic_and_what_its_groups_know_are_bounded(redis_url: str, prefix: str, redis: Any) -> None:
    bounds = TopicBounds(max_messages=100, max_dead_letters=2, known_ids=10)
    async with RedisEventTransport(redis_url, prefix=prefix, bounds=bounds) as transport:
        for start in range(0, 1_000, 100):
            await put(transport, *range(start, start + 100))
            fetched = await transport.fetch("t", "g", "c", limit=100, idle=IDLE, max_attempts=9)
            await transport.acknowledge("t", "g", fetched.deliveries[:50])
            for delivery in fetched.deliveries[50:]:
                await transport.bury("t", "g", delivery, "why")
    kinds = {"et": ("XLEN", 200), "ek": ("ZCARD", 10), "ed": ("XLEN", 2)}
    for kind, (command, most) in kinds.items():
        [key] = await redis.execute_command("KEYS", f"{{{prefix}:*}}{kind}:*")
        assert await redis.execute_command(command, key) <= most


async def test_more_duplicates_than_are_looked_at_at_once_hold_nobody_up(transport: RedisEventTransport) -> None:
    message = message_of(event(1))
    await transport.publish("t", [message])
    fetched = await transport.fetch("t", "g", "c", limit=1, idle=IDLE, max_attempts=9)
    await transport.acknowledge("t", "g", fetched.deliveries)
    await transport.publish("t", [message] * 150)
    await put(transport, 2)
    with anyio.fail_after(5):
        while not (fetched := await transport.fetch("t", "g", "c", limit=1, idle=IDLE, max_attempts=9)).deliveries:
            await transport.wait("t", after=fetched.last, timeout=60)
    assert [event_of(delivery).sequence for delivery in fetched.deliveries] == [2]


@pytest.mark.parametrize("theirs", [("x", "y"), ("i", b"\xff", "d", b"\xff"), ("x", b"\xff", "y", b"\xff", "z", "")])
async def test_an_entry_of_somebody_else_is_no_event_and_holds_nobody_up(
    transport: RedisEventTransport, redis: Any, prefix: str, theirs: Sequence[str | bytes]
) -> None:
    await put(transport, 1)
    [topic] = await redis.execute_command("KEYS", f"{{{prefix}:*}}et:t")
    await redis.execute_command("XADD", topic, "2-0", *theirs)
    await put(transport, 3)
    for messages in ((await transport.read("t")).messages, await _fetch(transport, "t", "c")):
        assert [event_of(message).sequence for message in (messages[0], messages[2])] == [1, 3]
        with pytest.raises(CorruptRecord):
            event_of(messages[1])
    with anyio.fail_after(5):
        while not (found := await _fetch(transport, "t", "d")):  # until the first one has had them for long enough
            pass
    [_, other, _] = found
    await transport.bury("t", "g", other, "no event")
    assert [letter.id for letter in await transport.dead_letters("t", "g")] == [other.id]
    await redis.execute_command("XADD", topic.replace(b"et:t", b"ed:t:g"), "*", "x", "y")
    with pytest.raises(CorruptRecord):
        await transport.dead_letters("t", "g")
