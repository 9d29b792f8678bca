"""What a streamed run says, event by event: one versioned tagged union for stream, server, event log and replay."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from agent_runtime.errors import ErrorType
from agent_runtime.text import repair_values
from agent_runtime.types import NO_USAGE, Question, ResultRecord, Usage, Value

SCHEMA = 1


class StreamItem(Value, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of the events of a stream; `type` in the encoded form names the event."""


class RunStarted(StreamItem, frozen=True, kw_only=True, tag="run_started"):
    """Every run layer let the run in, and the agent starts; or a layer has answered.

    First event of a run not refused, unless a run layer emits one before.
    """

    run_id: str
    agent_id: str


class TextDelta(StreamItem, frozen=True, kw_only=True, tag="text_delta"):
    """The next piece of the answer's text, of model step `step` (from 0)."""

    text: str
    step: int = 0

    def __repr__(self) -> str:
        return f"TextDelta({len(self.text)} characters, step={self.step})"


class ReasoningDelta(StreamItem, frozen=True, kw_only=True, tag="reasoning_delta"):
    """The next piece of the model's visible reasoning; not part of the answer."""

    text: str
    step: int = 0

    def __repr__(self) -> str:
        return f"ReasoningDelta({len(self.text)} characters, step={self.step})"


class ModelStarted(StreamItem, frozen=True, kw_only=True, tag="model_started"):
    """A model call begins; or its `recorded` answer is told again, in a run that is resumed."""

    step: int = 0
    recorded: bool = False


class ModelFinished(StreamItem, frozen=True, kw_only=True, tag="model_finished"):
    """A model call gave its whole answer. `cached`: no model was asked for it."""

    step: int = 0
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    cached: bool = False


class ToolStarted(StreamItem, frozen=True, kw_only=True, tag="tool_started"):
    """A tool call begins. `recorded`: its function has done its work before this run was resumed, and does not start."""

    id: str
    name: str
    recorded: bool = False


class ToolFinished(StreamItem, frozen=True, kw_only=True, tag="tool_finished"):
    """A tool call ended; `is_error` when the model was told of a failure."""

    id: str
    name: str
    is_error: bool = False


class Reset(StreamItem, frozen=True, kw_only=True, tag="reset"):
    """Forget the text of step `step` and later: it is produced again."""

    step: int = 0


class Gap(StreamItem, frozen=True, kw_only=True, tag="gap"):
    """Events up to sequence `until` are gone; sent by a server that replays from a bounded log."""

    until: int


class RunCompleted(StreamItem, frozen=True, kw_only=True, tag="run_completed"):
    """The last event of a run that succeeded; `result` is authoritative."""

    result: ResultRecord


class RunFailed(StreamItem, frozen=True, kw_only=True, tag="run_failed"):
    """The last event of a run that failed, and the only one of a run that was refused; fields as in `AgentResult`."""

    run_id: str
    error_type: ErrorType
    error: str
    error_details: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    retryable: bool = False
    retry_after: float | None = None


class RunSuspended(StreamItem, frozen=True, kw_only=True, tag="run_suspended"):
    """The last event of a run that waits for answers."""

    run_id: str
    questions: tuple[Question, ...]


StreamEvent: TypeAlias = (
    RunStarted
    | TextDelta
    | ReasoningDelta
    | ModelStarted
    | ModelFinished
    | ToolStarted
    | ToolFinished
    | Reset
    | Gap
    | RunCompleted
    | RunFailed
    | RunSuspended
)
Emit: TypeAlias = Callable[[StreamEvent], Awaitable[None]]


class Envelope(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream event with its place: what is sent over a wire and kept in a log. `seq` counts from 1 in each run."""

    schema: int = SCHEMA
    run_id: str
    seq: int
    event: StreamEvent


async def drop(event: StreamEvent) -> None:
    """The `emit` of a run that nobody listens to."""


def encode_event(envelope: Envelope) -> bytes:
    """Encode for a wire or a log, as JSON. Half a surrogate pair, which no encoder takes, becomes U+FFFD."""
    try:
        return msgspec.json.encode(envelope)
    except UnicodeEncodeError:
        return msgspec.json.encode(repair_values(msgspec.to_builtins(envelope)))


def decode_event(data: bytes) -> Envelope:
    """Decode what `encode_event` made; anything else is a `msgspec.DecodeError`."""
    try:
        return msgspec.json.decode(data, type=Envelope)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"the event cannot be read ({type(error).__name__})") from error
