"""What stores on a server share: the connection, and what becomes of a call that nobody waits for, that fails or hangs."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    OutcomeUnknown,
    RuntimeClosed,
    ServerStore,
    StoreServer,
    StoreUnavailable,
)
from agent_runtime.testing import no_leaks
from agent_runtime.testing.store_faults import settled


class Lost(Exception):
    """The driver's word for a connection that was cut."""


class Wire:
    """A connection to a server that keeps one number, and answers in two steps."""

    def __init__(self, server: "Numbers") -> None:
        self.server = server
        self.is_open = True

    async def add(self, number: int) -> int:
        await asyncio.sleep(0)
        self.server.number += number
        await asyncio.sleep(0)
        self.server.answered += 1
        return self.server.number

    async def lose(self) -> int:
        self.server.number += 1
        self.server.attempts += 1
        await asyncio.sleep(0)
        raise Lost


async def nothing() -> None:
    pass


class Numbers(StoreServer[Wire]):
    def __init__(self, *, timeout: float = 5.0) -> None:
        super().__init__("numbers at 127.0.0.1:1", timeout=timeout)
        self.number = self.answered = self.attempts = 0
        self.wires: list[Wire] = []
        self.refuse: Callable[[], None] = lambda: None
        self.connects_in = 0.0
        self.meanwhile: Callable[[], Awaitable[object]] = nothing

    async def connect(self) -> Wire:
        await anyio.sleep(self.connects_in)
        self.refuse()
        self.wires.append(Wire(self))
        return self.wires[-1]

    async def disconnect(self, connection: Wire) -> None:
        await self.meanwhile()
        connection.is_open = False

    def translated(self, error: Exception) -> AgentRuntimeError | None:
        if isinstance(error, Lost):
            return OutcomeUnknown(f"{self.name} was lost")
        return StoreUnavailable(f"{self.name} is not there") if isinstance(error, OSError) else None


@pytest.fixture
async def server() -> AsyncGenerator[Numbers]:
    server = Numbers()
    async with no_leaks():
        yield server
        await server.aclose()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def add_one(wire: Wire) -> int:
    return await wire.add(1)


async def forever(_: Wire) -> None:
    await anyio.sleep(math.inf)


async def test_the_first_call_connects_and_all_share_the_connection(server: Numbers) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(server.do, add_one)
    assert server.number == 20
    assert len(server.wires) == 1


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_that_is_cancelled_leaves_at_once_and_its_call_goes_on_to_its_end(
    server: Numbers, turns: int
) -> None:
    task = asyncio.create_task(server.do(lambda wire: wire.add(1)))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.done()
    await server.rest()
    assert server.number == server.answered == (turns > 0)  # before its first step a task has asked for nothing


async def test_a_lifespan_connects_at_once_and_disconnects_and_the_next_use_connects_again(server: Numbers) -> None:
    for times in (1, 2):
        async with server:
            assert len(server.wires) == times
            assert await server.do(lambda wire: wire.add(1)) == times
        assert [wire.is_open for wire in server.wires] == [False] * times
    assert await server.do(lambda wire: wire.add(1)) == 3


async def test_what_is_opened_while_it_disconnects_is_used_on_and_closed_in_the_end(server: Numbers) -> None:
    async with server:
        server.meanwhile = lambda: server.do(add_one)
    server.meanwhile = nothing
    await server.do(add_one)
    assert [wire.is_open for wire in server.wires] == [False, True]
    await server.aclose()
    assert [wire.is_open for wire in server.wires] == [False, False]


async def test_at_the_end_calls_in_flight_are_waited_for_and_later_ones_refused(server: Numbers) -> None:
    task = asyncio.create_task(server.do(lambda wire: wire.add(1)))
    await asyncio.sleep(0)
    await server.aclose()
    assert await task == 1
    assert not server.wires[0].is_open
    with pytest.raises(RuntimeClosed, match=r"the connection to numbers at 127\.0\.0\.1:1 has been closed"):
        await server.do(lambda wire: wire.add(1))
    await server.aclose()


async def test_a_server_that_was_never_used_is_closed() -> None:
    server = Numbers()
    await server.aclose()
    assert server.wires == []


@pytest.mark.parametrize(("writes", "error"), [(True, OutcomeUnknown), (False, StoreUnavailable)])
async def test_a_call_that_hangs_ends_in_time(writes: bool, error: type[AgentRuntimeError]) -> None:
    async with no_leaks():
        server = Numbers(timeout=0.02)
        with pytest.raises(error, match=r"did not answer in 0\.02 s \(timeout\)"):
            await server.do(forever, writes=writes)
        await server.aclose()


