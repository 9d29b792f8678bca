import math
from typing import Any

import anyio
import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    CallNext,
    CallTimeout,
    ConfigurationError,
    EventBus,
    EventType,
    LimitExceeded,
    Limits,
    Message,
    ModelFinished,
    ModelRequest,
    ModelResponse,
    ModelStarted,
    ProviderUnavailable,
    RateLimited,
    ReasoningDelta,
    RequestRejected,
    Reset,
    Stage,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolFinished,
    ToolResult,
    ToolStarted,
    Usage,
    model_middleware,
    reaches,
    retry_model,
    tool_middleware,
    watch_stream,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

ASKED = AgentContext(user_id="ann", current_task="hello")
REQUEST = ModelRequest(messages=(Message(role="user", content="hello"),))


def asks(client: Any, **options: Any) -> Any:
    """An agent that calls `client` once, through `retry_model` where options are given."""

    async def retrying(request: ModelRequest, call_next: Any) -> ModelResponse:
        return await retry_model(request, call_next, **options)

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        return (await context.call_model(REQUEST, client, around=retrying if options else None)).text

    return agent


def uses(function: Any, times: int = 1) -> Any:
    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        calls = [ToolCall(id=str(number), name="probe") for number in range(times)]
        return [await context.call_tool(call, function) for call in calls][-1].content

    return agent


async def streamed(executor: AgentExecutor) -> tuple[AgentResult, list[StreamEvent]]:
    events: list[StreamEvent] = []

    async def send(event: StreamEvent) -> None:
        events.append(event)

    return await executor.execute(ASKED, emit=send), events[1:-1]


async def told(agent: Any, *types: str, middleware: Any = ()) -> tuple[list[SystemEvent], Exception | None]:
    """What the bus told of one run, in order, and how the run failed."""
    heard: list[SystemEvent] = []
    error: Exception | None = None

    async def hear(event: SystemEvent) -> None:
        heard.append(event)

    async with EventBus() as bus:
        for event_type in types:
            await bus.subscribe(event_type, hear)
        try:
            error = (await AgentExecutor(agent, middleware=middleware, event_bus=bus).execute(ASKED)).exception
        except TypeError as bug:
            error = bug
        await bus.drain()
    return sorted(heard, key=lambda event: event.sequence), error


async def test_usage_is_counted_also_where_the_client_counts_no_requests() -> None:
    for usage in (Usage(output_tokens=3), Usage(output_tokens=3, requests=1)):
        client = ScriptedLLMClient([ScriptedReply(text="a", usage=usage)])
        assert (await AgentExecutor(asks(client)).execute(ASKED)).usage == Usage(output_tokens=3, requests=1)


async def test_a_call_that_breaks_costs_a_request_and_what_it_had_streamed() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", "b", ProviderUnavailable("broke off")))])
    result, events = await streamed(AgentExecutor(asks(client)))
    assert result.usage == Usage(requests=1, output_tokens=2)
    assert events == [ModelStarted(), TextDelta(text="a"), TextDelta(text="b")]


async def test_a_call_that_is_cancelled_costs_too() -> None:
    client = ScriptedLLMClient([ScriptedReply(delay=60)])
    result = await AgentExecutor(asks(client), limits=Limits(run=0.1)).execute(ASKED)
    assert result.usage == Usage(requests=1)


async def test_an_answer_that_was_not_streamed_is_emitted_by_the_stage() -> None:
    result, events = await streamed(AgentExecutor(asks(ScriptedLLMClient(["whole"]))))
    assert result.output == "whole"
    assert events == [
        ModelStarted(),
        TextDelta(text="whole"),
        ModelFinished(model="scripted", finish_reason="stop"),
    ]


async def test_a_model_that_wants_only_tools_has_no_text_to_emit() -> None:
    client = ScriptedLLMClient([ScriptedReply(tool_calls=(("f", dict[str, Any]()),))])
    _, events = await streamed(AgentExecutor(asks(client)))
    assert [type(event) for event in events] == [ModelStarted, ModelFinished]


