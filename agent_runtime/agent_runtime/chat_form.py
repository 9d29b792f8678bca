"""The form of the chat-completions protocol: messages and tools as it takes them, and the parts of its answers."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from agent_runtime.model_answer import ModelAnswer
from agent_runtime.stream import ReasoningDelta, TextDelta
from agent_runtime.text import repair_text
from agent_runtime.types import Message, ToolDefinition, Usage


def chat_message(message: Message) -> dict[str, Any]:
    """A message as chat completions take it; half characters in its text are replaced."""
    form: dict[str, Any] = {"role": message.role, "content": repair_text(message.content)}
    if message.tool_calls:
        form["content"] = form["content"] or None
        form["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        form["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        form["name"] = message.name
    return form


def chat_tool(tool: ToolDefinition) -> dict[str, Any]:
    """A tool as chat completions take it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def chat_response_format(schema: Mapping[str, Any], *, strict: bool | None = None) -> dict[str, Any] | None:
    """The parameter `response_format` for an answer that fits `schema`; `strict` is left out unless it is said.

    `None` for a schema that is not of an object, which the protocol refuses.
    """
    if schema.get("type") != "object":
        return None
    format: dict[str, Any] = {"name": "output", "schema": schema}
    if strict is not None:
        format["strict"] = strict
    return {"type": "json_schema", "json_schema": format}


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class ChatTokens(msgspec.Struct):
    """Tokens that are counted apart."""

    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class ChatUsage(msgspec.Struct):
    """What a provider counted; `msgspec.convert` checks it, as it does with the others here."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: ChatTokens | None = None
    completion_tokens_details: ChatTokens | None = None

    def counted(self, cost: Decimal | None = None) -> Usage:
        """As the usage of one request; what was not counted is 0."""
        read = self.prompt_tokens_details or ChatTokens()
        written = self.completion_tokens_details or ChatTokens()
        return Usage(
            input_tokens=self.prompt_tokens or 0,
            output_tokens=self.completion_tokens or 0,
            cached_tokens=read.cached_tokens or 0,
            reasoning_tokens=written.reasoning_tokens or 0,
            requests=1,
            cost=cost,
        )


class ChatFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ChatCall(msgspec.Struct):
    """A tool call, or a fragment of one."""

    index: int | None = None
    id: str | None = None
    function: ChatFunction | None = None


class ChatDelta(msgspec.Struct):
    """What a choice adds: a piece of a stream, or the whole message. Providers have two names for reasoning."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatCall] | None = None


class ChatChoice(msgspec.Struct):
    """One choice of a chunk, or of a whole answer. Only the first is asked for: those with another index add nothing."""

    index: int = 0
    delta: ChatDelta | None = None
    message: ChatDelta | None = None
    finish_reason: str | None = None

    def add_to(self, answer: ModelAnswer) -> list[TextDelta | ReasoningDelta]:
        """Add this to `answer`; what that gives the reader of a stream."""
        if self.index != 0:
            return []
        answer.finish_reason = self.finish_reason or answer.finish_reason
        delta = self.delta or self.message or ChatDelta()
        for call in delta.tool_calls or ():
            function = call.function or ChatFunction()
            answer.add_call(call.index, id=call.id or "", name=function.name or "", arguments=function.arguments or "")
        reasoning = answer.add_reasoning(delta.reasoning_content or delta.reasoning or "")
        return [*reasoning, *answer.add_text(delta.content or delta.refusal or "")]
