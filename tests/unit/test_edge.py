from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ConfigurationError,
    ConsumerGone,
    Limits,
    ReasoningDelta,
    Reset,
    RunCompleted,
    RunFailed,
    RunStarted,
    StreamEvent,
    TextDelta,
)
from agent_runtime.edge import PLAIN

RunFunction: TypeAlias = Callable[[AgentContext, CallNext], Awaitable[AgentResult]]

ASKED = AgentContext(user_id="ann", current_task="hello")


async def sent_by(agent: object, *, allow_reset: bool = False) -> tuple[AgentResult, list[StreamEvent]]:
    sent: list[StreamEvent] = []

    async def send(event: StreamEvent) -> None:
        await checkpoint()
        sent.append(event)

    executor = AgentExecutor(agent)  # type: ignore[arg-type]  # any async function of a context
    return await executor.execute(ASKED, emit=send, allow_reset=allow_reset), sent


async def test_an_answer_that_was_not_streamed_is_sent_as_one_piece() -> None:
    async def silent(context: AgentContext) -> str:
        return "all at once"

    result, sent = await sent_by(silent)
    assert sent == [
        RunStarted(run_id=result.run_id, agent_id="silent"),
        TextDelta(text="all at once"),
        RunCompleted(result=result.to_record()),
    ]


async def test_a_reset_of_what_was_never_delivered_is_dropped() -> None:
    async def restarts(context: AgentContext) -> str:
        await context.emit(Reset(step=0))
        await context.emit(TextDelta(text="a"))
        await context.emit(Reset(step=1))
        assert context.can_restart(1) and not context.can_restart(0)
        return "a"

    _, sent = await sent_by(restarts)
    assert [event for event in sent if isinstance(event, Reset)] == []


@pytest.mark.parametrize("delta", [TextDelta(text="a"), ReasoningDelta(text="a")])
async def test_a_reset_after_delivery_is_refused_unless_the_consumer_takes_it(delta: StreamEvent) -> None:
    async def restarts(context: AgentContext) -> str:
        await context.emit(delta)
        await context.emit(Reset(step=0))
        await context.emit(TextDelta(text="b"))
        return "b"

    refused, sent = await sent_by(restarts)
    assert isinstance(refused.exception, ConfigurationError) and "allow_reset=True" in str(refused.error)
    assert sent[1] == delta and isinstance(sent[-1], RunFailed) and len(sent) == 3
    allowed, sent = await sent_by(restarts, allow_reset=True)
    assert allowed.success and sent[1:-1] == [delta, Reset(step=0), TextDelta(text="b")]


async def test_after_a_reset_an_answer_of_one_piece_is_sent_again() -> None:
    async def changes_its_mind(context: AgentContext) -> str:
        await context.emit(TextDelta(text="a"))
        await context.emit(Reset(step=0))
        return "b"

    _, sent = await sent_by(changes_its_mind, allow_reset=True)
    assert sent[1:-1] == [TextDelta(text="a"), Reset(step=0), TextDelta(text="b")]


async def test_a_plain_run_drops_what_is_emitted_and_may_always_restart() -> None:
    async def restarts(context: AgentContext) -> str:
        await context.emit(TextDelta(text="a"))
        await context.emit(Reset(step=0))
        return str(context.can_restart())

    assert (await AgentExecutor(restarts).execute(ASKED)).output == "True"


def test_a_plain_run_has_no_consumer_that_could_be_gone() -> None:
    gone = ConsumerGone("left")
    assert PLAIN.lose(gone) is gone
    assert PLAIN.gone is None  # all plain runs share it


async def test_the_callers_sink_gets_one_event_at_a_time() -> None:
    busy = 0
    most = 0

    async def send(event: StreamEvent) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await checkpoint()
        busy -= 1

    async def speaks_at_once(context: AgentContext) -> str:
        async def speak(text: str) -> None:
            await context.emit(TextDelta(text=text))

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(speak, str(number))
        return ""

    result = await AgentExecutor(speaks_at_once).execute(ASKED, emit=send)
    assert result.success and most == 1


async def calls_again(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone:
        return await call_next(context)


async def makes_it_a_success(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone:
        return AgentResult(output="fine")


async def makes_it_a_bug(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone as error:
        raise ValueError from error


@pytest.mark.parametrize("layer", [calls_again, makes_it_a_success, makes_it_a_bug])
async def test_a_sink_that_fails_ends_the_run_whatever_a_layer_makes_of_it(layer: RunFunction) -> None:
    calls = 0
    boom = OSError("reset by peer")

    async def send(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            raise boom

    async def agent(context: AgentContext) -> str:
        nonlocal calls
        calls += 1
        await context.emit(TextDelta(text="a"))
        return "never"

    result = await AgentExecutor(agent, middleware=[layer]).execute(ASKED, emit=send)
    gone = result.exception
    assert isinstance(gone, ConsumerGone) and gone.__cause__ is boom
    assert calls == 1


async def test_a_real_bug_beside_a_healthy_sink_is_raised() -> None:
    async def send(event: StreamEvent) -> None:
        pass

    async def agent(context: AgentContext) -> str:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await AgentExecutor(agent).execute(ASKED, emit=send)


@pytest.mark.parametrize(("limits", "most"), [(Limits(stream_events=4), 4), (Limits(stream_bytes=10), 11)])
async def test_no_more_is_produced_ahead_of_the_consumer_than_the_buffer_holds(limits: Limits, most: int) -> None:
    produced = 0

    async def agent(context: AgentContext) -> str:
        nonlocal produced
        for _ in range(100):
            await context.emit(TextDelta(text="x"))
            produced += 1
        return ""

    async with AgentExecutor(agent, limits=limits).stream(ASKED) as stream:
        taken = 0
        async for event in stream:
            taken += isinstance(event, TextDelta)
            await anyio.wait_all_tasks_blocked()
            assert produced - taken <= most
    assert produced == taken == 100
