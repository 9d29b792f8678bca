"""Structured output of the built-in agent: what the model is told, what comes out, and what never does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    ConfigurationError,
    ErrorType,
    LimitExceeded,
    LLMAgent,
    MemorySessionStore,
    Message,
    ModelFinished,
    ModelRequest,
    ModelResponse,
    ModelStarted,
    OutputInvalid,
    ReasoningDelta,
    RequestRejected,
    Resume,
    RunCompleted,
    RunStarted,
    SessionManager,
    StreamEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    tool,
)
from agent_runtime.structured import OutputFormat
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, hostile_text, json_values

SECRET = "sk-secret"
GOOD = '{"city":"Paris","days":3}'
BAD = '{"city": "Paris", "days": "three"}'
CONTEXT = AgentContext(user_id="ann", current_task="Plan a trip.")


class Trip(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: str
    days: int = Field(ge=1)
    notes: dict[str, int] = {}


@dataclass
class Point:
    x: float
    y: float


class Movie(TypedDict):
    title: str
    released: date


def config_of(output_type: Any = Trip, **fields: Any) -> AgentConfig:
    return AgentConfig(name="planner", output_type=output_type, retry_delay=0.001, **fields)


async def run(script: Sequence[Any] | ScriptedLLMClient, output_type: Any = Trip, **fields: Any) -> AgentResult:
    client = script if isinstance(script, ScriptedLLMClient) else ScriptedLLMClient(script)
    return await AgentExecutor(config=config_of(output_type, **fields), llm_client=client).execute(CONTEXT)


async def events_of(script: Sequence[Any], tools: Sequence[Any] = (), **fields: Any) -> list[StreamEvent]:
    executor = AgentExecutor(config=config_of(**fields), llm_client=ScriptedLLMClient(script), tools=tools)
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    await executor.execute(CONTEXT, emit=emit)
    return events


TYPES: list[tuple[Any, str, Any]] = [
    (Trip, GOOD, Trip(city="Paris", days=3)),
    (Point, '{"x": 1, "y": 2.5}', Point(1.0, 2.5)),
    (Movie, '{"title": "Playtime", "released": "1967-12-16"}', {"title": "Playtime", "released": date(1967, 12, 16)}),
    (list[int], "[1, 2]", [1, 2]),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (Literal["yes", "no"], '"yes"', "yes"),
    (Trip | None, "null", None),
    (Annotated[int, Field(gt=1)], "2", 2),
    (bool, "false", False),
    (Any, '{"a": [1]}', {"a": [1]}),
]


@pytest.mark.parametrize(("output_type", "text", "value"), TYPES)
async def test_the_answer_is_a_value_of_the_output_type(output_type: Any, text: str, value: Any) -> None:
    result = await run([text], output_type)
    assert (result.success, result.output, result.data) == (True, text, value)
    assert (result.messages, result.metadata) == ((Message(role="assistant", content=text),), {})


async def test_the_model_is_told_the_schema_after_the_system_prompt_and_in_the_request() -> None:
    client = ScriptedLLMClient([GOOD, GOOD])
    await run(client, system_prompt="Be brief.")
    await run(client)
    with_prompt, without = client.requests
    assert with_prompt.output_schema == without.output_schema == Trip.model_json_schema()
    system = without.messages[0]
    assert system.role == "system" and json.loads(system.content.split("\n", 1)[1]) == Trip.model_json_schema()
    assert with_prompt.messages[0] == Message(role="system", content=f"Be brief.\n\n{system.content}")


async def test_a_client_that_only_turns_a_prompt_into_text_is_told_too() -> None:
    class Completes:
        async def generate(self, prompt: str, **parameters: Any) -> str:
            assert '"days"' in prompt and not parameters
            return GOOD

    result = await AgentExecutor(config=config_of(), llm_client=Completes()).execute(CONTEXT)
    assert result.data == Trip(city="Paris", days=3)


async def test_without_an_output_type_nothing_is_asked_and_nothing_read() -> None:
    client = ScriptedLLMClient(["```\n{}\n```"])
    result = await run(client, None)
    assert (result.output, result.data) == ("```\n{}\n```", None)
    assert client.requests[0].output_schema is None and client.requests[0].messages[0].role == "user"


def test_a_layer_may_change_the_schema_of_a_request() -> None:
    assert ModelRequest(messages=()).replace(output_schema={"type": "object"}).output_schema == {"type": "object"}


@pytest.mark.parametrize("output_type", [5, object(), "Nowhere", "not a type", ModelResponse])
def test_what_pydantic_cannot_read_from_json_is_refused_when_the_config_is_built(output_type: Any) -> None:
    with pytest.raises(ValidationError, match="output_type"):
        config_of(output_type)
    unchecked = AgentConfig(name="planner").model_copy(update={"output_type": output_type})
    with pytest.raises(ConfigurationError, match="output_type="):
        LLMAgent(unchecked, ScriptedLLMClient([]))


async def test_a_default_may_look_like_a_schema() -> None:
    class House(BaseModel):
        found: dict[str, Any] = {"properties": 5}

    assert (await run(["{}"], House)).data == House()


@pytest.mark.parametrize("retries", [-1, 6])
def test_the_number_of_repeats_is_bounded(retries: int) -> None:
    with pytest.raises(ValidationError, match="output_retries"):
        config_of(output_retries=retries)


async def test_a_repaired_answer_says_how_and_the_conversation_keeps_what_was_said() -> None:
    said = f"Here you are:\n```json\n{GOOD[:-1]},}}\n```"
    result = await run([said])
    assert (result.output, result.data) == (GOOD, Trip(city="Paris", days=3))
    assert result.metadata == {"output_repairs": ["prose", "trailing_comma"]}
    assert result.messages == (Message(role="assistant", content=said),)


async def test_an_answer_that_does_not_fit_is_told_to_the_model_once_and_counts_as_a_step() -> None:
    client = ScriptedLLMClient([BAD, GOOD])
    result = await run(client)
    assert (result.output, result.data, result.usage.requests) == (GOOD, Trip(city="Paris", days=3), 2)
    bad, told, good = result.messages
    assert (bad.content, told.role, good.content) == (BAD, "user", GOOD)
    assert "- days: Input should be a valid integer" in told.content and "three" not in told.content
    assert client.requests[1].messages[-2:] == (bad, told)
    assert [request.step for request in client.requests] == [0, 1]


async def test_an_answer_that_is_no_json_is_told_where() -> None:
    result = await run(['{"city": Paris}', GOOD])
    assert "- answer: not one JSON value (expected value at line 1 column 10)" in result.messages[1].content


async def test_a_model_that_never_fits_ends_with_an_error_that_holds_its_words_for_code_only() -> None:
    said = json.dumps({"city": SECRET, "days": 0, "notes": {SECRET: "x"}, SECRET: 1})
    result = await run([BAD, said, said], output_retries=2)
    error = result.exception
    assert isinstance(error, OutputInvalid)
    assert issubclass(OutputInvalid, ValueError)
    assert (result.error_type, result.retryable, result.data) == (ErrorType.OUTPUT, False, None)
    assert result.error_details == {"problems": ["days", "notes.*", "*"], "attempts": 3}
    assert error.text == said
    assert SECRET not in str(error) and "3 attempts" in str(error) == result.error
    assert SECRET not in repr(result) + repr(result.to_record())


@pytest.mark.parametrize(
    ("fields", "calls"), [({"output_retries": 0}, 1), ({"max_steps": 1}, 1), ({"max_steps": 2}, 2)]
)
async def test_repeats_end_with_their_own_bound_and_with_that_of_the_steps(fields: dict[str, int], calls: int) -> None:
    client = ScriptedLLMClient(["no", "no", "no"])
    result = await run(client, **{"output_retries": 2, **fields})
    assert isinstance(result.exception, OutputInvalid)
    assert (client.calls, result.error_details["attempts"]) == (calls, calls)


async def test_a_model_that_only_wants_tools_ends_as_it_does_without_an_output_type() -> None:
    result = await run([ScriptedReply(tool_calls=(("nope", {}),))], max_steps=1)
    assert isinstance(result.exception, LimitExceeded)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_off_or_refused_is_asked_for_again_like_any(reason: str) -> None:
    cut = ScriptedReply(text='{"city": "Par', finish_reason=reason)
    result = await run([cut, GOOD])
    assert (result.output, result.finish_reason) == (GOOD, "stop")
    whole = await run([ScriptedReply(text='{"city": "Paris", "days": 3, "notes": {', finish_reason=reason)])
    assert (whole.data, whole.finish_reason) == (Trip(city="Paris", days=3), reason)
    assert whole.metadata == {"output_repairs": ["cut_short"]}


@tool(kind="pure")
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sun in {city}"


WANTS = ScriptedReply(text="Let me look.", tool_calls=(("weather", {"city": "Paris"}),))


async def test_a_stream_holds_text_back_until_it_is_the_answer() -> None:
    events = await events_of(
        [WANTS, ScriptedReply(chunks=("no ", "idea")), ScriptedReply(chunks=tuple(GOOD))], [weather]
    )
    assert [type(event) for event in events] == [
        RunStarted,
        *(ModelStarted, ModelFinished, ToolStarted, ToolFinished),
        *(ModelStarted, ModelFinished),
        *(ModelStarted, ModelFinished, TextDelta),
        RunCompleted,
    ]
    assert events[-2] == TextDelta(text=GOOD, step=2)
    [completed] = [event for event in events if isinstance(event, RunCompleted)]
    assert completed.result.output == GOOD


async def test_a_stream_without_a_valid_answer_has_no_text_at_all() -> None:
    events = await events_of([BAD, BAD])
    assert not [event for event in events if isinstance(event, TextDelta)]


async def test_reasoning_is_passed_on_at_once() -> None:
    class Thinks:
        async def complete(self, request: ModelRequest, /) -> ModelResponse:
            await request.emit(ReasoningDelta(text="hm", step=request.step))
            await request.emit(TextDelta(text=GOOD, step=request.step))
            return ModelResponse.of(GOOD)

    executor = AgentExecutor(config=config_of(), llm_client=Thinks())
    async with executor.stream(CONTEXT) as stream:
        kinds = [type(event) async for event in stream]
    assert kinds == [RunStarted, ModelStarted, ReasoningDelta, ModelFinished, TextDelta, RunCompleted]
    assert stream.result.data == Trip(city="Paris", days=3)


@pytest.mark.parametrize("script", [[GOOD], [f"Well: {GOOD}"], [BAD, GOOD], [BAD, BAD]], ids=repr)
async def test_plain_and_streamed_runs_give_the_same(script: list[str]) -> None:
    def told(result: AgentResult) -> tuple[Any, ...]:
        return result.output, result.data, result.messages, result.metadata, result.error, result.usage

    plain = await run(script)
    executor = AgentExecutor(config=config_of(), llm_client=ScriptedLLMClient(script))
    text: list[str] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            text.append(event.text)

    streamed = await executor.execute(CONTEXT, emit=emit)
    assert told(streamed) == told(plain)
    assert "".join(text) == plain.output


async def test_a_resumed_run_goes_on_with_the_answer_that_did_not_fit() -> None:
    client = ScriptedLLMClient([BAD, RequestRejected("broken"), GOOD])
    sessions = SessionManager(MemorySessionStore())
    context = CONTEXT.replace(session_id="s")
    async with AgentExecutor(config=config_of(), llm_client=client, session_manager=sessions) as executor:
        assert (await executor.execute(context)).error == "broken"
        text: list[str] = []

        async def emit(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                text.append(event.text)

        result = await executor.execute(context, resume=Resume(), emit=emit)
    assert (result.data, text, client.calls) == (Trip(city="Paris", days=3), [GOOD], 3)
    assert client.requests[1].messages == client.requests[2].messages
    task = Message(role="user", content=CONTEXT.current_task)
    assert await sessions.messages("s", owner=CONTEXT.owner) == (task, *result.messages)


def test_values_are_not_converted_unless_the_type_says_so() -> None:
    class Lenient(BaseModel):
        days: Annotated[int, BeforeValidator(int)]

    assert OutputFormat(Trip).read('{"city": "Paris", "days": "3"}').problems
    assert OutputFormat(Lenient).read('{"days": "3"}').value == Lenient(days=3)


def test_very_many_problems_are_counted_and_not_listed() -> None:
    [problem] = OutputFormat(list[int]).read(json.dumps(["x"] * 2_000)).problems
    assert (problem.place, problem.told) == ("answer", "answer: does not fit in 2000 places")
    assert len(OutputFormat(list[int]).read(json.dumps(["x"] * 200)).problems) == 10


def test_a_long_reason_is_cut() -> None:
    class Talkative(BaseModel):
        word: str

        @field_validator("word")
        @classmethod
        def _refuse(cls, word: str) -> str:
            raise ValueError("no" * 1_000)

    output = OutputFormat(Talkative)
    assert len(output.reprompt(output.read('{"word": "x"}')).content) < 500


HOSTILE_ANSWERS = [
    "[" * 1_000_000,
    "{" * 200_000,
    "NaN",
    "1e400",
    '{"city": "\\ud800", "days": 1}',
    '{"city": "\ud800", "days": 1e400}',
    "1" * 10_000,
    "x" * 300_000,
    '"' * 99_999,
]


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS, ids=lambda answer: repr(answer[:12]))
async def test_a_hostile_answer_is_output_invalid_and_nothing_else(answer: str) -> None:
    result = await run([answer], output_retries=0)
    assert isinstance(result.exception, OutputInvalid)
    assert result.error is not None and len(result.error) < 300


FORMATS = [OutputFormat(output_type) for output_type in (Trip, list[int], dict[str, float], Any, Point, str)]


@settings(max_examples=200)
@given(hostile_text() | json_values().map(json.dumps) | st.text(st.sampled_from(list('{}[]",:\\1e-. \ud800'))))
def test_any_answer_gives_a_value_or_problems(answer: str) -> None:
    for output in FORMATS:
        reading = output.read(answer)
        if reading.problems:
            error = output.refusal(reading, answer, agent="a", attempts=1)
            assert output.reprompt(reading).content and len(str(error)) < 1_000
        else:
            json.loads(reading.text)
