"""An answer put together from litellm's chunks."""

from typing import Any, TypeVar

import msgspec

from agent_runtime import (
    ChatChoice,
    ChatUsage,
    ModelAnswer,
    ProviderUnavailable,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from agent_runtime_adapters.litellm.provider import Provider

T = TypeVar("T")

# litellm calls every reason `stop` that it does not know, and these are a stop; any other word is passed on.
STOPS = frozenset({"stop", "stop_sequence", "end_turn", "COMPLETE", "eos", "eos_token", "STOP"})
FAILED = frozenset({"error", "ERROR", "network_error"})


class _Choice(ChatChoice):
    provider_specific_fields: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None


class Answer(ModelAnswer):
    """An answer from litellm's chunks, at most `max_bytes` of text; a whole answer is one chunk."""

    def __init__(self, provider: Provider, *, step: int, max_bytes: int) -> None:
        super().__init__(provider, step=step, max_bytes=max_bytes)
        self._provider = provider
        self._served: str | None = None  # what the provider says; on a chunk litellm puts what it was asked for
        self._told = ""

    def take(self, received: object) -> list[TextDelta | ReasoningDelta]:
        """What a chunk adds for a reader; raises when it makes no sense, or with it the answer is too large."""
        chunk = self._read(received, _Chunk)
        served = getattr(received, "_hidden_params", {}).get("provider_response_model")
        self._served = served or self._served
        self.model = self._served or chunk.model or self.model
        return [delta for choice in chunk.choices or () for delta in self._chosen(choice)]

    def _read(self, received: object, kind: type[T]) -> T:
        try:
            return msgspec.convert(received, kind, from_attributes=True)
        except msgspec.ValidationError as error:
            raise self.errors.malformed() from error

    def _chosen(self, choice: _Choice) -> list[TextDelta | ReasoningDelta]:
        if choice.index == 0:
            self._told = (choice.provider_specific_fields or {}).get("native_finish_reason") or self._told
        return choice.add_to(self)

    def finish(self, told: str | None, usage: object) -> list[TextDelta | ReasoningDelta]:
        """What was held back. `told` is the reason to finish that the provider gave: without one the answer broke off,
        whatever reason litellm puts on its last chunk. `usage` is what the provider counted.
        """
        self._told = self._told or told or ""
        if not self._told:
            raise self.errors.ended_early()
        if self._told in FAILED:
            raise ProviderUnavailable(f"{self.errors.who} broke its answer off with an error")
        if not self.finish_reason or (self.finish_reason == "stop" and self._told not in STOPS):
            self.finish_reason = self._told
        if self.finish_reason == "tool_calls" and not self.calls:  # litellm leaves out a call that has no name
            raise self.errors.malformed()
        self.usage = self._counted(usage)
        return self.end()

    def _counted(self, usage: object) -> Usage:
        if usage is None:
            return Usage(requests=1)
        counted = self._read(usage, ChatUsage)
        known = counted.prompt_tokens or counted.completion_tokens
        return counted.counted(self._provider.cost(usage) if known else None)


def last_usage(chunks: list[object]) -> object:
    """What the provider counted. litellm's last chunk holds its own estimate where there is none."""
    return next((usage for chunk in reversed(chunks) if (usage := getattr(chunk, "usage", None)) is not None), None)
