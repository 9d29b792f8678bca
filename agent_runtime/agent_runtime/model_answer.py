"""A model's answer, put together from the pieces in which it comes."""

from agent_runtime.provider_errors import ProviderErrors
from agent_runtime.stream import ReasoningDelta, TextDelta
from agent_runtime.text import DeltaText, repair_text
from agent_runtime.types import FunctionCall, Message, ModelResponse, Usage


class _PartialCall:
    """A tool call on its way."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def finished(self) -> FunctionCall:
        arguments = repair_text("".join(self.arguments))
        return FunctionCall(id=repair_text(self.id), name=repair_text(self.name), arguments=arguments or "{}")


class ModelAnswer:
    """Puts an answer together: add its pieces as they come, then `end()`, then take the `response()`.

    The deltas that a method returns are for the reader of a stream; half an emoji is held back until its other half comes. An
    answer that comes whole is one piece. With `max_bytes`, one whose text, reasoning and arguments are larger as UTF-8 is
    `ProviderUnavailable`.

    Attributes:
        errors: The provider's, made here for an answer that is none.
        finish_reason: Why the model stopped, set when the provider says so. Without it there is no end.
        model: Which model answered; the one that was asked for, unless the provider names another.
        usage: What the provider counted.
    """

    def __init__(self, errors: ProviderErrors, *, step: int = 0, max_bytes: int | None = None) -> None:
        self.errors = errors
        self.finish_reason = ""
        self.model = errors.model
        self.usage = Usage(requests=1)
        self._step = step
        self._max_bytes = max_bytes
        self._bytes = 0
        self._text: list[str] = []
        self._text_delta = DeltaText()
        self._reasoning_delta = DeltaText()
        self._calls: list[_PartialCall] = []
        self._open_calls: dict[int | None, _PartialCall] = {}

    def add_text(self, piece: str) -> list[TextDelta]:
        return self._said(self._text_delta.feed(self._allowed(piece)))

    def add_reasoning(self, piece: str) -> list[ReasoningDelta]:
        return self._reasoned(self._reasoning_delta.feed(self._allowed(piece)))

    def add_call(self, index: int | None, *, id: str = "", name: str = "", arguments: str = "") -> None:
        """Add a fragment to the tool call at `index`; id and name count the first time, arguments are joined.

        Another id begins another call: not every provider counts the index.
        """
        call = self._open_calls.get(index)
        if call is None or (id and call.id and id != call.id):
            call = self._open_calls[index] = _PartialCall()
            self._calls.append(call)
        call.id = call.id or id
        call.name = call.name or name
        call.arguments.append(self._allowed(arguments))

    @property
    def calls(self) -> tuple[FunctionCall, ...]:
        """The tool calls, as far as they have come."""
        return tuple(call.finished() for call in self._calls)

    def end(self) -> list[TextDelta | ReasoningDelta]:
        """What was held back. `ProviderUnavailable` without a finish reason, or when a tool call has no id or no name."""
        if not self.finish_reason:
            raise self.errors.ended_early()
        if not all(call.id and call.name for call in self._calls):
            raise self.errors.malformed()
        return [*self._reasoned(self._reasoning_delta.flush()), *self._said(self._text_delta.flush())]

    def response(self) -> ModelResponse:
        """The whole, once it has ended."""
        return ModelResponse(
            message=Message(role="assistant", content="".join(self._text), tool_calls=self.calls),
            usage=self.usage,
            finish_reason=repair_text(self.finish_reason),
            model=repair_text(self.model),
        )

    def _allowed(self, piece: str) -> str:
        if self._max_bytes is not None:
            self._bytes += len(piece.encode("utf-8", "surrogatepass"))
            if self._bytes > self._max_bytes:
                raise self.errors.too_large(self._max_bytes)
        return piece

    def _said(self, text: str) -> list[TextDelta]:
        if not text:
            return []
        self._text.append(text)
        return [TextDelta(text=text, step=self._step)]

    def _reasoned(self, text: str) -> list[ReasoningDelta]:
        return [ReasoningDelta(text=text, step=self._step)] if text else []
