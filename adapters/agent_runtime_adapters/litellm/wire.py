"""Messages and tools as litellm takes them, and an answer put together from its chunks."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from agent_runtime import (
    DeltaText,
    FunctionCall,
    Message,
    ModelResponse,
    ProviderUnavailable,
    ReasoningDelta,
    TextDelta,
    ToolDefinition,
    Usage,
    repair_text,
)
from agent_runtime_adapters.litellm.provider import Provider

T = TypeVar("T")

# litellm calls every reason `stop` that it does not know, and these are a stop; any other word is passed on.
STOPS = frozenset({"stop", "stop_sequence", "end_turn", "COMPLETE", "eos", "eos_token", "STOP"})
FAILED = frozenset({"error", "ERROR", "network_error"})


def wire_message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": repair_text(message.content)}
    if message.tool_calls:
        wire["content"] = wire["content"] or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        wire["name"] = message.name
    return wire


def wire_tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Detail(msgspec.Struct):
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Detail | None = None
    completion_tokens_details: _Detail | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolPart(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    """What a choice adds: a piece of a stream, or the whole message."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolPart] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    provider_specific_fields: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None


class _PartialCall:
    """A tool call on its way."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def finished(self) -> FunctionCall:
        arguments = repair_text("".join(self.arguments))
        return FunctionCall(id=repair_text(self.id), name=repair_text(self.name), arguments=arguments or "{}")


class Answer:
    """Puts an answer together from litellm's chunks, at most `max_bytes` of text; a whole answer is one chunk."""

    def __init__(self, provider: Provider, step: int, max_bytes: int) -> None:
        self._provider = provider
        self._step = step
        self._limit = max_bytes
        self._left = max_bytes
        self._text: list[str] = []
        self._text_delta = DeltaText()
        self._reasoning_delta = DeltaText()
        self._calls: list[_PartialCall] = []
        self._open_calls: dict[int | None, _PartialCall] = {}
        self._usage: object = None
        self._served: str | None = None  # what the provider says; on a chunk litellm puts what it was asked for
        self._model: str | None = None
        self._finish = ""
        self._told = ""

    def take(self, received: object) -> list[TextDelta | ReasoningDelta]:
        """What a chunk adds for a reader; raises when it makes no sense, or with it the answer is too large."""
        chunk = self._read(received, _Chunk)
        served = getattr(received, "_hidden_params", {}).get("provider_response_model")
        self._served = served or self._served
        self._model = chunk.model or self._model
        return [delta for choice in chunk.choices or () if choice.index == 0 for delta in self._chosen(choice)]

    def _read(self, received: object, kind: type[T]) -> T:
        try:
            return msgspec.convert(received, kind, from_attributes=True)
        except msgspec.ValidationError as error:
            raise self._provider.malformed() from error

    def _chosen(self, choice: _Choice) -> Iterator[TextDelta | ReasoningDelta]:
        self._finish = choice.finish_reason or self._finish
        self._told = (choice.provider_specific_fields or {}).get("native_finish_reason") or self._told
        delta = choice.delta or choice.message or _Delta()
        for part in delta.tool_calls or ():
            self._take_call(part)
        yield from self._reasoned(self._reasoning_delta.feed(self._allowed(delta.reasoning_content)))
        yield from self._said(self._text_delta.feed(self._allowed(delta.content or delta.refusal)))

    def _allowed(self, text: str | None) -> str:
        self._left -= len((text or "").encode("utf-8", "surrogatepass"))
        if self._left < 0:
            raise ProviderUnavailable(f"the answer of {self._provider.name} is larger than {self._limit} bytes")
        return text or ""

    def _said(self, text: str) -> Iterator[TextDelta]:
        if text:
            self._text.append(text)
            yield TextDelta(text=text, step=self._step)

    def _reasoned(self, text: str) -> Iterator[ReasoningDelta]:
        if text:
            yield ReasoningDelta(text=text, step=self._step)

    def _take_call(self, part: _ToolPart) -> None:
        """Add a fragment to its call. Another id begins another call: not every provider counts the index."""
        call = self._open_calls.get(part.index)
        if call is None or (part.id and call.id and part.id != call.id):
            call = self._open_calls[part.index] = _PartialCall()
            self._calls.append(call)
        function = part.function or _Function()
        call.id = call.id or part.id or ""
        call.name = call.name or function.name or ""
        call.arguments.append(self._allowed(function.arguments))

    def end(self, told: str | None, usage: object) -> list[TextDelta | ReasoningDelta]:
        """What was held back. `told` is the reason to finish that the provider gave: without one the answer broke off,
        whatever reason litellm puts on its last chunk. `usage` is what the provider counted.
        """
        self._told = self._told or told or ""
        if not self._told:
            raise ProviderUnavailable(f"the stream of {self._provider.name} ended early")
        if self._told in FAILED:
            raise ProviderUnavailable(f"the provider {self._provider.name} broke its answer off with an error")
        if self._finish == "stop" and self._told not in STOPS:
            self._finish = self._told
        promised = self._finish == "tool_calls"  # litellm leaves out a call that has no name
        if not all(call.id and call.name for call in self._calls) or (promised and not self._calls):
            raise self._provider.malformed()
        self._usage = usage
        return [*self._reasoned(self._reasoning_delta.flush()), *self._said(self._text_delta.flush())]

    def response(self) -> ModelResponse:
        """The whole, once it has ended."""
        calls = tuple(call.finished() for call in self._calls)
        return ModelResponse(
            message=Message(role="assistant", content="".join(self._text), tool_calls=calls),
            usage=self._counted(),
            finish_reason=repair_text(self._finish or self._told),
            model=repair_text(self._served or self._model or self._provider.model),
        )

    def _counted(self) -> Usage:
        usage = self._read(self._usage, _Usage) if self._usage is not None else _Usage()
        read = usage.prompt_tokens_details or _Detail()
        written = usage.completion_tokens_details or _Detail()
        return Usage(
            input_tokens=usage.prompt_tokens or 0,
            output_tokens=usage.completion_tokens or 0,
            cached_tokens=read.cached_tokens or 0,
            reasoning_tokens=written.reasoning_tokens or 0,
            requests=1,
            cost=self._provider.cost(self._usage) if usage.prompt_tokens or usage.completion_tokens else None,
        )


def last_usage(chunks: list[object]) -> object:
    """What the provider counted. litellm's last chunk holds its own estimate where there is none."""
    return next((usage for chunk in reversed(chunks) if (usage := getattr(chunk, "usage", None)) is not None), None)
