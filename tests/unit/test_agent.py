from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    CallTimeout,
    ConfigurationError,
    ConsumerGone,
    ErrorType,
    FunctionCall,
    LayerKind,
    LimitExceeded,
    Limits,
    LLMAgent,
    Message,
    ModelFinished,
    ModelRequest,
    ModelResponse,
    ModelStarted,
    PermissionDenied,
    ProviderUnavailable,
    RequestRejected,
    Reset,
    RunCancelled,
    Stage,
    StreamEvent,
    TextDelta,
    Tool,
    ToolCall,
    ToolFailed,
    ToolFinished,
    ToolResult,
    ToolStarted,
    Usage,
    model_middleware,
    retry_model,
    tool,
    tool_middleware,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

SECRET = "sk-secret"
CONTEXT = AgentContext(agent_id="helper", user_id="ann", current_task="add 1 and 2")
CONFIG = AgentConfig(name="helper", retry_delay=0.001)
ADD = ("add", {"a": 1, "b": 2})
NOTHING: dict[str, Any] = {}


@tool(kind="pure")
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def wants(*calls: tuple[str, dict[str, Any]] | FunctionCall) -> ScriptedReply:
    return ScriptedReply(tool_calls=calls)


async def run(
    script: Sequence[Any] | ScriptedLLMClient,
    tools: Sequence[Tool | Callable[..., Any]] = (add,),
    *,
    context: AgentContext = CONTEXT,
    config: AgentConfig = CONFIG,
    **options: Any,
) -> AgentResult:
    client = script if isinstance(script, ScriptedLLMClient) else ScriptedLLMClient(script)
    return await AgentExecutor(config=config, llm_client=client, tools=tools, **options).execute(context)


def answers(result: AgentResult) -> list[str]:
    return [message.content for message in result.messages if message.role == "tool"]


async def test_the_model_is_asked_until_it_wants_no_tool() -> None:
    client = ScriptedLLMClient([wants(ADD), ScriptedReply(text="3", usage=Usage(output_tokens=1), finish_reason="end")])
    history = (Message(role="user", content="hi"), Message(role="assistant", content="hello"))
    config = CONFIG.model_copy(update={"system_prompt": "be short", "temperature": 0.0})
    result = await run(client, context=CONTEXT.replace(messages=history), config=config)
    asked = (Message(role="system", content="be short"), *history, Message(role="user", content="add 1 and 2"))
    call = FunctionCall(id="call_1_0", name="add", arguments='{"a":1,"b":2}')
    new = (
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="3", tool_call_id="call_1_0", name="add"),
        Message(role="assistant", content="3"),
    )
    assert [request.messages for request in client.requests] == [asked, asked + new[:2]]
    assert [request.step for request in client.requests] == [0, 1]
    assert {request.parameters["temperature"] for request in client.requests} == {0.0}
    assert client.requests[0].tools == (add.definition,)
    assert (result.output, result.messages, result.model, result.finish_reason) == ("3", new, "scripted", "end")
    assert result.usage == Usage(output_tokens=1, requests=2)


def test_an_agent_says_what_it_is() -> None:
    def plain(text: str) -> str:
        return text

    client = ScriptedLLMClient([])
    agent = LLMAgent(CONFIG, client, [add, plain])
    assert (agent.name, agent.config, agent.client) == ("helper", CONFIG, client)
    assert [(tool.name, tool.kind) for tool in agent.tools] == [("add", "pure"), ("plain", "effect")]
    assert agent.stages == {Stage.MODEL, Stage.TOOL}
    assert LLMAgent(CONFIG, client).stages == {Stage.MODEL}


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"two tools of one name: \['add', 'add'\]"):
        LLMAgent(CONFIG, ScriptedLLMClient([]), [add, add])


UNCALLABLE: list[tuple[Any, str]] = [
    (("nope", {}), '"there is no tool \'nope\'; there are: add","error_type":"not_found"'),
    (FunctionCall(id="1", name="add", arguments='{"a":'), '"the arguments are not a JSON object: '),
    (("add", {"a": 1}), '"the arguments of tool \'add\' do not fit: b: Field required","error_type":"validation"'),
]


@pytest.mark.parametrize(("call", "text"), UNCALLABLE)
async def test_a_call_that_cannot_be_made_is_told_to_the_model(call: Any, text: str) -> None:
    result = await run([wants(call), "sorry"])
    assert result.output == "sorry"
    [answer] = answers(result)
    assert answer.startswith('{"error":' + text)


async def test_an_agent_without_tools_says_so_to_a_model_that_wants_one() -> None:
    assert "there are: none" in answers(await run([wants(ADD), "sorry"], ()))[0]


def broken_tool(error: Exception) -> Tool:
    @tool
    async def broken() -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ToolFailed("no such order"), '{"error":"no such order","error_type":"tool"}'),
        (KeyError(SECRET), '{"error":"tool \'broken\' failed (KeyError)","error_type":"tool"}'),
        (PermissionDenied("not yours"), '{"error":"not yours","error_type":"authorization"}'),
    ],
)
async def test_a_failing_tool_is_told_to_the_model_without_secrets(error: Exception, text: str) -> None:
    assert answers(await run([wants(("broken", NOTHING)), "sorry"], [broken_tool(error)])) == [text]


