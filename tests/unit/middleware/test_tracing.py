"""TracingMiddleware: the tree of spans, whole, for each way in which a run can go, and what is in them."""

import contextvars
import logging
import re
from collections.abc import Callable, Generator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from time import perf_counter
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from tests.spans import Recorder, attributes, parent, told, trace_id

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    LLMClient,
    MemorySessionStore,
    ModelRequest,
    ModelResponse,
    PermissionDenied,
    Principal,
    ProviderUnavailable,
    Resume,
    SessionManager,
    Stage,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolFailed,
    ToolResult,
    Usage,
    model_middleware,
    reaches,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.telemetry import TracingMiddleware, names, tracing

CANARY = "canary-4711"
ASKED = AgentContext(user_id="ann", current_task="How much is the lamp?")
LOOK_UP = ScriptedReply(
    tool_calls=(("price", {"item": "lamp"}),), usage=Usage(input_tokens=5, output_tokens=2), model="gpt-x-1"
)
ANSWER = ScriptedReply(chunks=("It ", "is 3."), usage=Usage(input_tokens=9, output_tokens=4), model="gpt-x-1")
PLAIN = """\
invoke_agent shop
  chat gpt-x
  execute_tool price
  chat gpt-x"""


@tool(kind="pure")
def price(item: str) -> str:
    return "3"


@pytest.fixture
def recorder(caplog: pytest.LogCaptureFixture) -> Generator[Recorder]:
    yield Recorder()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


def shop(
    recorder: Recorder,
    *script: ScriptedReply | Exception,
    inside: tuple[Layer, ...] = (),
    outside: tuple[Layer, ...] = (),
    tools: tuple[Any, ...] = (price,),
    client: LLMClient | None = None,
    **options: Any,
) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="shop", model="gpt-x", temperature=0.2, system_prompt=CANARY, stop_sequences=("END",)),
        llm_client=client or ScriptedLLMClient(script or (LOOK_UP, ANSWER)),
        tools=tools,
        middleware=[*outside, TracingMiddleware(recorder.provider), *inside],
        **options,
    )


# Trees


async def test_a_run_is_one_trace_of_its_model_and_tool_calls(recorder: Recorder) -> None:
    result = await shop(recorder).execute(ASKED)
    assert recorder.tree == PLAIN
    assert {trace_id(span) for span in recorder.spans} == {result.trace_id}
    assert [span.kind.name for span in recorder.spans] == ["CLIENT", "INTERNAL", "CLIENT", "INTERNAL"]


async def test_a_streamed_run_has_the_same_tree_and_its_consumer_does_not_see_the_span(recorder: Recorder) -> None:
    seen: set[trace.Span] = set()
    async with shop(recorder) as executor:
        async with executor.stream(ASKED) as stream:
            async for _ in stream:
                seen.add(trace.get_current_span())
        seen.add(trace.get_current_span())
        assert recorder.tree == PLAIN
        assert stream.result.trace_id
    assert seen == {trace.INVALID_SPAN}


async def test_an_iterator_of_text_has_the_same_tree(recorder: Recorder) -> None:
    async with shop(recorder) as executor:
        async for _ in executor.execute_stream(ASKED):
            assert trace.get_current_span() is trace.INVALID_SPAN
    assert recorder.tree == PLAIN


async def test_after_a_run_the_hosts_span_is_current_again(recorder: Recorder) -> None:
    with recorder.provider.get_tracer("host").start_as_current_span("POST /chat") as host:
        await shop(recorder).execute(ASKED)
        assert trace.get_current_span() is host
    assert recorder.tree == "POST /chat\n" + "\n".join(f"  {line}" for line in PLAIN.splitlines())


async def test_a_trace_that_began_elsewhere_goes_on(recorder: Recorder) -> None:
    made = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    token = attach(trace.set_span_in_context(trace.NonRecordingSpan(made), Context()))
    try:
        result = await shop(recorder).execute(ASKED)
    finally:
        detach(token)
    assert result.trace_id == f"{0xABC:032x}"
    assert parent(recorder.named("invoke_agent shop")) == 0xDEF


