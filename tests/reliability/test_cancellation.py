"""A run that is cancelled, at each of its awaits and in every way: it ends cancelled, once, and leaves nothing behind."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.reliability.watched import ASKED, CONFIG, PIECES, SCRIPT, Watched
from tests.stores.distant import Distant

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    Limits,
    ModelRequest,
    RunCancelled,
    RunStatus,
    RunTimeout,
    SessionManager,
    Stage,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolCall,
    model_middleware,
    reaches,
    tool,
    tool_middleware,
)
from agent_runtime.testing import (
    Injection,
    Outcome,
    ScriptedLLMClient,
    Trial,
    cancellations,
    inject,
    no_leaks,
)

Form: TypeAlias = Callable[[Watched], Awaitable[str]]

ANSWER = "A frog."


async def plain(scene: Watched) -> str:
    return (await scene.executor.execute(ASKED)).output


async def into_a_sink(scene: Watched) -> str:
    texts: list[str] = []

    async def send(event: StreamEvent) -> None:
        await checkpoint()
        if isinstance(event, TextDelta):
            texts.append(event.text)

    result = await scene.executor.execute(ASKED, emit=send)
    assert tuple(texts) == PIECES
    return result.output


async def batched(scene: Watched) -> str:
    [result] = await scene.executor.execute_batch([ASKED])
    return result.output


async def trials_of(form: Form, fault: Any, again: int | None = None) -> list[tuple[Trial, RunStatus]]:
    """A trial for each await of a whole run, with how the run ended; all that holds of any run is checked."""
    trials: list[tuple[Trial, RunStatus]] = []

    async def make() -> str:
        scenes.append(Watched(bus, Limits(), SCRIPT))
        subscriptions.append(await bus.subscribe(EventType.ANY, scenes[-1].hear))
        try:
            return await form(scenes[-1])
        finally:
            scenes[-1].leave()

    async def check(trial: Trial) -> None:
        await scenes[-1].over()
        await bus.unsubscribe(subscriptions[-1])
        trials.append((trial, scenes[-1].layers[0].runs[0].status))

    scenes: list[Watched] = []
    subscriptions: list[str] = []
    async with no_leaks(), EventBus() as bus:
        await inject(make, check, fault=fault, again=again)
    return trials


@pytest.mark.parametrize("again", [None, 1, 2])
@pytest.mark.parametrize("form", [plain, into_a_sink, batched])
async def test_a_run_cancelled_at_any_of_its_awaits_ends_cancelled_and_cleans_up(form: Form, again: int | None) -> None:
    for fault in cancellations():
        trials = await trials_of(form, fault, again)
        assert len(trials) > 3  # a batch waits in one place for all of its runs
        for trial, status in trials:
            if status is RunStatus.CANCELLED:
                assert trial.outcome is Outcome.CANCELLED
            else:  # struck when the run was over
                assert status is RunStatus.COMPLETED
                assert trial.outcome is Outcome.CANCELLED or trial.value == ANSWER
        assert trials[-1][0].value == ANSWER
        assert trials[0][1] is RunStatus.CANCELLED


class Swallowing:
    """Answers when what it has called is cancelled, which no layer may."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            return AgentResult(output="swallowed")


class Striking:
    """Calls `strike` at the `at`-th await of the run inside."""

    def __init__(self, at: int, strike: Callable[[AgentContext], object]) -> None:
        self.at = at
        self.strike = strike
        self.struck = True

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def inner() -> AgentResult:
            return await call_next(context)

        injection = Injection(inner(), self.at, lambda: self.strike(context))
        try:
            return await injection
        finally:
            self.struck = injection.struck


def executor_with(*layers: Any, bus: EventBus | None = None) -> AgentExecutor:
    @tool
    async def look(where: str) -> str:
        """Look."""
        await checkpoint()
        return f"a {where}"

    client = ScriptedLLMClient(SCRIPT, yields=True)
    return AgentExecutor(config=CONFIG, llm_client=client, tools=[look], middleware=layers, event_bus=bus)


async def awaits(struck_at: Callable[[int], Awaitable[bool]]) -> int:
    """Strike at each await until there is none; how many there are."""
    at = 1
    while await struck_at(at):
        at += 1
    return at - 1


async def streamed(executor: AgentExecutor) -> AgentResult:
    async with executor.stream(ASKED) as stream:
        try:
            async for _ in stream:
                pass
        except (RunCancelled, RunTimeout) as error:
            assert error is stream.result.exception
    return stream.result


async def not_streamed(executor: AgentExecutor) -> AgentResult:
    return await executor.execute(ASKED)


@pytest.mark.parametrize("swallowing", [False, True])
@pytest.mark.parametrize("run", [not_streamed, streamed])
async def test_a_run_ended_by_its_id_at_any_await_comes_back_cancelled(
    run: Callable[[AgentExecutor], Awaitable[AgentResult]], swallowing: bool
) -> None:
    async def struck_at(at: int) -> bool:
        heard: list[SystemEvent] = []
        async with no_leaks(), EventBus() as bus:
            await bus.subscribe(EventType.ANY, heard.append)
            layer = Striking(at, lambda context: executor.cancel(context.run_id))
            executor = executor_with(*[Swallowing()] * swallowing, layer, bus=bus)
            result = await run(executor)
            await bus.drain()
        last = max(heard, key=lambda event: event.sequence)
        assert last.event_type == (EventType.RUN_CANCELLED if layer.struck else EventType.AGENT_COMPLETED)
        assert result.error_type == (ErrorType.CANCELLED if layer.struck else None)
        return layer.struck

    assert await awaits(struck_at) > 5