async def test_a_layer_may_ask_another_client() -> None:
    @model_middleware
    async def other(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        assert request.run is request.context.run
        return await call_next(request.replace(client=ScriptedLLMClient(["the other"])))

    result = await AgentExecutor(asks(ScriptedLLMClient([])), middleware=[other]).execute(ASKED)
    assert result.output == "the other"


async def test_a_client_that_returns_something_else_is_a_bug_of_the_client() -> None:
    class Wrong:
        async def complete(self, request: ModelRequest) -> str:
            return "text"

    @model_middleware
    async def layer(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return await call_next(request)

    blamed, error = await told(asks(Wrong()), EventType.MIDDLEWARE_FAILED, middleware=[layer])
    assert isinstance(error, TypeError) and "Wrong.complete returned str" in str(error)
    assert blamed == []


async def test_requests_and_calls_that_were_never_bound_say_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="call_model"):
        await REQUEST.client.complete(REQUEST)
    call = ToolCall(id="1", name="f")
    with pytest.raises(ConfigurationError, match="call_tool"):
        await call.function(call)


async def test_a_tool_layer_may_change_the_arguments() -> None:
    @tool_middleware
    async def adds(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        return await call_next(call.replace(arguments={**call.arguments, "unit": "m"}))

    async def tool(call: ToolCall) -> ToolResult:
        return ToolResult(content=f"{call.id} {dict(call.arguments)}")

    assert (await AgentExecutor(uses(tool), middleware=[adds]).execute(ASKED)).output == "0 {'unit': 'm'}"


async def test_tool_calls_are_limited_in_number() -> None:
    async def tool(call: ToolCall) -> ToolResult:
        return ToolResult(content=call.id)

    limits = Limits(tool_calls=2)
    assert (await AgentExecutor(uses(tool, 2), limits=limits).execute(ASKED)).output == "1"
    result = await AgentExecutor(uses(tool, 3), limits=limits).execute(ASKED)
    assert isinstance(result.exception, LimitExceeded) and result.error_details == {"limit": 2}


async def test_a_tool_is_limited_in_time_by_the_executor_or_by_itself() -> None:
    class Slow:
        timeout: float | None = None

        async def __call__(self, call: ToolCall) -> ToolResult:
            await anyio.sleep_forever()
            return ToolResult(content="never")

    slow = Slow()
    result = await AgentExecutor(uses(slow), limits=Limits(tool=0.02)).execute(ASKED)
    assert isinstance(result.exception, CallTimeout) and result.error_details == {"limit": 0.02}
    slow.timeout = 0.01
    assert (await AgentExecutor(uses(slow)).execute(ASKED)).error_details == {"limit": 0.01}


async def test_every_tool_that_started_is_told_to_have_ended() -> None:
    async def fine(call: ToolCall) -> ToolResult:
        return ToolResult(content="")

    async def fails(call: ToolCall) -> ToolResult:
        raise RateLimited("slow down")

    async def wrong(call: ToolCall) -> str:
        return "text"

    for function, error_type in ((fine, None), (fails, "rate_limit"), (wrong, "internal")):
        heard, _ = await told(uses(function), EventType.TOOL_STARTED, EventType.TOOL_COMPLETED)
        assert [event.event_type for event in heard] == [EventType.TOOL_STARTED, EventType.TOOL_COMPLETED]
        assert heard[1].error_type == error_type and heard[1].metadata == {"tool": "probe"}


async def test_a_stream_shows_tools_begin_and_end_also_when_they_fail() -> None:
    async def fails(call: ToolCall) -> ToolResult:
        raise RateLimited("slow down")

    async def says_no(call: ToolCall) -> ToolResult:
        return ToolResult(content="no", is_error=True)

    for function in (fails, says_no):
        _, events = await streamed(AgentExecutor(uses(function)))
        assert events[:2] == [ToolStarted(id="0", name="probe"), ToolFinished(id="0", name="probe", is_error=True)]


async def test_a_retryable_failure_is_tried_again_and_another_is_not() -> None:
    down, wrong = ProviderUnavailable("down"), RequestRejected("wrong")
    cases: list[tuple[list[str | Exception], int, Exception | None]] = [
        ([down, down, "fine"], 3, None),
        ([down, down, down, "fine"], 3, down),
        ([wrong, "fine"], 1, wrong),
    ]
    for script, calls, error in cases:
        client = ScriptedLLMClient(script)
        result = await AgentExecutor(asks(client, attempts=3, delay=0)).execute(ASKED)
        assert (client.calls, result.exception) == (calls, error)
        assert [request.attempt for request in client.requests] == list(range(1, calls + 1))
        assert result.attempts == calls


async def test_a_retry_that_would_pass_the_deadline_is_not_waited_for() -> None:
    later = RateLimited("slow down", retry_after=100)
    result = await AgentExecutor(asks(ScriptedLLMClient([later]), attempts=2)).execute(ASKED)
    assert result.exception is later


async def test_text_that_was_delivered_is_not_produced_again_and_reasoning_neither() -> None:
    down = ProviderUnavailable("broke off")
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", down)), "never"])
    result, _ = await streamed(AgentExecutor(asks(client, attempts=2, delay=0)))
    assert result.exception is down and client.calls == 1

    class Thinks:
        calls = 0

        async def complete(self, request: ModelRequest) -> ModelResponse:
            self.calls += 1
            await request.emit(ReasoningDelta(text="hm"))
            raise down

    thinks = Thinks()
    result, _ = await streamed(AgentExecutor(asks(thinks, attempts=2, delay=0)))
    assert result.exception is down and thinks.calls == 1


async def test_text_that_was_held_back_is_withdrawn_before_the_next_try() -> None:
    seen: list[StreamEvent] = []

    @model_middleware
    async def holds_back(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        async def hold(event: StreamEvent) -> None:
            seen.append(event)

        async def again(request: ModelRequest) -> ModelResponse:
            return await call_next(request)

        return await retry_model(request.replace(emit=hold), again, attempts=2, delay=0)

    client = ScriptedLLMClient([ScriptedReply(chunks=("a", ProviderUnavailable("broke off"))), "b"])
    result, _ = await streamed(AgentExecutor(asks(client), middleware=[holds_back]))
    assert result.success and seen == [TextDelta(text="a"), Reset(step=0)]


class Silent:
    """Streams `pieces`, with `pause` seconds before each."""

    def __init__(self, *pauses: float) -> None:
        self.pauses = pauses

    async def complete(self, request: ModelRequest) -> ModelResponse:
        for pause in self.pauses:
            await anyio.sleep(pause)
            await request.emit(TextDelta(text="x"))
        return ModelResponse.of("x" * len(self.pauses))


@pytest.mark.parametrize(
    ("client", "limits", "which", "limit"),
    [(Silent(60), Limits(first_token=0.02), "first_token", 0.02), (Silent(0, 60), Limits(idle=0.03), "idle", 0.03)],
)
async def test_silence_ends_a_streamed_call(client: Silent, limits: Limits, which: str, limit: float) -> None:
    result, _ = await streamed(AgentExecutor(asks(client), limits=limits))
    assert isinstance(result.exception, CallTimeout)
    assert result.error_details == {"limit": limit, "which": which}


async def test_pieces_that_keep_coming_keep_a_call_alive() -> None:
    limits = Limits(first_token=1, idle=1)
    result, events = await streamed(AgentExecutor(asks(Silent(*[0.06] * 20)), limits=limits))
    assert result.success and len([event for event in events if isinstance(event, TextDelta)]) == 20


async def test_the_time_in_which_the_consumer_is_slow_does_not_count_as_silence() -> None:
    limits = Limits(idle=1, stream_events=2)
    async with AgentExecutor(asks(Silent(*[0] * 6)), limits=limits).stream(ASKED) as stream:
        async for event in stream:
            if event == ModelStarted():
                await anyio.sleep(1.2)
    assert stream.result.success


async def test_a_watch_without_limits_only_passes_on() -> None:
    async def answers(request: ModelRequest) -> ModelResponse:
        return ModelResponse.of("fine")

    @model_middleware
    async def watches(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return await watch_stream(request, answers, first_token=math.inf)

    assert (await AgentExecutor(asks(None), middleware=[watches]).execute(ASKED)).output == "fine"


def test_requests_and_calls_show_no_content() -> None:
    assert repr(REQUEST) == "ModelRequest(step=0, attempt=1, 1 messages)"
    assert repr(ToolCall(id="1", name="f", arguments={"secret": 1})) == "ToolCall(id='1', name='f')"
    assert isinstance(RateLimited("x"), AgentRuntimeError)
