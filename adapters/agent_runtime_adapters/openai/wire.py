"""The chat-completions protocol: messages and tools as JSON, and an answer put together from its chunks."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from agent_runtime import (
    AgentRuntimeError,
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
from agent_runtime_adapters.openai.provider import STATUSES, Provider


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


class Events:
    """Cuts a stream into the data of its server-sent events (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._rest: list[
            bytes
        ] = []  # of a line whose end has not come: joined once, so that a long one costs its length
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that `piece` completes."""
        if b"\n" not in piece and b"\r" not in piece:
            self._rest.append(piece)
            return
        lines = b"".join([*self._rest, piece]).splitlines(keepends=True)
        # A carriage return may be half of a line end.
        self._rest = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            name, _, value = line.rstrip(b"\r\n").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not name and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []


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
    """What a choice adds: a piece of a stream, or the whole message. Providers have two names for reasoning."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolPart] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: _Error | str | None = None


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
    """Puts an answer together from its chunks; a whole answer is one chunk. `done` after the stream's end mark."""

    def __init__(self, provider: Provider, step: int) -> None:
        self.done = False
        self._provider = provider
        self._step = step
        self._text: list[str] = []
        self._text_delta = DeltaText()
        self._reasoning_delta = DeltaText()
        self._calls: list[_PartialCall] = []
        self._open_calls: dict[int | None, _PartialCall] = {}
        self._usage = _Usage()
        self._model: str | None = None
        self._finish = ""

    def take(self, data: bytes) -> list[TextDelta | ReasoningDelta]:
        """What the chunk `data` adds for a reader; raises when it is not a chunk, or the provider's error."""
        if self.done or data == b"[DONE]":
            self.done = True
            return []
        try:
            # `json`, because msgspec refuses the lone surrogates of an emoji that was cut in two.
            chunk = msgspec.convert(json.loads(data), _Chunk)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise self._provider.malformed() from error
        if chunk.error is not None:
            raise self._reported(chunk.error)
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        return [delta for choice in chunk.choices or () if choice.index == 0 for delta in self._chosen(choice)]

    def _reported(self, error: _Error | str) -> AgentRuntimeError:
        """For an error in the place of a chunk; vLLM and OpenRouter give the HTTP status that it would have had."""
        words = (error.code, error.type) if isinstance(error, _Error) else ()
        status = next((STATUSES[str(word)] for word in words if str(word) in STATUSES), None)
        if status is not None:
            return self._provider.refusal(status, words)
        return ProviderUnavailable(f"the provider at {self._provider.host} sent an error in the place of an answer")

    def _chosen(self, choice: _Choice) -> Iterator[TextDelta | ReasoningDelta]:
        self._finish = choice.finish_reason or self._finish
        delta = choice.delta or choice.message or _Delta()
        for part in delta.tool_calls or ():
            self._take_call(part)
        yield from self._reasoned(self._reasoning_delta.feed(delta.reasoning_content or delta.reasoning or ""))
        yield from self._said(self._text_delta.feed(delta.content or delta.refusal or ""))

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
        call.arguments.append(function.arguments or "")

    def end(self) -> list[TextDelta | ReasoningDelta]:
        """What was held back. Raises when the answer broke off: without a finish reason it is not an answer."""
        if not self._finish:
            raise ProviderUnavailable(f"the stream of {self._provider.host} ended early")
        if not all(call.id and call.name for call in self._calls):
            raise self._provider.malformed()
        return [*self._reasoned(self._reasoning_delta.flush()), *self._said(self._text_delta.flush())]

    def response(self) -> ModelResponse:
        """The whole, once it has ended."""
        calls = tuple(call.finished() for call in self._calls)
        return ModelResponse(
            message=Message(role="assistant", content="".join(self._text), tool_calls=calls),
            usage=_usage(self._usage),
            finish_reason=repair_text(self._finish),
            model=repair_text(self._model or self._provider.model),
        )


def _usage(usage: _Usage) -> Usage:
    read = usage.prompt_tokens_details or _Detail()
    written = usage.completion_tokens_details or _Detail()
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=read.cached_tokens or 0,
        reasoning_tokens=written.reasoning_tokens or 0,
        requests=1,
    )