async def test_a_stream_that_is_left_ends_every_span_once(recorder: Recorder) -> None:
    pieces = ScriptedReply(chunks=("a", "b", 60.0, "c"))
    async with shop(recorder, pieces) as executor, executor.stream(ASKED) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    assert recorder.tree == "invoke_agent shop !consumer_gone\n  chat gpt-x !consumer_gone"


async def test_a_sink_that_fails_ends_every_span_once(recorder: Recorder) -> None:
    async def send(event: object) -> None:
        if isinstance(event, TextDelta):
            raise OSError(CANARY)

    await shop(recorder, ANSWER).execute(ASKED, emit=send)
    assert recorder.tree == "invoke_agent shop !consumer_gone\n  chat gpt-x !consumer_gone"
    assert not any(CANARY in told(span) for span in recorder.spans)


def gives_up(scope: anyio.CancelScope) -> Callable[[ModelRequest], ScriptedReply]:
    def answer(request: ModelRequest) -> ScriptedReply:
        scope.cancel()
        return ScriptedReply(delay=60)

    return answer


async def test_a_cancelled_run_is_an_error_without_an_exception(recorder: Recorder) -> None:
    with anyio.CancelScope() as scope:
        await shop(recorder, client=ScriptedLLMClient([LOOK_UP, gives_up(scope)])).execute(ASKED)
    assert (
        recorder.tree
        == """\
invoke_agent shop !cancelled
  chat gpt-x
  execute_tool price
  chat gpt-x !cancelled"""
    )
    assert all(not span.events for span in recorder.spans)


async def test_a_run_that_its_executor_cancels(recorder: Recorder) -> None:
    def cancel(request: ModelRequest) -> ScriptedReply:
        assert executor.cancel(request.run.run_id)
        return ScriptedReply(delay=60)

    executor = shop(recorder, client=ScriptedLLMClient([cancel]))
    assert (await executor.execute(ASKED)).error_type is ErrorType.CANCELLED
    assert recorder.tree == "invoke_agent shop !cancelled\n  chat gpt-x !cancelled"


async def test_a_run_that_its_deadline_ends(recorder: Recorder) -> None:
    result = await shop(recorder, ScriptedReply(delay=60)).execute(ASKED.replace(deadline=anyio.current_time() + 0.3))
    assert result.error_type is ErrorType.TIMEOUT and result.trace_id
    assert recorder.tree == "invoke_agent shop !timeout\n  chat gpt-x !timeout"


class Waits:
    """Something to wait for that needs no event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@pytest.mark.parametrize("context", [None, contextvars.copy_context()], ids=["the same context", "another"])
def test_a_run_that_is_closed_outside_of_any_event_loop_ends_its_span(
    context: contextvars.Context | None, recorder: Recorder
) -> None:
    seen: list[AgentContext] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context)
        return "done"

    async def waits(context: AgentContext) -> AgentResult:
        await Waits()
        return AgentResult()

    anyio.run(AgentExecutor(agent, agent_id="a").execute, ASKED)
    run = TracingMiddleware(recorder.provider).process(seen[0], waits)
    if context is None:
        run.send(None)
    else:
        context.run(run.send, None)
    run.close()
    assert recorder.tree == "invoke_agent a !cancelled"
    assert trace.get_current_span() is trace.INVALID_SPAN


class Refuses(BaseMiddleware):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        raise self.error


async def test_a_refused_run_has_its_span_and_its_events_the_trace(recorder: Recorder) -> None:
    events: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        events.append(event)

    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, note)
        executor = shop(recorder, inside=(Refuses(PermissionDenied("not you")),), event_bus=bus)
        result = await executor.execute(ASKED)
        await bus.drain()
    assert recorder.tree == "invoke_agent shop !authorization"
    span = recorder.named("invoke_agent shop")
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "not you")
    assert result.trace_id is not None and [event.trace_id for event in events] == [result.trace_id]


async def test_a_suspended_run_is_no_failure_and_the_next_says_what_it_goes_on_with(recorder: Recorder) -> None:
    @tool(kind="idempotent")
    async def ask(call: ToolCall) -> str:
        return str(await call.context.ask("Really?", key="really"))

    asks = ScriptedReply(tool_calls=(("ask", {}),))
    sessions = SessionManager(MemorySessionStore())
    executor = shop(recorder, asks, ANSWER, tools=(ask,), session_manager=sessions)
    first = await executor.execute(ASKED.replace(session_id="s1"))
    assert recorder.tree == "invoke_agent shop suspended\n  chat gpt-x\n  execute_tool ask suspended"
    await executor.execute(ASKED.replace(session_id="s1"), resume=Resume(answers={"really": "yes"}))
    assert recorder.trees[1] == "invoke_agent shop\n  execute_tool ask\n  chat gpt-x"
    last = attributes(recorder.spans[-1])
    assert (last[names.RESUMED_FROM], last[names.GEN_AI_CONVERSATION_ID]) == (first.run_id, "s1")


DOWN = ProviderUnavailable("down")


async def test_inside_a_retry_each_attempt_has_a_span(recorder: Recorder) -> None:
    await shop(recorder, DOWN, DOWN, ANSWER, outside=(RetryMiddleware(delay=0),)).execute(ASKED)
    assert (
        recorder.tree
        == """\
