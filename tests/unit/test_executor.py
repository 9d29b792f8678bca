import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentFailed,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    InvalidInput,
    LayerKind,
    Limits,
    MemorySessionStore,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    PermissionDenied,
    Principal,
    ProviderUnavailable,
    RateLimited,
    RunCancelled,
    RunStatus,
    RuntimeClosed,
    RunTimeout,
    Secret,
    SessionManager,
    Stage,
    StreamEvent,
    TextDelta,
    Usage,
    model_middleware,
    reaches,
)
from agent_runtime.testing import ScriptedLLMClient

ASKED = AgentContext(user_id="ann", current_task="hello")


async def answers(context: AgentContext) -> str:
    return f"{context.current_task}, {context.user_id}"


async def never(context: AgentContext) -> str:
    await anyio.sleep_forever()
    return "never"


async def yields(context: AgentContext) -> AsyncGenerator[str]:
    yield context.current_task


class Named:
    name = "helper"

    async def run(self, context: AgentContext) -> AgentResult:
        return AgentResult(output=context.agent_id)


async def test_a_function_and_an_object_with_run_are_agents() -> None:
    assert (await AgentExecutor(answers).execute(ASKED)).output == "hello, ann"
    assert (await AgentExecutor(Named()).execute(ASKED)).output == "helper"


def test_an_agent_without_a_name_is_called_by_its_class() -> None:
    class Nameless:
        async def run(self, context: AgentContext) -> str:
            return ""

    assert AgentExecutor(Nameless()).agent_id == "Nameless"
    assert AgentExecutor(answers).agent_id == "answers"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ConfigurationError, "no agent and no llm_client"),
        ({"llm_client": ScriptedLLMClient([])}, ConfigurationError, "needs config="),
        ({"agent": answers, "llm_client": ScriptedLLMClient([])}, ConfigurationError, "not both"),
        ({"agent": object()}, TypeError, "is no agent"),
        ({"agent": Named}, TypeError, r"Named is a class; give an instance: Named\(\.\.\.\)"),
        ({"agent": yields}, TypeError, "agent 'yields' is an async generator; an agent returns its answer"),
        ({"agent": answers, "middleware": [object()]}, TypeError, "is no layer"),
    ],
)
def test_an_executor_that_is_put_together_wrongly_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        AgentExecutor(**arguments)


class Retrying(BaseMiddleware):
    kind = LayerKind.RETRY


class Caching(BaseMiddleware):
    kind = LayerKind.CACHE

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


class Authenticating(BaseMiddleware):
    kind = LayerKind.AUTH

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        context.run.authenticated(Principal(subject="ann"))
        return await call_next(context.replace(user_id="ann"))