def refusing(error: Exception) -> Any:
    @tool_middleware
    async def refuse(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionDenied("not yours"), '{"error":"not yours","error_type":"authorization"}'),
        (CallTimeout("too slow"), '{"error":"too slow","error_type":"timeout"}'),
    ],
)
async def test_the_refusal_of_a_tool_layer_is_told_to_the_model(error: Exception, text: str) -> None:
    assert answers(await run([wants(ADD), "sorry"], middleware=[refusing(error)])) == [text]


async def test_a_bug_in_a_tool_layer_is_a_bug() -> None:
    with pytest.raises(KeyError, match=SECRET):
        await run([wants(ADD), "sorry"], middleware=[refusing(KeyError(SECRET))])


@pytest.mark.parametrize("error", [LimitExceeded("x"), ConsumerGone("x"), RunCancelled("x"), ConfigurationError("x")])
@pytest.mark.parametrize("calls", [1, 2])
async def test_some_failures_of_a_tool_end_the_run(error: Exception, calls: int) -> None:
    @tool
    async def ends() -> None:
        raise error

    result = await run([wants(*[("ends", NOTHING)] * calls)], [ends])
    assert result.exception is error


async def test_the_calls_of_one_answer_run_at_once_and_answer_in_their_order() -> None:
    second_ran = anyio.Event()

    @tool
    async def first() -> str:
        await second_ran.wait()
        return "one"

    @tool
    async def second() -> str:
        second_ran.set()
        return "two"

    result = await run([wants(("first", {}), ("second", {}), ("nope", {})), "done"], [first, second])
    assert answers(result)[:2] == ["one", "two"]
    assert [m.tool_call_id for m in result.messages if m.role == "tool"] == ["call_1_0", "call_1_1", "call_1_2"]