invoke_agent shop 3 attempts
  chat gpt-x !provider
  chat gpt-x !provider attempt 2
  chat gpt-x attempt 3"""
    )


async def test_outside_a_retry_one_span_says_how_many_attempts_there_were(recorder: Recorder) -> None:
    await shop(recorder, DOWN, DOWN, ANSWER, inside=(RetryMiddleware(delay=0),)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop 3 attempts\n  chat gpt-x 3 attempts"


async def test_a_run_that_a_layer_repeats_has_a_span_for_each_time(recorder: Recorder) -> None:
    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        with suppress(ProviderUnavailable):
            await call_next(context)
        return await call_next(context)

    failing = AgentConfig(name="shop", model="gpt-x", retry_attempts=1)
    executor = AgentExecutor(
        config=failing,
        llm_client=ScriptedLLMClient([DOWN, ANSWER]),
        middleware=[twice, TracingMiddleware(recorder.provider)],
    )
    await executor.execute(ASKED)
    assert recorder.trees == [
        "invoke_agent shop !provider\n  chat gpt-x !provider",
        "invoke_agent shop 2 attempts\n  chat gpt-x",
    ]


async def test_a_layer_that_answers_itself_is_marked(recorder: Recorder) -> None:
    async def answers(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(output="closed")

    await shop(recorder, inside=(answers,)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop by layer"


async def test_a_layer_that_answers_with_a_failure_is_an_error(recorder: Recorder) -> None:
    async def answers(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(success=False, error="full", error_type=ErrorType.LIMIT)

    await shop(recorder, inside=(answers,)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop !limit by layer"
    assert recorder.spans[0].status.description == "full"


async def test_half_a_character_in_a_failure_breaks_no_exporter(recorder: Recorder) -> None:
    async def answers(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(success=False, error="half \ud83d")

    await shop(recorder, inside=(answers,)).execute(ASKED)
    await shop(recorder, ToolFailed("half \ud83d")).execute(ASKED)
    assert {span.status.description for span in recorder.spans} == {"half �"}


async def test_an_answer_that_was_kept_is_marked(recorder: Recorder) -> None:
    @model_middleware
    async def keeps(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return ModelResponse.of("kept", cached=True)

    await shop(recorder, inside=(keeps,)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop by cache\n  chat gpt-x cached"


async def test_a_run_inside_a_tool_is_part_of_the_tool(recorder: Recorder) -> None:
    inner = shop(recorder, LOOK_UP, ANSWER, LOOK_UP, ANSWER)

    @tool
    async def delegate(call: ToolCall) -> str:
        context = call.context
        return (await inner.execute(context.child("shop", "sub"), principal=context.run.principal)).output

    asks = ScriptedReply(tool_calls=(("delegate", {}), ("delegate", {})))
    outer = shop(recorder, asks, ANSWER, tools=(delegate,))
    result = await outer.execute(ASKED)
    lines = recorder.tree.splitlines()
    assert lines[:2] == ["invoke_agent shop", "  chat gpt-x"] and lines[-1] == "  chat gpt-x"
    assert [line for line in lines if not line.startswith("    ")] == [
        "invoke_agent shop",
        "  chat gpt-x",
        "  execute_tool delegate",
        "  execute_tool delegate",
        "  chat gpt-x",
    ]
    assert lines[3] == "    invoke_agent shop" and lines.count("    invoke_agent shop") == 2
    inside = [span for span in recorder.spans if attributes(span).get(names.PARENT_RUN_ID)]
    assert {attributes(span)[names.PARENT_RUN_ID] for span in inside} == {result.run_id} and len(inside) == 2


async def test_spans_of_users_and_of_instrumented_libraries_stand_where_they_were_made(recorder: Recorder) -> None:
    own = recorder.provider.get_tracer("own")

    @tool
    def stock() -> str:
        with own.start_as_current_span("SELECT"):  # in a worker thread
            return "7"

    class Posts:
        async def complete(self, request: ModelRequest, /) -> ModelResponse:
            with own.start_as_current_span("POST"):
                return ModelResponse.of("It is 3.", model="m")

    @reaches(Stage.MODEL, Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        with own.start_as_current_span("plan"):
            await context.call_tool(ToolCall(id="1", name="stock"), stock)
        return (await context.call_model(ModelRequest(messages=()), Posts())).text

    await AgentExecutor(agent, agent_id="a", middleware=[TracingMiddleware(recorder.provider)]).execute(ASKED)
    assert (
        recorder.tree
        == """\