class RetryingModel(Retrying):
    async def process_model(self, request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        return await call_next(request)


def test_retries_that_are_set_twice_are_refused() -> None:
    client = ScriptedLLMClient([])
    AgentExecutor(config=AgentConfig(name="a"), llm_client=client, middleware=[RetryingModel()])
    with pytest.raises(ConfigurationError, match="retries are set twice"):
        AgentExecutor(config=AgentConfig(name="a", retry_attempts=2), llm_client=client, middleware=[RetryingModel()])


def test_strict_refuses_what_lint_calls_an_error() -> None:
    layers = [Caching(), Authenticating()]
    assert [finding.code for finding in AgentExecutor(answers, middleware=layers).lint()] == ["AR001"]
    with pytest.raises(ConfigurationError, match="AR001"):
        AgentExecutor(answers, middleware=layers, strict=True)


def test_a_model_layer_around_an_agent_that_calls_no_model_is_always_refused() -> None:
    @reaches(Stage.MODEL)
    async def asks(context: AgentContext) -> str:
        return ""

    assert AgentExecutor(asks, middleware=[RetryingModel()]).lint() == []
    with pytest.raises(ConfigurationError, match="AR010"):
        AgentExecutor(answers, middleware=[RetryingModel()])


async def test_an_executor_with_an_agent_id_runs_no_other() -> None:
    executor = AgentExecutor(answers, agent_id="support")
    assert (await executor.execute(ASKED)).success
    assert (await executor.execute(ASKED.replace(agent_id="support"))).success
    refused = await executor.execute(ASKED.replace(agent_id="sales"))
    assert (refused.error_type, refused.error_details) == (ErrorType.VALIDATION, {"field": "agent_id"})


async def test_a_run_without_a_user_is_refused_unless_a_layer_will_say_who_it_is() -> None:
    anonymous = ASKED.replace(user_id="")
    assert (await AgentExecutor(answers).execute(anonymous)).error_details == {"field": "user_id"}
    assert (await AgentExecutor(answers, middleware=[Authenticating()]).execute(anonymous)).output == "hello, ann"


async def test_an_auth_layer_that_says_nobody_is_no_way_in() -> None:
    class Forgetful(BaseMiddleware):
        kind = LayerKind.AUTH

        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    result = await AgentExecutor(answers, middleware=[Forgetful()]).execute(ASKED.replace(user_id=""))
    assert (result.success, result.error_details) == (False, {"field": "user_id"})


async def test_a_principal_of_the_host_sets_user_and_tenant() -> None:
    async def owner(context: AgentContext) -> str:
        return f"{context.owner.tenant_id}/{context.owner.user_id}"

    principal = Principal(subject="ann", tenant="acme")
    executor = AgentExecutor(owner)
    assert (await executor.execute(ASKED.replace(user_id=""), principal=principal)).output == "acme/ann"
    for other in (ASKED.replace(user_id="bob"), ASKED.replace(tenant_id="evil")):
        assert (await executor.execute(other, principal=principal)).error_type == ErrorType.AUTHORIZATION


async def test_a_layer_cannot_turn_a_known_principal_into_another_user() -> None:
    async def impersonates(context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context.replace(user_id="root"))

    result = await AgentExecutor(answers, middleware=[impersonates]).execute(ASKED, principal=Principal(subject="ann"))
    assert isinstance(result.exception, PermissionDenied)


async def test_a_second_principal_in_one_run_is_refused() -> None:
    result = await AgentExecutor(answers, middleware=[Authenticating()]).execute(
        ASKED, principal=Principal(subject="ann")
    )
    assert result.error_type == ErrorType.CONFIGURATION


async def test_a_failure_comes_back_or_is_raised_and_a_bug_is_always_raised() -> None:
    failure = RateLimited("slow down", retry_after=3, details={"limit": 5})

    async def fails(context: AgentContext) -> str:
        raise failure

    executor = AgentExecutor(fails)
    result = await executor.execute(ASKED)
    assert (result.success, result.error, result.error_type) == (False, "slow down", ErrorType.RATE_LIMIT)
    assert (result.retryable, result.retry_after, result.error_details) == (True, 3, {"limit": 5})
    assert result.exception is failure
    with pytest.raises(RateLimited) as caught:
        await executor.execute(ASKED, raise_on_error=True)
    assert caught.value is failure

    async def has_a_bug(context: AgentContext) -> str:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        await AgentExecutor(has_a_bug).execute(ASKED)


async def test_an_agent_that_answers_with_failure_fails_and_what_it_spent_counts() -> None:
    async def gives_up(context: AgentContext) -> AgentResult:
        return AgentResult(success=False, output="half", usage=Usage(output_tokens=7))

    result = await AgentExecutor(gives_up).execute(ASKED)
    assert (result.success, result.output, result.error_type) == (False, "half", ErrorType.AGENT)
    assert result.error == "the agent failed without saying why"
    assert result.usage == Usage(output_tokens=7)
    with pytest.raises(AgentFailed):
        result.unwrap()


async def test_a_layer_that_answers_with_failure_fails_the_run() -> None:
    async def refuses(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(success=False, error_type=ErrorType.LIMIT)

    result = await AgentExecutor(answers, middleware=[refuses]).execute(ASKED)
    assert (result.error, result.error_type) == ("a layer answered with success=False", ErrorType.LIMIT)
    assert result.served_by == "layer"


@pytest.mark.parametrize("answer", [None, 5, b"text"])
async def test_an_agent_that_returns_neither_text_nor_a_result_is_a_type_error(answer: Any) -> None:
    async def agent(context: AgentContext) -> Any:
        return answer

    with pytest.raises(TypeError, match="must return AgentResult or str"):
        await AgentExecutor(agent).execute(ASKED)


async def test_an_agent_that_is_not_async_is_a_type_error() -> None:
    def agent(context: AgentContext) -> Any:
        return "hello"

    with pytest.raises(TypeError, match="the agent is not async, it returned str; make it an `async def`"):
        await AgentExecutor(agent).execute(ASKED)


async def test_what_is_no_context_is_a_type_error() -> None:
    question: Any = "hello"
    with pytest.raises(TypeError, match=r"a run takes an AgentContext\(user_id=\.\.\., current_task=\.\.\.\), not str"):
        await AgentExecutor(answers).execute(question)


async def test_what_is_no_resume_is_a_type_error() -> None:
    yes: Any = "yes"
    with pytest.raises(TypeError, match=r"resume= takes a Resume\(\.\.\.\), not str"):
        await AgentExecutor(answers).execute(ASKED, resume=yes)


async def test_a_layer_that_returns_something_else_is_a_type_error() -> None:
    async def layer(context: AgentContext, call_next: CallNext) -> Any:
        await call_next(context)
        return "text"

    with pytest.raises(TypeError, match="the outermost layer returned str"):
        await AgentExecutor(answers, middleware=[layer]).execute(ASKED)


async def test_one_failure_in_a_task_group_of_a_layer_or_of_the_agent_keeps_its_type() -> None:
    async def beside(context: AgentContext, call_next: CallNext) -> AgentResult:
        results: list[AgentResult] = []
        async with anyio.create_task_group():
            results.append(await call_next(context))
        return results[0]

    cause = OSError("reset")

    async def agent(context: AgentContext) -> str:
        async with anyio.create_task_group():
            raise ProviderUnavailable("down") from cause
        return "never"

    result = await AgentExecutor(agent, middleware=[beside]).execute(ASKED)
    assert isinstance(result.exception, ProviderUnavailable) and result.exception.__cause__ is cause


async def test_several_failures_at_once_stay_a_group() -> None:
    async def agent(context: AgentContext) -> str:
        raise ExceptionGroup("two", [ExceptionGroup("one", [KeyError("a")]), ValueError("b")])

    with pytest.raises(ExceptionGroup) as caught:
        await AgentExecutor(agent).execute(ASKED)
    assert len(caught.value.exceptions) == 2


async def test_a_run_past_its_deadline_times_out_and_the_contexts_own_deadline_counts_too() -> None:
    late = await AgentExecutor(never, limits=Limits(run=0.1)).execute(ASKED)
    assert isinstance(late.exception, RunTimeout) and late.error_type == ErrorType.TIMEOUT
    own = await AgentExecutor(never).execute(ASKED.replace(deadline=anyio.current_time() + 0.02))
    assert isinstance(own.exception, RunTimeout)
    assert 0.02 <= own.error_details["limit"] < 1


@pytest.mark.parametrize("before", [3_600.0, float("inf")])
async def test_a_run_whose_deadline_is_over_had_no_time(before: float) -> None:
    async def agent(context: AgentContext) -> str:
        await anyio.sleep(60)
        return "late"

    result = await AgentExecutor(agent).execute(ASKED.replace(deadline=anyio.current_time() - before))
    assert result.error_type is ErrorType.TIMEOUT and result.error_details["limit"] == 0
    assert "took longer than 0 s" in str(result.error)


async def test_a_deadline_that_is_no_number_is_none() -> None:
    result = await AgentExecutor(never, limits=Limits(run=0.1)).execute(ASKED.replace(deadline=float("nan")))
    assert isinstance(result.exception, RunTimeout)


async def test_a_timeout_of_the_config_stands_for_the_limit() -> None:
    client = ScriptedLLMClient([lambda request: ""])
    executor = AgentExecutor(
        config=AgentConfig(name="slow", timeout=0.02), llm_client=client, middleware=[waits_for_ever]
    )
    assert isinstance((await executor.execute(ASKED)).exception, RunTimeout)


async def waits_for_ever(context: AgentContext, call_next: CallNext) -> AgentResult:
    await anyio.sleep_forever()
    return await call_next(context)


async def test_cancel_ends_one_run_by_its_id() -> None:
    executor = AgentExecutor(never)
    results: list[AgentResult] = []

    async def run() -> None:
        results.append(await executor.execute(ASKED))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        for run_id, cell in executor.runs.items():
            assert (cell.status, repr(cell)) == (RunStatus.RUNNING, f"Run({run_id!r}, running)")
        assert [executor.cancel(run_id) for run_id in executor.runs] == [True]
    [result] = results
    assert isinstance(result.exception, RunCancelled)
    assert executor.cancel(result.run_id) is False


async def test_an_error_during_the_cancellation_is_its_cause() -> None:
    async def translates(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            raise ProviderUnavailable("broke off") from None

    result = await AgentExecutor(never, middleware=[translates], limits=Limits(run=0.1)).execute(ASKED)
    assert isinstance(result.exception, RunTimeout) and isinstance(result.exception.__cause__, ProviderUnavailable)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_whose_cancellation_a_layer_swallows_ends_cancelled() -> None:
    async def swallows(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except asyncio.CancelledError:
            return AgentResult(output="swallowed")

    task = asyncio.create_task(AgentExecutor(never, middleware=[swallows]).execute(ASKED))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Resource(BaseMiddleware):
    def __init__(self, told: list[str]) -> None:
        self.told = told

    async def __aenter__(self) -> "Resource":
        self.told.append("opened")
        return self

    async def __aexit__(self, *error: object) -> None:
        self.told.append("closed")

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.told.append("used")
        return await call_next(context)


async def test_a_layer_with_resources_needs_the_lifespan_which_opens_it_once() -> None:
    told: list[str] = []
    layer = Resource(told)
    executor = AgentExecutor(answers, middleware=MiddlewarePipeline([layer]))
    assert (await executor.execute(ASKED)).error_type == ErrorType.CONFIGURATION
    async with executor, executor:
        assert (await executor.execute(ASKED)).success
    assert told == ["opened", "used", "closed"]
    after = await executor.execute(ASKED)
    assert isinstance(after.exception, RuntimeClosed) and told[-1] == "closed"


async def test_what_fails_to_open_leaves_the_executor_as_it_was() -> None:
    class Broken(Resource):
        async def __aenter__(self) -> "Resource":
            if not self.told:
                self.told.append("failed")
                raise ProviderUnavailable("not yet")
            return await super().__aenter__()

    told: list[str] = []
    executor = AgentExecutor(answers, middleware=[Broken(told)])
    with pytest.raises(ProviderUnavailable):
        async with executor:
            pass
    async with executor:
        assert (await executor.execute(ASKED)).success
    assert told == ["failed", "opened", "used", "closed"]


async def test_closing_drains_for_the_grace_period_and_then_cancels() -> None:
    results: list[AgentResult] = []
    started = anyio.Event()

    async def slow(context: AgentContext) -> str:
        started.set()
        await anyio.sleep(0.05)
        return "in time"

    async def run(executor: AgentExecutor) -> None:
        results.append(await executor.execute(ASKED))

    patient = AgentExecutor(slow, shutdown_grace=5)
    hasty = AgentExecutor(never, shutdown_grace=0.02)
    with anyio.fail_after(2):
        async with anyio.create_task_group() as group:
            group.start_soon(run, patient)
            group.start_soon(run, hasty)
            await started.wait()
            # Twice at once: each of the two waits for the same end.
            for close in (patient.aclose, patient.aclose, hasty.aclose, hasty.aclose):
                group.start_soon(close)
    assert {result.output or result.error_type for result in results} == {"in time", ErrorType.CANCELLED}
    await patient.aclose()


async def test_a_bus_that_is_closed_too_early_does_not_fail_the_run() -> None:
    async def closes(context: AgentContext) -> str:
        await bus.aclose()
        return "done"

    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, lambda event: None)
        assert (await AgentExecutor(closes, event_bus=bus).execute(ASKED)).output == "done"


def test_run_sync_has_a_loop_and_a_lifespan_of_its_own() -> None:
    told: list[str] = []
    executor = AgentExecutor(answers, middleware=[Resource(told)])
    for _ in range(2):
        assert executor.run_sync(ASKED).output == "hello, ann"
    assert told == ["opened", "used", "closed"] * 2
    with pytest.raises(InvalidInput):
        executor.run_sync(ASKED.replace(current_task=""), raise_on_error=True)


async def test_run_sync_is_refused_inside_a_loop() -> None:
    with pytest.raises(RuntimeError, match=r"await executor\.execute"):
        AgentExecutor(answers).run_sync(ASKED)


async def test_a_pipeline_may_change_between_runs_and_a_run_keeps_what_it_started_with() -> None:
    seen: list[str] = []

    async def outer(context: AgentContext, call_next: CallNext) -> AgentResult:
        seen.append("outer")
        if seen == ["outer"]:
            pipeline.add(inner)
        return await call_next(context)

    async def inner(context: AgentContext, call_next: CallNext) -> AgentResult:
        seen.append("inner")
        return await call_next(context)

    pipeline = MiddlewarePipeline([outer])
    executor = AgentExecutor(answers, middleware=pipeline)
    await executor.execute(ASKED)
    assert seen == ["outer"]
    await executor.execute(ASKED)
    assert seen == ["outer", "outer", "inner"]


async def test_explain_names_the_agent_and_the_stages_that_it_reaches() -> None:
    @model_middleware
    async def watching(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    config = AgentConfig(name="teller")
    told = AgentExecutor(config=config, llm_client=ScriptedLLMClient([]), middleware=[watching]).explain()
    assert told.startswith("agent teller\nrun stage\n") and "watching (other)" in told
    assert "tool stage" not in told


async def test_an_agent_that_runs_twice_counts_as_two_attempts() -> None:
    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    result = await AgentExecutor(answers, middleware=[twice]).execute(ASKED)
    assert (result.attempts, result.served_by) == (2, "agent")


async def test_the_history_of_a_session_begins_with_a_whole_turn() -> None:
    async def recalls(context: AgentContext) -> str:
        return " ".join(message.content for message in context.messages)

    sessions = SessionManager(MemorySessionStore())
    executor = AgentExecutor(recalls, session_manager=sessions, limits=Limits(history_messages=3))
    outputs = [
        (await executor.execute(ASKED.replace(session_id="s", current_task=task))).output for task in ("1", "2", "3")
    ]
    assert outputs == ["", "1 ", "2 1 "]  # the window of three begins with the answer to "1"


async def test_nothing_can_be_called_or_emitted_after_the_end() -> None:
    kept: list[tuple[AgentContext, CallNext]] = []

    async def keeps(context: AgentContext, call_next: CallNext) -> AgentResult:
        kept.append((context, call_next))
        return await call_next(context)

    sent: list[StreamEvent] = []

    async def send(event: StreamEvent) -> None:
        sent.append(event)

    executor = AgentExecutor(answers, middleware=[keeps])
    await executor.execute(ASKED)
    await executor.execute(ASKED, emit=send)
    told = len(sent)
    for context, call_next in kept:
        with pytest.raises(RuntimeClosed, match="has ended"):
            await call_next(context)
    await kept[0][0].emit(TextDelta(text="into nothing"))
    with pytest.raises(RuntimeClosed, match="the run has ended"):
        await kept[1][0].emit(TextDelta(text="too late"))
    assert len(sent) == told


async def test_a_credential_never_reaches_the_agent() -> None:
    async def looks(context: AgentContext) -> str:
        return repr(context.credential)

    presented = AgentContext(current_task="x", credential=Secret("sk-1"))
    result = await AgentExecutor(looks).execute(presented, principal=Principal(subject="ann"))
    assert result.output == "None"


async def test_a_credential_that_nobody_would_check_is_refused() -> None:
    result = await AgentExecutor(never).execute(ASKED.replace(credential=Secret("sk-1")))
    assert isinstance(result.exception, ConfigurationError) and "Auth layer" in str(result.error)


async def test_a_layer_added_later_is_checked_like_the_others() -> None:
    @model_middleware
    async def unreached(
        request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:  # the agent below calls no model
        return await call_next(request)

    async def agent(context: AgentContext) -> str:
        return "ok"

    pipeline = MiddlewarePipeline()
    executor = AgentExecutor(agent, middleware=pipeline)
    assert (await executor.execute(ASKED)).output == "ok"
    pipeline.add(unreached)
    with pytest.raises(ConfigurationError, match="AR010"):
        await executor.execute(ASKED)
    pipeline.remove("unreached")
    assert (await executor.execute(ASKED)).output == "ok"


async def test_a_layer_with_resources_cannot_be_added_to_an_open_executor() -> None:
    class Holds(BaseMiddleware):
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *error: object) -> None:
            pass

        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    async def agent(context: AgentContext) -> str:
        return "ok"

    pipeline = MiddlewarePipeline([Holds().named("first")])
    async with AgentExecutor(agent, middleware=pipeline) as executor:
        pipeline.add(waits_for_ever)
        pipeline.remove("waits_for_ever")
        assert (await executor.execute(ASKED)).output == "ok"
        pipeline.add(Holds())
        with pytest.raises(ConfigurationError, match="open executor"):
            await executor.execute(ASKED)