@pytest.mark.parametrize("error", [LimitExceeded("over"), KeyError("a bug"), KeyboardInterrupt()])
async def test_one_failing_call_cancels_the_others_and_leaves_alone(error: BaseException) -> None:
    ended: list[str] = []

    @tool
    async def hangs() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("hangs")

    @tool_middleware
    async def breaks(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if call.name == "add":
            await anyio.sleep(0.001)
            raise error
        return await call_next(call)

    executor = AgentExecutor(
        config=CONFIG,
        llm_client=ScriptedLLMClient([wants(("hangs", {}), ADD, ("hangs", {}))]),
        tools=[add, hangs],
        middleware=[breaks],
    )
    with pytest.raises(type(error)) as caught:
        await executor.execute(CONTEXT, raise_on_error=True)
    assert caught.value is error
    assert ended == ["hangs", "hangs"]


async def test_cancelling_the_caller_cancels_all_calls_of_an_answer() -> None:
    ended: list[int] = []

    @tool
    async def hangs(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(number)

    with anyio.move_on_after(0.02) as scope:
        await run([wants(("hangs", {"number": 1}), ("hangs", {"number": 2}))], [hangs])
    assert scope.cancelled_caught and sorted(ended) == [1, 2]


async def test_keys_are_made_of_run_step_and_index() -> None:
    keys: list[str] = []

    @tool(kind="idempotent")
    async def note(call: ToolCall) -> None:
        keys.append(call.idempotency_key)

    @tool_middleware
    async def twice(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        await call_next(call)
        return await call_next(call)

    history = (Message(role="user", content="hi"), Message(role="assistant", content="hello"))
    script = [wants(("note", {}), ("note", {})), wants(("note", {})), "done"]
    context = CONTEXT.replace(session_id="s1", messages=history)
    result = await run(script, [note], context=context, middleware=[twice])
    assert sorted(keys) == [f"{result.run_id}:{place}" for place in ("0:0", "0:0", "0:1", "0:1", "1:0", "1:0")]


@pytest.mark.parametrize(("max_steps", "limit"), [(2, 10), (10, 2)])
async def test_a_model_that_never_stops_wanting_is_stopped(max_steps: int, limit: int) -> None:
    client = ScriptedLLMClient([wants(ADD)], repeat=True)
    result = await run(client, config=AgentConfig(name="helper", max_steps=max_steps), limits=Limits(steps=limit))
    assert result.error == (
        "agent 'helper' still wanted tools after 2 model calls (AgentConfig.max_steps, Limits.steps)"
    )
    assert result.error_type == ErrorType.LIMIT
    assert result.error_details == {"limit": 2, "finish_reason": "max_steps"}
    assert client.calls == 2


class TextOnly:
    """What somebody may have written long ago."""

    def __init__(self, answer: object = "hello") -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def generate(self, prompt: str, **params: Any) -> Any:
        self.asked.append((prompt, params))
        return self.answer


async def text_only(client: TextOnly, *tools: Tool, **changes: Any) -> AgentResult:
    config = AgentConfig(name="helper", temperature=0.5, **changes)
    return await AgentExecutor(config=config, llm_client=client, tools=tools).execute(CONTEXT)


async def test_a_client_of_text_gets_the_task_and_the_parameters() -> None:
    client = TextOnly()
    assert (await text_only(client, extra={"seed": 1})).output == "hello"
    assert client.asked == [("add 1 and 2", {"temperature": 0.5, "seed": 1})]


async def test_a_client_of_text_gets_a_transcript_when_there_is_more_than_the_task() -> None:
    client = TextOnly()
    await text_only(client, system_prompt="be short")
    assert client.asked[0][0] == "system: be short\n\nuser: add 1 and 2"


async def test_a_client_of_text_gets_the_tools_when_there_are_any_and_may_give_a_whole_response() -> None:
    client = TextOnly(ModelResponse.of("whole", usage=Usage(input_tokens=3)))
    result = await text_only(client, add)
    assert (result.output, result.usage.input_tokens) == ("whole", 3)
    assert client.asked[0][1]["tools"] == (add.definition,)


async def test_a_client_of_text_that_gives_something_else_is_a_bug() -> None:
    with pytest.raises(TypeError, match=r"TextOnly.generate returned int, not str or ModelResponse"):
        await text_only(TextOnly(3))


class SyncOnly:
    def complete(self, request: ModelRequest) -> ModelResponse:
        raise AssertionError


@pytest.mark.parametrize(
    ("client", "problem"),
    [(object(), "is no client: it needs `async complete"), (SyncOnly(), "SyncOnly.complete is not an `async def`")],
)
def test_what_is_no_client_is_refused_when_the_agent_is_built(client: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        LLMAgent(CONFIG, client)


DOWN = ProviderUnavailable("down")


async def streamed(executor: AgentExecutor, **options: Any) -> tuple[AgentResult, list[StreamEvent]]:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    result = await executor.execute(CONTEXT, emit=emit, **options)
    return result, [event for event in events if isinstance(event, ModelStarted | ModelFinished | TextDelta | Reset)]


@pytest.mark.parametrize("listening", [True, False])
async def test_every_attempt_goes_through_all_model_layers_with_its_number(listening: bool) -> None:
    attempts: list[int] = []

    @model_middleware
    async def note(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        attempts.append(request.attempt)
        return await call_next(request)

    client = ScriptedLLMClient([DOWN, DOWN, "up"])
    executor = AgentExecutor(config=CONFIG, llm_client=client, middleware=[note])
    if listening:
        result, events = await streamed(executor)
        assert [type(event) for event in events] == [ModelStarted, TextDelta, ModelFinished]
    else:
        result = await executor.execute(CONTEXT)
    assert (result.output, result.attempts, result.usage.requests) == ("up", 3, 3)
    assert attempts == [1, 2, 3]
    assert [request.attempt for request in client.requests] == [1, 2, 3]


async def test_text_of_a_failed_attempt_is_withdrawn_before_it_is_said_again() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("wr", "ong", DOWN)), DOWN, "right"])
    result, events = await streamed(AgentExecutor(config=CONFIG, llm_client=client), allow_reset=True)
    assert result.output == "right"
    assert [event.text if isinstance(event, TextDelta) else type(event) for event in events] == [
        ModelStarted,
        "wr",
        "ong",
        Reset,
        "right",
        ModelFinished,
    ]


async def test_nothing_is_said_again_to_a_consumer_that_cannot_take_it_back() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("wr", DOWN)), "right"])
    result, events = await streamed(AgentExecutor(config=CONFIG, llm_client=client))
    assert result.exception is DOWN
    assert [type(event) for event in events] == [ModelStarted, TextDelta]


@pytest.mark.parametrize(
    ("error", "config", "calls"),
    [
        (DOWN, CONFIG, 3),
        (DOWN, AgentConfig(name="helper", retry_attempts=1), 1),
        (RequestRejected("no"), CONFIG, 1),
    ],
)
async def test_it_gives_up_when_the_config_says_so_or_a_retry_cannot_help(
    error: Exception, config: AgentConfig, calls: int
) -> None:
    client = ScriptedLLMClient([error], repeat=True)
    assert (await run(client, config=config)).exception is error
    assert client.calls == calls


async def test_a_retry_layer_owns_the_retries() -> None:
    class Once(BaseMiddleware):
        kind = LayerKind.RETRY

        async def process_model(
            self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
        ) -> ModelResponse:
            return await retry_model(request, call_next, attempts=2, delay=0)

    client = ScriptedLLMClient([DOWN], repeat=True)
    await run(client, config=AgentConfig(name="helper"), middleware=[Once()])
    assert client.calls == 2


async def test_tools_are_seen_in_the_stream() -> None:
    seen: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, ToolStarted | ToolFinished):
            seen.append(event)

    client = ScriptedLLMClient([wants(ADD, ("add", {})), "3"])
    await AgentExecutor(config=CONFIG, llm_client=client, tools=[add]).execute(CONTEXT, emit=emit)
    started, finished = ToolStarted(id="call_1_0", name="add"), ToolFinished(id="call_1_0", name="add")
    assert started in seen and finished in seen
    assert ToolFinished(id="call_1_1", name="add", is_error=True) in seen
