"""Promises at the edges of a run: bytes, names, very long retries, second executions, two runs in one session."""

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    EventBus,
    EventType,
    Limits,
    MemorySessionStore,
    ModelRequest,
    ModelResponse,
    PermissionDenied,
    Principal,
    ProviderUnavailable,
    RunCompleted,
    RunStarted,
    SessionConflict,
    SessionManager,
    Stage,
    StreamEvent,
    SystemEvent,
    TextDelta,
    reaches,
    retry_model,
)
from agent_runtime.testing import ScriptedLLMClient

ASKED = AgentContext(user_id="ann", current_task="hello")


async def test_a_stream_buffer_counts_bytes_and_not_characters() -> None:
    emitted = 0

    async def agent(context: AgentContext) -> str:
        nonlocal emitted
        for _ in range(40):
            emitted += 1
            await context.emit(TextDelta(text="\N{GRINNING FACE}"))  # one character, four bytes
        return "\N{GRINNING FACE}" * 40

    async with AgentExecutor(agent, limits=Limits(stream_bytes=16)).stream(ASKED):
        await wait_all_tasks_blocked()
        assert emitted == 4


async def test_what_a_refused_context_calls_itself_is_not_told() -> None:
    told: list[SystemEvent] = []

    async def keep(event: SystemEvent) -> None:
        told.append(event)

    async def agent(context: AgentContext) -> str:
        return "ok"

    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, keep)
        executor = AgentExecutor(agent, event_bus=bus)
        forged = AgentContext(user_id="ann\nroot logged in", agent_id="x\ny", session_id="../s", current_task="hello")
        assert not (await executor.execute(forged)).success
        await bus.drain()
    assert [(event.user_id, event.agent_id, event.session_id) for event in told] == [("", "", None)]


async def test_a_retry_that_goes_on_for_very_long_never_overflows() -> None:
    client = ScriptedLLMClient([ProviderUnavailable("down")], repeat=True)

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        async def again(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
            return await retry_model(request, call_next, attempts=1_100, delay=0.0)

        return (await context.call_model(ModelRequest(messages=()), client, around=again)).text

    result = await AgentExecutor(agent).execute(ASKED)
    assert isinstance(result.exception, ProviderUnavailable) and client.calls == 1_100


async def test_an_agent_that_is_run_again_has_one_start_in_the_stream() -> None:
    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    async def agent(context: AgentContext) -> str:
        return "ok"

    events: list[StreamEvent] = []

    async def keep(event: StreamEvent) -> None:
        events.append(event)

    result = await AgentExecutor(agent, middleware=[twice]).execute(ASKED, emit=keep)
    assert result.attempts == 2 and sum(isinstance(event, RunStarted) for event in events) == 1


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_run_that_is_let_in_after_a_refusal_at_the_agents_door_has_its_start(goes_on: bool) -> None:
    async def impostor(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context.replace(user_id="bob"))
        except PermissionDenied:
            return await call_next(context) if goes_on else AgentResult(output="ok")

    async def agent(context: AgentContext) -> str:
        return "ok"

    told: list[SystemEvent] = []
    events: list[StreamEvent] = []

    async def keep(event: StreamEvent) -> None:
        events.append(event)

    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, told.append, where=lambda event: event.event_type.startswith("agent_"))
        executor = AgentExecutor(agent, middleware=[impostor], event_bus=bus)
        context = AgentContext(current_task="hello")
        result = await executor.execute(context, principal=Principal(subject="ann"), emit=keep)
        await bus.drain()
    assert [type(event) for event in events] == [RunStarted, TextDelta, RunCompleted]
    assert [event.event_type for event in told] == [EventType.AGENT_STARTED, EventType.AGENT_COMPLETED]
    assert {(event.agent_id, event.user_id) for event in told} == {("agent", "ann")}
    assert (result.attempts, result.served_by) == (1, "agent" if goes_on else "layer")


async def test_of_two_runs_at_once_in_one_session_one_turn_is_kept_and_the_other_run_is_told() -> None:
    started: list[str] = []

    async def agent(context: AgentContext) -> str:
        started.append(context.current_task)
        await anyio.wait_all_tasks_blocked()
        return f"answer to {context.current_task}"

    sessions = SessionManager(MemorySessionStore())
    executor = AgentExecutor(agent, session_manager=sessions)
    asked = [ASKED.replace(session_id="s", current_task=task) for task in ("one", "two")]
    with anyio.fail_after(5):
        results = await executor.execute_batch(asked, max_concurrency=2)
    assert sorted(result.success for result in results) == [False, True]
    lost, kept = sorted(results, key=lambda result: result.success)
    assert isinstance(lost.exception, SessionConflict)
    assert len(started) == 1  # the other was refused before it began
    messages = await sessions.messages("s", owner=ASKED.owner)
    assert [message.role for message in messages] == ["user", "assistant"] and messages[1].content == kept.output
