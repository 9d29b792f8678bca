"""The chat-completions protocol: what is sent, and what the parts of an answer add to it."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from agent_runtime import (
    ChatChoice,
    ChatUsage,
    FunctionCall,
    Message,
    ModelAnswer,
    ProviderErrors,
    ReasoningDelta,
    TextDelta,
    ToolDefinition,
    Usage,
    chat_message,
    chat_response_format,
    chat_tool,
)

CALL = FunctionCall(id="c1", name="search", arguments='{"q": 1}')
CALLED = [{"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": 1}'}}]


@pytest.mark.parametrize(
    ("message", "form"),
    [
        (Message(role="system", content="be brief"), {"role": "system", "content": "be brief"}),
        (
            Message(role="user", content="hi \ud83d", name="ann"),
            {"role": "user", "content": "hi \ufffd", "name": "ann"},
        ),
        (
            Message(role="assistant", tool_calls=(CALL,)),
            {"role": "assistant", "content": None, "tool_calls": CALLED},
        ),
        (
            Message(role="assistant", content="I look.", tool_calls=(CALL,)),
            {"role": "assistant", "content": "I look.", "tool_calls": CALLED},
        ),
        (
            Message(role="tool", content="found", tool_call_id="c1", name="search"),
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ),
    ],
)
def test_a_message(message: Message, form: dict[str, Any]) -> None:
    assert chat_message(message) == form


def test_a_tool() -> None:
    function = {"name": "search", "description": "Searches.", "parameters": {"type": "object"}}
    tool = ToolDefinition(name="search", description="Searches.", parameters={"type": "object"})
    assert chat_tool(tool) == {"type": "function", "function": function}


@pytest.mark.parametrize(("strict", "said"), [(None, {}), (True, {"strict": True}), (False, {"strict": False})])
def test_the_schema_of_an_answer(strict: bool | None, said: dict[str, bool]) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    expected: dict[str, Any] = {"name": "output", "schema": schema, **said}
    assert chat_response_format(schema, strict=strict) == {"type": "json_schema", "json_schema": expected}
    assert chat_response_format({"type": "array"}, strict=strict) is None


def added(*choices: dict[str, Any]) -> tuple[ModelAnswer, list[TextDelta | ReasoningDelta]]:
    answer = ModelAnswer(ProviderErrors("the provider at models.example", model="m1"))
    return answer, [delta for choice in choices for delta in msgspec.convert(choice, ChatChoice).add_to(answer)]


@pytest.mark.parametrize("name", ["delta", "message"])
@pytest.mark.parametrize("reasoning", ["reasoning", "reasoning_content"])
def test_a_piece_and_a_whole_message_add_the_same(name: str, reasoning: str) -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "search", "arguments": '{"q": 1}'}}
    said = {"content": "yes", reasoning: "hm", "tool_calls": [call]}
    answer, deltas = added({name: said, "finish_reason": "tool_calls"})
    assert deltas == [ReasoningDelta(text="hm", step=0), TextDelta(text="yes", step=0)]
    assert answer.end() == []
    assert answer.calls == (CALL,)
    assert answer.response().finish_reason == "tool_calls"


def test_a_refusal_of_the_model_is_its_answer_and_a_finish_reason_stays() -> None:
    answer, deltas = added({"delta": {"refusal": "No."}, "finish_reason": "stop"}, {"delta": {}}, {})
    assert deltas == [TextDelta(text="No.", step=0)]
    assert answer.finish_reason == "stop"


def test_fragments_without_a_function_or_anything_else_are_taken() -> None:
    answer, _ = added({"delta": {"tool_calls": [{"id": "a"}, {"function": {"name": "f"}}, {}]}})
    assert answer.calls == (FunctionCall(id="a", name="f"),)


def test_only_the_first_choice_counts() -> None:
    answer, deltas = added({"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"})
    assert (deltas, answer.finish_reason) == ([], "")


def test_usage_is_counted_as_one_request() -> None:
    told = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    usage = msgspec.convert(told, ChatUsage).counted(Decimal("0.5"))
    assert usage == Usage(
        input_tokens=11, output_tokens=7, cached_tokens=5, reasoning_tokens=3, requests=1, cost=Decimal("0.5")
    )
    assert ChatUsage().counted() == Usage(requests=1)


@pytest.mark.parametrize("count", [-1, 2**53 + 1, "7", 0.5])
def test_a_count_that_is_none_is_refused(count: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"prompt_tokens": count}, ChatUsage)