async def test_a_connection_that_takes_too_long_is_an_outage_and_no_doubt() -> None:
    server = Numbers(timeout=0.02)
    server.connects_in = math.inf
    with pytest.raises(StoreUnavailable, match=r"was not reached in 0\.02 s"):
        await server.do(lambda wire: wire.add(1))
    assert server.number == 0
    await server.aclose()


async def test_a_call_that_does_not_end_before_the_last_word_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runtime.store_server._LAST_WORDS", -0.98)
    server = Numbers(timeout=1)
    task = asyncio.create_task(server.do(forever))
    await asyncio.sleep(0)
    await server.aclose()
    with pytest.raises(OutcomeUnknown, match="was closed before it answered"):
        await task
    assert not server.wires[0].is_open


async def test_a_driver_error_is_told_in_our_words_with_its_cause(server: Numbers) -> None:
    def refuse() -> None:
        raise OSError("secret words of the driver")

    server.refuse = refuse
    with pytest.raises(StoreUnavailable, match=r"is not there$") as caught:
        await server.do(lambda wire: wire.add(1))
    assert isinstance(caught.value.__cause__, OSError)
    server.refuse = lambda: None
    assert await server.do(lambda wire: wire.add(1)) == 1


async def test_an_error_of_ours_and_a_bug_go_through_as_they_are(server: Numbers) -> None:
    async def invalid(_: Wire) -> None:
        raise InvalidInput("no number")

    async def bug(_: Wire) -> None:
        raise ZeroDivisionError

    with pytest.raises(InvalidInput, match="no number"):
        await server.do(invalid)
    with pytest.raises(ZeroDivisionError):
        await server.do(bug)


@pytest.mark.parametrize(
    ("writes", "repeatable", "attempts", "error"),
    [(True, False, 1, OutcomeUnknown), (True, True, 2, OutcomeUnknown), (False, False, 2, StoreUnavailable)],
)
async def test_what_may_be_made_twice_is_made_again_once(
    server: Numbers, writes: bool, repeatable: bool, attempts: int, error: type[AgentRuntimeError]
) -> None:
    with pytest.raises(error, match="was lost"):
        await server.do(lambda wire: wire.lose(), writes=writes, repeatable=repeatable)
    assert server.attempts == attempts


@pytest.mark.parametrize("gone", [OSError, StoreUnavailable])
async def test_what_was_lost_and_is_not_reached_again_is_in_doubt(server: Numbers, gone: type[Exception]) -> None:
    async def lost_and_gone(wire: Wire) -> int:
        if wire.server.attempts:
            raise gone("nobody listens")
        return await wire.lose()

    with pytest.raises(OutcomeUnknown, match="was lost, and not reached again: the change may be there"):
        await server.do(lost_and_gone, repeatable=True)


async def test_an_error_that_nobody_waits_for_any_more_is_nobodys(server: Numbers) -> None:
    task = asyncio.create_task(server.do(lambda wire: wire.lose()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.rest()
    assert server.attempts == 1


def test_another_event_loop_is_refused_while_the_first_one_runs_and_connects_anew_afterwards() -> None:
    server = Numbers()

    async def add() -> int:
        return await server.do(lambda wire: wire.add(1))

    async def elsewhere() -> int:
        first = await add()
        with pytest.raises(ConfigurationError, match="in use in another event loop"):
            await anyio.to_thread.run_sync(anyio.run, add)
        return first

    assert anyio.run(elsewhere) == 1
    anyio.run(server.rest)  # of a loop that has ended there is nothing to wait for
    assert anyio.run(add) == 2
    assert len(server.wires) == 2


def test_trio_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a driver that needs asyncio"):
        anyio.run(Numbers().do, forever, backend="trio")


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan, "2", "abc", None])
def test_a_timeout_is_seconds(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be seconds above 0"):
        Numbers(timeout=timeout)


@pytest.mark.parametrize("owned", [True, False])
async def test_a_store_ends_the_connection_that_is_its_own(server: Numbers, owned: bool) -> None:
    store = ServerStore(server, owned=owned)
    async with store:
        await store.server.do(lambda wire: wire.add(1))
    assert server.wires[0].is_open is not owned
    await store.aclose()
    if owned:
        with pytest.raises(RuntimeClosed):
            await server.do(lambda wire: wire.add(1))
    else:
        assert await server.do(lambda wire: wire.add(1)) == 2


async def test_what_a_cancelled_caller_left_going_on_can_be_waited_for(server: Numbers) -> None:
    task = asyncio.create_task(server.do(add_one))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    await settled(ServerStore(server, owned=False))
    assert server.answered == 1
    await settled(object())  # of other stores there is nothing to wait for
