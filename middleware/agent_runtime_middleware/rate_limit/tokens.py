"""How many tokens are used: guessed before, seen after."""

import math
from collections.abc import Awaitable

from agent_runtime import (
    AgentRuntimeError,
    Emit,
    ModelRequest,
    ModelResponse,
    OutcomeUnknown,
    ReasoningDelta,
    Reset,
    Run,
    StreamEvent,
    TextDelta,
)
from agent_runtime_middleware.rate_limit.quota import Wanted

_TOO_MANY = 1 << 53  # a double counts no further; whoever says so, or NaN, does not count


def wanted(request: ModelRequest) -> Wanted:
    answer = request.parameters.get("max_tokens")
    return Wanted(
        context=request.context,
        model=request.model,
        input=_input_tokens(request),
        answer=answer if isinstance(answer, int | float) and 0 <= answer < math.inf else None,
    )


class RunSeen:
    """What a run uses, from the moment this is made."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tokens = _tokens(run)
        self._executions = run.executions

    def used(self, error: BaseException | None = None) -> float | None:
        """Tokens; `None` where nobody knows: the agent worked, and does not say."""
        grown = _tokens(self._run) - self._tokens
        if 0 < grown < _TOO_MANY:
            return grown
        return 0 if self._run.executions == self._executions or _was_refused(error) else None


class CallSeen:
    """What a model call uses, from the moment this is made. Of what is broken off, each piece is a token."""

    def __init__(self, request: ModelRequest, input_tokens: int) -> None:
        self._run = request.run
        self._emit: Emit = request.emit
        self._input = input_tokens
        self._calls = request.run.model_calls
        self._pieces = 0
        self._withdrawn = 0

    def emit(self, event: StreamEvent) -> Awaitable[None]:
        kind = type(event)
        if kind is TextDelta or kind is ReasoningDelta:
            self._pieces += 1
        elif kind is Reset:
            self._withdrawn = self._pieces
        return self._emit(event)

    def used_for(self, response: ModelResponse) -> float:
        """Tokens of an answer. From a model that does not count them they are estimated; a cached answer has none."""
        told = response.usage.input_tokens + response.usage.output_tokens
        if not 0 < told < _TOO_MANY:
            told = self._input + _quarter(_size(response.text)) if self._asked and not response.cached else 0
        return told + self._withdrawn

    def used_in_vain(self, error: BaseException) -> float:
        """Tokens of a call without an answer; none where no model was asked, or it refused before it said anything."""
        if not self._asked or (not self._pieces and _was_refused(error)):
            return 0
        return self._input + self._pieces

    @property
    def _asked(self) -> bool:
        return self._run.model_calls > self._calls


def _input_tokens(request: ModelRequest) -> int:
    """About four bytes of English are one token, whichever the model."""
    size = 0
    for message in request.messages:
        size += _size(message.content)
        size += sum(_size(call.name) + _size(call.arguments) for call in message.tool_calls)
    for tool in request.tools:
        size += _size(tool.name) + _size(tool.description) + len(str(tool.parameters))
    return _quarter(size)


def _was_refused(error: BaseException | None) -> bool:
    """Whether the one who was asked did not begin; one that took too long, or of whom nobody knows, may have."""
    return isinstance(error, AgentRuntimeError) and not isinstance(error, TimeoutError | OutcomeUnknown)


def _tokens(run: Run) -> int:
    return run.usage.input_tokens + run.usage.output_tokens


def _quarter(size: int) -> int:
    return -(-size // 4)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