@pytest.mark.parametrize("swallowing", [False, True])
async def test_a_run_whose_deadline_passes_at_any_await_times_out(swallowing: bool) -> None:
    def pass_deadline(context: AgentContext) -> None:
        context.run.scope.deadline = anyio.current_time() - 1

    async def struck_at(at: int) -> bool:
        layer = Striking(at, pass_deadline)
        result = await executor_with(*[Swallowing()] * swallowing, layer).execute(ASKED)
        assert isinstance(result.exception, RunTimeout) is layer.struck
        return layer.struck

    assert await awaits(struck_at) > 5


@pytest.mark.parametrize("stage", list(Stage))
async def test_nothing_starts_after_the_deadline_whatever_a_layer_does(stage: Stage) -> None:
    started: list[Stage] = []

    async def work(value: Any) -> Any:
        started.append(stage)
        await anyio.sleep_forever()

    async def insists(value: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await call_next(value)
        except anyio.get_cancelled_exc_class():
            return await call_next(value)

    class Client:
        complete = staticmethod(work)

    @reaches(Stage.MODEL, Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        if stage is Stage.RUN:
            await work(context)
        if stage is Stage.MODEL:
            await context.call_model(ModelRequest(messages=()), Client())
        await context.call_tool(ToolCall(id="1", name="probe"), work)
        return "never"

    layers: dict[Stage, Layer] = {
        Stage.RUN: insists,
        Stage.MODEL: model_middleware(insists),
        Stage.TOOL: tool_middleware(insists),
    }
    result = await AgentExecutor(agent, middleware=[layers[stage]], limits=Limits(run=0.1)).execute(ASKED)
    assert isinstance(result.exception, RunTimeout)
    assert started == [stage]


async def test_a_swallowed_cancellation_of_the_caller_ends_the_run_cancelled_in_the_callers_scope() -> None:
    async def run() -> str:
        return (await executor_with(Swallowing()).execute(ASKED)).output

    for fault in cancellations():
        *struck, whole = await inject(run, fault=fault)
        assert len(struck) > 5 and {trial.outcome for trial in struck} == {Outcome.CANCELLED}
        assert whole.value == ANSWER
    with anyio.move_on_after(0.01) as scope:
        await AgentExecutor(never, middleware=[Swallowing()]).execute(ASKED)
    assert scope.cancelled_caught


async def never(context: AgentContext) -> str:
    await anyio.sleep_forever()
    return "never"


async def test_an_error_at_any_await_leaves_as_it_is() -> None:
    boom = KeyError("from a driver")

    def strike(context: AgentContext) -> None:
        raise boom

    async def agent(context: AgentContext) -> str:  # without task groups, whose own awaits nobody may break
        client = ScriptedLLMClient([SCRIPT[-1]], yields=True)
        return (await context.call_model(ModelRequest(messages=()), client)).text

    async def struck_at(at: int) -> bool:
        layer = Striking(at, strike)
        executor = AgentExecutor(agent, middleware=[layer])
        try:
            assert (await executor.execute(ASKED)).output == ANSWER
        except KeyError as error:
            assert error is boom
            assert layer.struck
        assert executor.runs == {}
        return layer.struck

    assert await awaits(struck_at) > 2


class Conversation:
    """One session in a store behind a network."""

    def __init__(self) -> None:
        self.sessions = SessionManager(Distant())
        self.asked = AgentContext(user_id="ann", session_id="s1", current_task="hello")

    async def answer(self, context: AgentContext) -> str:
        await checkpoint()
        return f"after {len(context.messages)}"

    async def run(self) -> AgentResult:
        return await AgentExecutor(self.answer, session_manager=self.sessions).execute(self.asked)

    async def kept(self) -> int:
        if not await self.sessions.exists("s1", owner=self.asked.owner):
            return 0
        return len(await self.sessions.messages("s1", owner=self.asked.owner))


async def test_a_conversation_keeps_whole_turns_only_wherever_its_run_is_cancelled() -> None:
    conversations: list[Conversation] = []

    def make() -> Coroutine[Any, Any, AgentResult]:
        conversations.append(Conversation())
        return conversations[-1].run()

    async def check(trial: Trial) -> None:
        conversation = conversations[-1]
        kept = await conversation.kept()
        assert kept in (0, 2)
        assert trial.outcome is Outcome.CANCELLED or kept == 2
        assert (await conversation.run()).output == f"after {kept}"  # and the next turn goes on from there
        assert await conversation.kept() == kept + 2

    for fault in cancellations():
        async with no_leaks():
            trials = await inject(make, check, fault=fault)
        assert len(trials) > 5
