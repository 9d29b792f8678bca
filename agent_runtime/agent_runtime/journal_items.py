"""What the entries of a run's journal hold: each kind of step, and how it is stored."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec

from agent_runtime.errors import ErrorType
from agent_runtime.records import decode_record, decoder_of, encode_record
from agent_runtime.text import repair_values
from agent_runtime.types import Message, ModelResponse, Question, RunStatus, ToolResult, Value


class Item(Value, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True):
    """Base of what an entry holds."""


class Began(Item, frozen=True, kw_only=True, tag="began"):
    """The run's input. `fingerprint` is that of the agent's tools."""

    agent_id: str
    task: str
    metadata: dict[str, Any]
    messages: tuple[Message, ...] = ()
    fingerprint: str = ""


class ModelAnswered(Item, frozen=True, kw_only=True, tag="model_answered"):
    """What the agent got from a model call, after its layers."""

    step: int
    response: ModelResponse


class ToolIntended(Item, frozen=True, kw_only=True, tag="tool_intended"):
    """An `effect` tool is about to be started: until it is known to have ended, the call is in doubt."""

    key: str
    name: str
    digest: str


class ToolEnded(Item, frozen=True, kw_only=True, tag="tool_ended"):
    """What a tool's function gave: a result, or the error that the model was told."""

    key: str
    name: str
    digest: str
    result: ToolResult | None = None
    error: str = ""
    error_type: ErrorType | None = None


class ToolWithdrawn(Item, frozen=True, kw_only=True, tag="tool_withdrawn"):
    """A tool that was intended has not been started, and will not be by this process."""

    key: str


class Asked(Item, frozen=True, kw_only=True, tag="asked"):
    """The run waits for answers."""

    questions: tuple[Question, ...]


class Resumed(Item, frozen=True, kw_only=True, tag="resumed"):
    """Another run goes on with this one."""

    run_id: str
    answers: dict[str, Any]


class Restarted(Item, frozen=True, kw_only=True, tag="restarted"):
    """A layer had the agent start again: it asks its model anew."""


class StateKept(Item, frozen=True, kw_only=True, tag="state_kept"):
    """Durable state that has changed, by the name of its key."""

    values: dict[str, Any]


class Stopped(Item, frozen=True, kw_only=True, tag="stopped"):
    """The run ended and was not finished."""

    status: RunStatus
    error_type: ErrorType | None = None


JournalItem: TypeAlias = (
    Began | ModelAnswered | ToolIntended | ToolEnded | ToolWithdrawn | Asked | Resumed | Restarted | StateKept | Stopped
)

_decoder: msgspec.msgpack.Decoder[tuple[JournalItem, ...]] = decoder_of(tuple[JournalItem, ...])


def encode_entry(items: Iterable[JournalItem]) -> bytes:
    """The record of some items."""
    items = tuple(items)
    try:
        return encode_record(items)
    except UnicodeEncodeError:  # half a surrogate pair, from a client that has not repaired its text
        return encode_record(repair_values(msgspec.to_builtins(items)))


def decode_entry(data: bytes, what: str) -> tuple[JournalItem, ...]:
    """The items of a record. Raises `CorruptRecord`, with `what` in the message."""
    return decode_record(data, _decoder, what)