invoke_agent a
  plan
    execute_tool stock
      SELECT
  chat
    POST"""
    )


async def test_an_agent_that_works_in_another_task_keeps_its_tree(recorder: Recorder) -> None:
    async with anyio.create_task_group() as group:
        send, receive = anyio.create_memory_object_stream[tuple[Callable[[], Any], anyio.Event]](1)

        async def worker() -> None:
            async with receive:
                async for function, done in receive:
                    await function()
                    done.set()

        @reaches(Stage.MODEL, Stage.TOOL)
        async def agent(context: AgentContext) -> str:
            async def work() -> None:
                await context.call_tool(ToolCall(id="1", name="price", arguments={"item": "x"}), price)
                await context.call_model(ModelRequest(messages=()), ScriptedLLMClient([ANSWER]))

            done = anyio.Event()
            await send.send((work, done))
            await done.wait()
            return "done"

        executor = AgentExecutor(agent, agent_id="a", middleware=[TracingMiddleware(recorder.provider)])
        with recorder.provider.get_tracer("host").start_as_current_span("host"):
            group.start_soon(worker)  # in the same trace, and of no run
            await executor.execute(ASKED)
            await executor.execute(ASKED)
        send.close()
    one = "  invoke_agent a\n    execute_tool price\n    chat"
    assert recorder.tree == f"host\n{one}\n{one}"


async def test_a_call_from_inside_another_run_is_part_of_its_own(recorder: Recorder) -> None:
    outer_context: list[AgentContext] = []

    async def work(context: AgentContext) -> str:
        request = ModelRequest(messages=())
        await outer_context[0].call_model(request, ScriptedLLMClient([ANSWER]))  # the outer run's own
        return "done"

    inner = AgentExecutor(work, agent_id="inner", middleware=[TracingMiddleware(recorder.provider)])

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        outer_context.append(context)
        return (await inner.execute(context.child("inner", "sub"))).output

    await AgentExecutor(agent, agent_id="a", middleware=[TracingMiddleware(recorder.provider)]).execute(ASKED)
    assert recorder.tree == "invoke_agent a\n  invoke_agent inner\n  chat"


async def test_a_thousand_runs_at_once_are_a_thousand_traces(recorder: Recorder) -> None:
    client = ScriptedLLMClient([lambda request: LOOK_UP if request.step == 0 else ANSWER], repeat=True, yields=True)
    executor = shop(recorder, client=client)
    results = await executor.execute_batch([ASKED] * 1_000, max_concurrency=1_000)
    assert set(recorder.trees) == {PLAIN} and len(recorder.trees) == 1_000
    assert len({result.trace_id for result in results}) == 1_000


async def test_two_tracing_layers_nest(recorder: Recorder) -> None:
    await shop(recorder, ANSWER, inside=(TracingMiddleware(recorder.provider).named("inner"),)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop\n  invoke_agent shop\n    chat gpt-x\n      chat gpt-x"


async def test_a_tracing_layer_inside_whose_sdk_fails_leaves_the_run_its_trace(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError(CANARY)

    def gives(name: str) -> trace.Tracer:
        return tracer

    broken = Recorder().provider
    tracer = broken.get_tracer("")
    monkeypatch.setattr(tracer, "start_span", fails)
    monkeypatch.setattr(broken, "get_tracer", gives)
    result = await shop(recorder, ANSWER, inside=(TracingMiddleware(broken).named("inner"),)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop\n  chat gpt-x"
    assert result.trace_id == trace_id(recorder.spans[0])


# What is in them


async def test_the_attributes_of_a_run(recorder: Recorder) -> None:
    result = await shop(recorder).execute(ASKED, principal=Principal(subject="ann", tenant="acme"))
    assert attributes(recorder.named("invoke_agent shop")) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "shop",
        "gen_ai.agent.id": "shop",
        "gen_ai.usage.input_tokens": 14,
        "gen_ai.usage.output_tokens": 6,
        "enduser.id": "ann",
        "agent_runtime.tenant_id": "acme",
        "agent_runtime.run_id": result.run_id,
        "agent_runtime.attempts": 1,
        "agent_runtime.served_by": "agent",
        "agent_runtime.outcome": "success",
    }


async def test_a_client_may_say_whose_model_it_asks(recorder: Recorder) -> None:
    class Client(ScriptedLLMClient):
        model, provider = "gpt-y", "openai"

    config, layer = AgentConfig(name="shop"), TracingMiddleware(recorder.provider)
    await AgentExecutor(config=config, llm_client=Client(["hi"]), middleware=[layer]).execute(ASKED)
    told = attributes(recorder.named("chat gpt-y"))
    assert (told["gen_ai.request.model"], told["gen_ai.provider.name"]) == ("gpt-y", "openai")


async def test_the_attributes_of_a_model_call(recorder: Recorder) -> None:
    usage = Usage(input_tokens=9, output_tokens=4, cached_tokens=5, reasoning_tokens=1)
    await shop(recorder, ScriptedReply(text="hi", usage=usage, model="gpt-x-1")).execute(ASKED)
    assert attributes(recorder.named("chat gpt-x")) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "gpt-x-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "agent_runtime.step": 0,
        "agent_runtime.attempt": 1,
        "agent_runtime.cached": False,
        "agent_runtime.outcome": "success",
    }


async def test_the_attributes_of_a_tool_call(recorder: Recorder) -> None:
    await shop(recorder).execute(ASKED)
    assert attributes(recorder.named("execute_tool price")) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "price",
        "gen_ai.tool.call.id": "call_1_0",
        "gen_ai.tool.type": "function",
        "agent_runtime.outcome": "success",
    }


async def test_parameters_of_other_types_and_a_model_without_a_name_are_left_out(recorder: Recorder) -> None:
    parameters = {"model": 7, "temperature": "hot", "stop": "END"}

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        client = ScriptedLLMClient([ModelResponse.of("hi")])
        return (await context.call_model(ModelRequest(messages=(), parameters=parameters), client)).text

    await AgentExecutor(agent, agent_id="a", middleware=[TracingMiddleware(recorder.provider)]).execute(ASKED)
    assert not {"model", "temperature", "stop_sequences"} & {
        name.rpartition(".")[2] for name in attributes(recorder.named("chat"))
    }


async def test_a_failed_tool_is_an_error_whose_words_are_not_told(recorder: Recorder) -> None:
    @tool
    def price(item: str) -> ToolResult:
        return ToolResult(content=CANARY, is_error=True)

    await shop(recorder, tools=(price,)).execute(ASKED)
    assert recorder.tree == PLAIN.replace("price", "price !tool")
    assert not any(CANARY in told(span) for span in recorder.spans)


async def test_a_failure_of_ours_is_told_in_its_words(recorder: Recorder) -> None:
    @tool
    def price(item: str) -> str:
        raise ToolFailed("sold out")

    await shop(recorder, tools=(price,)).execute(ASKED)
    span = recorder.named("execute_tool price")
    [event] = span.events
    assert attributes(event) == {
        "exception.type": "agent_runtime.errors.ToolFailed",
        "exception.message": "sold out",
    }
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "sold out")


async def test_of_a_foreign_exception_only_the_type_is_told(recorder: Recorder) -> None:
    with pytest.raises(KeyError):
        await shop(recorder, KeyError(CANARY)).execute(ASKED)
    assert recorder.tree == "invoke_agent shop !internal\n  chat gpt-x !internal"
    for span in recorder.spans:
        assert CANARY not in told(span)
        assert span.status.description == "internal error (KeyError)"
        assert attributes(span.events[0])["exception.type"] == "builtins.KeyError"


async def test_names_from_outside_are_short_and_valid_unicode(recorder: Recorder) -> None:
    wild = "x" * 1_000
    call = ToolCall(id="\ud800", name=wild)

    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        return (await context.call_tool(call, price_of)).content

    async def price_of(call: ToolCall) -> ToolResult:
        return ToolResult(content="3")

    await AgentExecutor(agent, agent_id="a", middleware=[TracingMiddleware(recorder.provider)]).execute(ASKED)
    span = recorder.named(f"execute_tool {'x' * 255}")
    assert attributes(span)["gen_ai.tool.call.id"] == "?"


async def test_content_is_told_where_asked_for_and_cut(recorder: Recorder) -> None:
    layer = TracingMiddleware(recorder.provider, content=True, max_content=37)
    executor = AgentExecutor(
        config=AgentConfig(name="shop", model="gpt-x", system_prompt="s" * 100),
        llm_client=ScriptedLLMClient([LOOK_UP, ANSWER]),
        tools=[price],
        middleware=[layer],
    )
    await executor.execute(ASKED)
    first, call, second, run = [attributes(span) for span in recorder.spans]
    asked = '{"role": "user", "parts": [{"type": "text", "content": "How much is the lamp?"}]}'
    system = '{"role": "system", "parts": [{"type": "text", "content": "ssssssssssssssss"}]}'
    wants = '{"type": "tool_call", "id": "call_1_0", "name": "price", "arguments": "{\\"item\\":\\"lamp\\"}"}'
    gives = '{"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1_0", "response": "3"}]}'
    answer = '[{"role": "assistant", "parts": [{"type": "text", "content": "It is 3."}]}]'
    assert run["gen_ai.input.messages"] == f"[{asked}]"
    assert run["gen_ai.output.messages"] == second["gen_ai.output.messages"] == answer
    assert first["gen_ai.input.messages"] == f"[{system}, {asked}]"
    assert first["gen_ai.output.messages"] == f'[{{"role": "assistant", "parts": [{wants}]}}]'
    assert second["gen_ai.input.messages"] == f'[{asked}, {{"role": "assistant", "parts": [{wants}]}}, {gives}]'
    assert (call["gen_ai.tool.call.arguments"], call["gen_ai.tool.call.result"]) == ('{"item": "lamp"}', "3")


async def test_an_argument_that_is_no_json_is_named_by_its_type(recorder: Recorder) -> None:
    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        return (await context.call_tool(ToolCall(id="1", name="t", arguments={"a": object()}), fails)).content

    async def fails(call: ToolCall) -> ToolResult:
        raise ToolFailed("no")

    layer = TracingMiddleware(recorder.provider, content=True)
    await AgentExecutor(agent, agent_id="a", middleware=[layer]).execute(ASKED)
    told_of = attributes(recorder.named("execute_tool t"))
    assert told_of["gen_ai.tool.call.arguments"] == '{"a": "<object>"}' and "gen_ai.tool.call.result" not in told_of


# Where nothing records


async def test_a_run_that_is_not_sampled_computes_no_attributes_and_has_its_trace(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(ParentBased(ALWAYS_OFF))

    def refuse(*args: object) -> dict[str, Any]:
        raise AssertionError

    for method in ("_of_run", "_of_model", "_of_tool"):
        monkeypatch.setattr(TracingMiddleware, method, refuse)
    layer = TracingMiddleware(recorder.provider, content=True)
    executor = AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([LOOK_UP, ANSWER]),
        tools=[price],
        middleware=[layer],
    )
    result = await executor.execute(ASKED)
    assert result.success and recorder.spans == () and layer.lost == 0
    assert re.fullmatch("[0-9a-f]{32}", result.trace_id or "")


@pytest.mark.parametrize("provider", [None, trace.ProxyTracerProvider(), trace.NoOpTracerProvider()])
async def test_without_a_provider_the_layer_rests(provider: trace.TracerProvider | None) -> None:
    layer = TracingMiddleware(provider)
    current: list[trace.Span] = []

    @model_middleware
    async def look(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        current.append(trace.get_current_span())
        return await call_next(request)

    executor = AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([LOOK_UP, ANSWER]),
        tools=[price],
        middleware=[layer, look],
    )
    result = await executor.execute(ASKED)
    assert result.success and result.trace_id is None and layer.lost == 0
    assert current == [trace.INVALID_SPAN] * 2


async def test_a_provider_that_is_set_later_is_found(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = AgentExecutor(
        config=AgentConfig(name="shop", model="gpt-x"),
        llm_client=ScriptedLLMClient([ANSWER, ANSWER]),
        middleware=[TracingMiddleware()],
    )
    await executor.execute(ASKED)
    later = perf_counter() + 1.0
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: recorder.provider)
    monkeypatch.setattr(tracing, "perf_counter", lambda: later)
    await executor.execute(ASKED)
    assert recorder.tree == "invoke_agent shop\n  chat gpt-x"


async def test_a_disabled_sdk_gives_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = await AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([ANSWER]),
        middleware=[TracingMiddleware(TracerProvider(shutdown_on_exit=False))],
    ).execute(ASKED)
    assert result.success and result.trace_id is None


# An SDK that fails


class Breaks(SpanProcessor):
    """Raises where it is told to."""

    def __init__(self, *where: str) -> None:
        self.where = where

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "start" in self.where:
            raise RuntimeError(CANARY)

    def on_end(self, span: ReadableSpan) -> None:
        if "end" in self.where:
            raise RuntimeError(CANARY)


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_processor_that_raises_changes_no_run(where: str) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Breaks(where))
    layer = TracingMiddleware(provider)
    executor = AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([LOOK_UP, ANSWER]),
        tools=[price],
        middleware=[layer],
    )
    result = await executor.execute(ASKED)
    assert result.output == "It is 3." and layer.lost == 4


@pytest.mark.parametrize("method", ["set_attributes", "set_attribute", "end", "add_event", "is_recording"])
async def test_a_span_that_raises_changes_no_run_and_hides_no_error(
    method: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(Span, method, fails)
    boom = KeyError("boom")
    layer = TracingMiddleware(recorder.provider)
    executor = AgentExecutor(config=AgentConfig(name="shop"), llm_client=ScriptedLLMClient([boom]), middleware=[layer])
    with pytest.raises(KeyError) as caught:
        await executor.execute(ASKED)
    assert caught.value is boom and layer.lost == 2
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_provider_that_cannot_be_loaded_changes_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "there-is-none")
    layer = TracingMiddleware()
    executor = AgentExecutor(
        config=AgentConfig(name="shop"), llm_client=ScriptedLLMClient([ANSWER]), middleware=[layer]
    )
    with caplog.at_level(logging.CRITICAL):
        result = await executor.execute(ASKED)
    assert result.success and layer.lost == 1


# The conventions


def of_the_conventions() -> dict[str, Any]:
    """All names of the installed package; it marks them as moved, hence no import at the top."""
    package = "opentelemetry.semconv"
    own = ("gen_ai_attributes", "enduser_attributes")
    modules = [f"{package}._incubating.attributes.{name}" for name in own] + [
        f"{package}._incubating.metrics.gen_ai_metrics",
        f"{package}.attributes.error_attributes",
        f"{package}.attributes.exception_attributes",
    ]
    return {name: value for module in modules for name, value in vars(import_module(module)).items()}


def test_the_names_are_those_of_the_installed_conventions() -> None:
    theirs = of_the_conventions()
    ours = {name: value for name, value in vars(names).items() if name.isupper()}
    public = {name for name in ours if name.startswith(("GEN_AI", "ERROR", "EXCEPTION", "ENDUSER"))}
    assert {name: ours[name] for name in public} == {name: theirs.get(name) for name in public} and len(public) > 30
    others = {ours[name] for name in ours.keys() - public - {"CONVENTIONS", "OVERFLOW"} if "." in ours[name]}
    assert all(value.startswith("agent_runtime.") for value in others)
    operations = {value.value for value in theirs["GenAiOperationNameValues"]}
    assert {names.INVOKE_AGENT, names.CHAT, names.EXECUTE_TOOL} <= operations


def test_the_conventions_are_of_the_version_that_is_told() -> None:
    assert version("opentelemetry-semantic-conventions") == names.CONVENTIONS
