"""Durable runs where they are most easily broken: a store that takes its time, layers that call again, errors in disguise."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    CallNext,
    ConfigurationError,
    Durability,
    ErrorType,
    Layer,
    Limits,
    MemorySessionStore,
    Message,
    ModelRequest,
    ModelResponse,
    OutcomeUnknown,
    Owner,
    ProviderUnavailable,
    Resume,
    RunStatus,
    SessionManager,
    SessionStore,
    Stage,
    Tool,
    ToolCall,
    ToolFailed,
    ToolResult,
    reaches,
    tool,
    tool_middleware,
)
from agent_runtime.background import Background
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

ANN = Owner(tenant_id=None, user_id="ann")
ASKED = AgentContext(user_id="ann", session_id="s", current_task="buy it")
AGAIN = AgentContext(user_id="ann", session_id="s", current_task="")
DOWN = ScriptedReply(chunks=(ProviderUnavailable("down"),))


def wants(*calls: tuple[str, Mapping[str, Any]]) -> ScriptedReply:
    return ScriptedReply(tool_calls=calls)


CHARGE = wants(("charge", {"amount": 3}))


class Unhurried:
    """A store each of whose operations lets other tasks go on before and after, as one on a disk does."""

    def __init__(self) -> None:
        self._store = MemorySessionStore()

    def __getattr__(self, name: str) -> Any:
        async def passed_on(*args: Any, **options: Any) -> object:
            await anyio.lowlevel.checkpoint()
            result: object = await getattr(self._store, name)(*args, **options)
            await anyio.lowlevel.checkpoint()
            return result

        return passed_on


@pytest.fixture
def sessions() -> SessionManager:
    return SessionManager(cast("SessionStore", Unhurried()))


def shop(
    sessions: SessionManager,
    *script: ScriptedReply | str,
    tools: Sequence[Tool],
    middleware: Sequence[Layer] = (),
    durability: Durability = "sync",
    limits: Limits | None = None,
) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="shop", model="m", retry_attempts=1),
        llm_client=ScriptedLLMClient(list(script)),
        tools=tools,
        middleware=middleware,
        session_manager=sessions,
        durability=durability,
        limits=limits,
    )


async def is_free(sessions: SessionManager) -> bool:
    async with sessions.lease("s", owner=ANN):
        return True


# An effect is started once


@tool_middleware
async def hedge(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
    results: list[ToolResult] = []

    async def one() -> None:
        try:
            results.append(await call_next(call))
        except OutcomeUnknown:
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    return results[0]


async def test_an_effect_whose_intent_is_being_stored_is_not_started_beside_itself(sessions: SessionManager) -> None:
    done: list[int] = []

    @tool
    async def charge(amount: int) -> str:
        done.append(amount)
        return "charged"

    assert (await shop(sessions, CHARGE, "done", tools=[charge], middleware=[hedge]).execute(ASKED)).success
    assert done == [3]


async def test_of_two_calls_that_ask_the_hook_at_once_one_starts_the_effect(sessions: SessionManager) -> None:
    done: list[int] = []
    asked: list[ToolCall] = []

    async def reconcile(call: ToolCall) -> None:
        asked.append(call)
        await anyio.lowlevel.checkpoint()

    @tool(reconcile=reconcile)
    async def charge(amount: int) -> str:
        done.append(amount)
        if len(done) == 1:
            await anyio.sleep_forever()
        return "charged"

    @tool_middleware
    async def impatient(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.move_on_after(0.02):
            await call_next(call)
        return await hedge.process_tool(call, call_next)

    executor = shop(sessions, CHARGE, "done", tools=[charge], middleware=[impatient])
    assert (await executor.execute(ASKED)).success
    assert (len(asked), done) == (1, [3, 3])  # the hook has said that the first was in vain


async def test_a_call_over_the_limit_was_not_made_and_a_resumed_run_makes_it(sessions: SessionManager) -> None:
    done: list[int] = []

    @tool
    async def charge(amount: int) -> str:
        done.append(amount)
        return "charged"

    other = wants(("charge", {"amount": 4}))
    executor = shop(sessions, CHARGE, other, "done", tools=[charge], limits=Limits(tool_calls=1))
    assert (await executor.execute(ASKED)).error_type is ErrorType.LIMIT
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.steps, run.in_doubt) == (3, ())
    assert (await executor.execute(AGAIN, resume=Resume())).success
    assert done == [3, 4]


async def test_a_doubt_of_an_earlier_attempt_is_asked_about_although_the_later_one_does_not_care(
    sessions: SessionManager,
) -> None:
    @tool_middleware
    async def impatient(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.move_on_after(0.02):
            return await call_next(call)
        return ToolResult(content="too slow", is_error=True)

    async def retry_once(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ProviderUnavailable:
            return await call_next(context)

    @tool
    async def charge(amount: int) -> str:
        await anyio.sleep_forever()
        return "never"

    executor = shop(sessions, CHARGE, DOWN, "no need", tools=[charge], middleware=[retry_once, impatient])
    result = await executor.execute(ASKED)
    [question] = result.questions
    assert (question.kind, question.details) == ("in_doubt", {"tool": "charge", "arguments": {"amount": 3}})
    assert (await executor.execute(AGAIN, resume=Resume())).questions == (question,)
    result = await executor.execute(AGAIN, resume=Resume(answers={question.key: "not_done"}))
    assert result.output == "no need"


@pytest.mark.parametrize("session_id", ["s", None])
async def test_a_hook_is_not_asked_about_a_thread_that_is_still_at_work(
    sessions: SessionManager, session_id: str | None
) -> None:
    done: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    async def reconcile(call: ToolCall) -> str | None:
        return "it is paid" if "end" in done else None

    @tool(reconcile=reconcile)
    def charge(amount: int) -> str:
        done.append("start")
        begun.set()
        go_on.wait(10)
        done.append("end")
        return "charged"

    @tool_middleware
    async def again(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        async def first() -> None:
            await call_next(call)

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()
        return await call_next(call)

    executor = shop(sessions, CHARGE, "done", tools=[charge], middleware=[again])
    result = await executor.execute(ASKED.replace(session_id=session_id))
    go_on.set()
    with anyio.fail_after(10):
        while charge.abandoned:  # noqa: ASYNC110 - the end of a thread sets no event
            await anyio.sleep(0.001)
    assert done == ["start", "end"]
    assert [question.kind for question in result.questions] == (["in_doubt"] if session_id else [])
    if session_id:
        result = await executor.execute(AGAIN, resume=Resume())
        assert result.messages[1].content == "it is paid"
    assert result.output == "done"


# What cannot be stored


class Odd:
    """A client with a field of the wrong type in its answer."""

    async def complete(self, request: ModelRequest) -> ModelResponse:
        return ModelResponse(message=Message(role="assistant", content="hello"), model=cast(str, object()))


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_what_cannot_be_stored_is_a_bug_and_leaves_the_session_free(
    sessions: SessionManager, durability: Durability
) -> None:
    @reaches(Stage.MODEL, resumable=True)
    async def agent(context: AgentContext) -> str:
        await context.call_model(ModelRequest(messages=()), ScriptedLLMClient(["fine"]))
        await context.call_model(ModelRequest(messages=(), step=1), Odd())
        raise ValueError

    executor = AgentExecutor(agent, session_manager=sessions, durability=durability)
    with pytest.raises((TypeError, ValueError)):
        await executor.execute(ASKED)
    assert not executor.runs
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.held, run.steps, run.task) == (False, 1, "buy it")
    assert await is_free(sessions)


async def test_what_is_too_large_for_one_entry_is_stored_in_several(sessions: SessionManager) -> None:
    done: list[int] = []

    @tool
    async def fetch(page: int) -> str:
        done.append(page)
        return "x" * 3_000

    pages = [wants(("fetch", {"page": page})) for page in range(3)]
    limits = Limits(checkpoint_bytes=5_000)
    executor = shop(sessions, *pages, DOWN, "done", tools=[fetch], durability="exit", limits=limits)
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.steps, run.in_doubt) == (RunStatus.FAILED, 6, ())
    assert (await executor.execute(AGAIN, resume=Resume())).output == "done"
    assert done == [0, 1, 2]


async def test_a_result_too_large_for_any_entry_leaves_its_call_in_doubt(sessions: SessionManager) -> None:
    @tool
    async def fetch() -> str:
        return "x" * 6_000

    executor = shop(sessions, wants(("fetch", {})), tools=[fetch], limits=Limits(checkpoint_bytes=5_000))
    result = await executor.execute(ASKED)
    assert result.error_type is ErrorType.LIMIT
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.error_type, run.in_doubt) == (RunStatus.FAILED, ErrorType.LIMIT, ("fetch",))


# `Suspended` in disguise


async def both_at_once(context: AgentContext) -> str:
    said: dict[str, Any] = {}

    async def one(key: str) -> None:
        said[key] = await context.ask("?", key=key)

    async with anyio.create_task_group() as group:
        group.start_soon(one, "a")
        group.start_soon(one, "b")
    return str(said)


async def in_a_group(context: AgentContext) -> str:
    said: list[Any] = []

    async def one() -> None:
        said.append(await context.ask("?", key="a"))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
    return str(said)


async def in_other_words(context: AgentContext) -> str:
    try:
        return str(await context.ask("?", key="a"))
    except AgentRuntimeError as error:
        raise ToolFailed("a framework's own error") from error


async def in_words_of_its_own(context: AgentContext) -> str:
    try:
        return await in_a_group(context)
    except Exception as error:
        raise RuntimeError("a framework's own error") from error


@pytest.mark.parametrize("agent", [both_at_once, in_a_group, in_other_words, in_words_of_its_own])
async def test_whatever_the_agent_makes_of_it_the_run_waits_for_the_answer(
    sessions: SessionManager, agent: Any
) -> None:
    executor = AgentExecutor(reaches(resumable=True)(agent), session_manager=sessions)
    result = await executor.execute(ASKED)
    assert result.error_type is ErrorType.SUSPENDED
    assert result.questions
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.questions) == (RunStatus.SUSPENDED, result.questions)
    while result.questions:
        result = await executor.execute(AGAIN, resume=Resume(answers={q.key: "yes" for q in result.questions}))
    assert "yes" in result.output


async def test_a_failure_beside_a_question_ends_the_run_with_the_failure(sessions: SessionManager) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        async def fail() -> None:
            raise ProviderUnavailable("down")

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(in_a_group, context)
                group.start_soon(fail)
        except ExceptionGroup as group_error:
            [down] = [error for error in group_error.exceptions if isinstance(error, ProviderUnavailable)]
            raise down  # noqa: B904 - as a framework does it that has not thought of causes
        raise AssertionError

    executor = AgentExecutor(agent, session_manager=sessions)
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER


async def translate(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except AgentRuntimeError as error:
        raise ToolFailed("a layer's own error") from error


async def stumble(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except AgentRuntimeError as error:
        raise ValueError from error


async def test_a_layer_that_translates_it_changes_nothing(sessions: SessionManager) -> None:
    executor = AgentExecutor(reaches(resumable=True)(in_a_group), session_manager=sessions, middleware=[translate])
    result = await executor.execute(ASKED)
    assert result.error_type is ErrorType.SUSPENDED
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, run.questions) == (RunStatus.SUSPENDED, result.questions)


async def test_a_bug_in_a_layer_is_raised_and_the_run_goes_on_waiting(sessions: SessionManager) -> None:
    executor = AgentExecutor(reaches(resumable=True)(in_a_group), session_manager=sessions, middleware=[stumble])
    with pytest.raises(ValueError):
        await executor.execute(ASKED)
    [run] = await sessions.unfinished_runs("s", owner=ANN)
    assert (run.status, [question.key for question in run.questions]) == (RunStatus.SUSPENDED, ["a"])


@tool_middleware
async def convert(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
    try:
        return await call_next(call)
    except AgentRuntimeError as error:
        return ToolResult(content=f"failed: {error}", is_error=True)


@tool_middleware
async def wrap(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
    results: list[ToolResult] = []

    async def one() -> None:
        results.append(await call_next(call))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
    return results[0]


@pytest.mark.parametrize("layer", [convert, wrap])
async def test_no_model_is_asked_and_no_other_call_cut_short_when_a_layer_hides_a_question(
    sessions: SessionManager, layer: Layer
) -> None:
    done: list[str] = []

    @tool(kind="idempotent")
    async def confirm(call: ToolCall) -> str:
        return str(await call.context.ask("?", key="k"))

    @tool
    async def charge(amount: int) -> str:
        await anyio.sleep(0.01)
        done.append("charge")
        return "charged"

    both = wants(("confirm", {}), ("charge", {"amount": 3}))
    executor = shop(sessions, both, "done", tools=[confirm, charge], middleware=[layer])
    result = await executor.execute(ASKED)
    assert [question.key for question in result.questions] == ["k"]
    assert (done, result.usage.requests) == (["charge"], 1)
    result = await executor.execute(AGAIN, resume=Resume(answers={"k": "yes"}))
    assert [message.content for message in result.messages] == ["", "yes", "charged", "done"]


async def test_an_answer_about_a_call_is_not_taken_for_a_decision_on_its_outcome(sessions: SessionManager) -> None:
    done: list[str] = []

    @tool_middleware
    async def approval(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if await call.context.ask(f"{call.name}?", key=call.idempotency_key) != "yes":
            raise ToolFailed("the user refused")
        return await call_next(call)

    @tool
    async def charge(amount: int) -> str:
        done.append("charge")
        if len(done) == 1:
            raise OutcomeUnknown("sent, and no answer came")
        return "charged"

    executor = shop(sessions, CHARGE, wants(("charge", {"amount": 4})), "done", tools=[charge], middleware=[approval])
    [question] = (await executor.execute(ASKED)).questions
    assert question.kind == "question"
    [doubt] = (await executor.execute(AGAIN, resume=Resume(answers={question.key: "yes"}))).questions
    assert doubt.kind == "in_doubt"
    [other] = (await executor.execute(AGAIN, resume=Resume(answers={doubt.key: "not_done"}))).questions
    assert (other.kind, done) == ("question", ["charge", "charge"])
    assert other.key not in (question.key, doubt.key)
    assert (await executor.execute(AGAIN, resume=Resume(answers={other.key: "yes"}))).output == "done"


# Layers that do more when the agent has answered


async def test_a_layer_calls_models_and_tools_when_the_turn_is_kept(sessions: SessionManager) -> None:
    done: list[str] = []

    @tool
    async def tell() -> str:
        done.append("tell")
        return "told"

    async def judge(context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        await context.call_model(ModelRequest(messages=()), ScriptedLLMClient(["fine"]))
        call = ToolCall(id="1", name="tell", idempotency_key="tell")
        for _ in range(2):
            await context.call_tool(call, tell)
        return result

    result = await shop(sessions, "hello", tools=[tell], middleware=[judge]).execute(ASKED)
    assert (result.output, done) == ("hello", ["tell"])


@pytest.mark.parametrize("reply", ["hello", DOWN])
async def test_a_layer_cannot_ask_when_the_agent_has_ended(
    sessions: SessionManager, reply: ScriptedReply | str
) -> None:
    async def late(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        finally:
            await context.ask("?", key="k")

    executor = shop(sessions, reply, tools=[], middleware=[late])
    with pytest.raises(ConfigurationError):
        await executor.execute(ASKED, raise_on_error=True)


async def test_an_agent_started_again_after_a_resumed_turn_gets_the_task_again(sessions: SessionManager) -> None:
    tasks: list[str] = []

    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        tasks.append(context.current_task)
        return await in_a_group(context) if len(tasks) == 1 else "fine"

    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    executor = AgentExecutor(agent, session_manager=sessions, middleware=[twice])
    await executor.execute(ASKED)
    assert (await executor.execute(AGAIN, resume=Resume(answers={"a": 1}))).success
    assert tasks == ["buy it"] * 3
    assert [message.content for message in await sessions.messages("s", owner=ANN)] == ["buy it", "fine"] * 2


# The lease


class Renewals(Unhurried):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        self.count += name == "renew"
        return super().__getattr__(name)


@pytest.mark.parametrize("lifespan", [False, True])
def test_a_lease_is_renewed_in_a_program_that_only_asyncio_runs(lifespan: bool) -> None:
    store = Renewals()

    async def agent(context: AgentContext) -> str:
        await asyncio.sleep(0.3)
        return "done"

    async def main() -> None:
        limits = Limits(lease=0.2, lease_renewal=0.02)
        executor = AgentExecutor(agent, session_manager=SessionManager(cast("SessionStore", store)), limits=limits)
        async with AsyncExitStack() as stack:
            if lifespan:
                await stack.enter_async_context(executor)
            assert (await executor.execute(ASKED)).output == "done"
            count = store.count
            await asyncio.sleep(0.1)
            assert store.count == count

    asyncio.run(main())
    assert store.count > 3


def test_a_job_for_later_that_is_cancelled_when_it_is_due_does_not_begin() -> None:
    begun: list[int] = []

    async def job() -> None:
        begun.append(1)

    async def main() -> None:
        async with Background() as background:
            cancel = background.later(0.0, job, name="due")
            for _ in range(2):  # the timer is due, and its task has not begun
                await asyncio.sleep(0)
            assert any(task.get_name() == "due" for task in asyncio.all_tasks())
            cancel()
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert begun == []


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_no_group_is_put_around_an_exit(sessions: SessionManager, durability: Durability) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        raise KeyboardInterrupt

    executor = AgentExecutor(agent, session_manager=sessions, durability=durability)
    with pytest.raises(KeyboardInterrupt):
        await executor.execute(ASKED)
    assert await is_free(sessions)


async def test_a_store_that_hangs_at_the_end_of_a_run_is_given_two_seconds_and_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hanging(Unhurried):
        def __getattr__(self, name: str) -> Any:
            return self._hang if name == "finish" else super().__getattr__(name)

        async def _hang(self, *args: Any, **options: Any) -> None:
            await anyio.sleep_forever()

    executor = shop(SessionManager(cast("SessionStore", Hanging())), DOWN, tools=[])
    assert (await executor.execute(ASKED)).error_type is ErrorType.PROVIDER
    assert "its session stays held until the lease ends: the store took too long" in caplog.text
