"""What is stored of a thread: each part is the state of one checkpoint of its session."""

from typing import Any, TypeAlias, TypeVar

import msgspec

from agent_runtime import Checkpoint, CorruptRecord, InvalidInput

try:
    from langgraph.checkpoint.serde.base import SerializerProtocol
except ImportError as error:
    raise ImportError("LangGraphSaver needs LangGraph: pip install 'onion-agent-runtime[langgraph]'") from error

T = TypeVar("T")

# What a serializer of LangGraph's may write and, before a `+`, encrypt. Not "json", which makes objects of the names in
# it, and not "pickle".
_KINDS = frozenset({"null", "bytes", "bytearray", "msgpack"})
Packed: TypeAlias = tuple[str, bytes]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Of one namespace of a thread; made of JSON values by `msgspec.to_builtins`."""

    ns: str


class CheckpointRecord(Record, frozen=True, kw_only=True, tag="checkpoint"):
    """A checkpoint of LangGraph's; `parent` is the id of the one that it follows."""

    id: str
    parent: str | None
    checkpoint: Packed
    metadata: Packed


class WritesRecord(Record, frozen=True, kw_only=True, tag="writes"):
    """What a task gave in one call: channel and value by index. `nonce` tells a repeated call from another one."""

    id: str
    task: str
    path: str
    nonce: str
    writes: tuple[tuple[int, str, Packed], ...]


class NamespaceRecord(Record, frozen=True, kw_only=True, tag="namespace"):
    """The namespace has, or had, checkpoints: whoever asks for the latest of one that has none is told at once."""


def record_of(stored: Checkpoint, kind: type[T]) -> T:
    """What is stored, as the record that it is. Raises `CorruptRecord`."""
    try:
        return msgspec.convert(stored.state, type=kind)
    except msgspec.ValidationError as error:
        raise CorruptRecord(f"{stored.checkpoint_id!r} of session {stored.session_id!r} is damaged") from error


def pack(serde: SerializerProtocol, value: Any, what: str) -> Packed:
    """Encode. Raises `InvalidInput` for what the serializer does not take."""
    try:
        kind, data = serde.dumps_typed(value)
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidInput(f"{what} holds a value that cannot be stored", details={"field": what}) from error
    if kind.partition("+")[0] not in _KINDS:
        raise InvalidInput(f"{what} would be stored as {kind[:20]!r}, which is not read again", details={"field": what})
    return kind, bytes(data)


def unpack(serde: SerializerProtocol, packed: Packed, what: str) -> Any:
    """Decode. Raises `CorruptRecord`, also for a form that could make objects of any class."""
    if packed[0].partition("+")[0] not in _KINDS:
        raise CorruptRecord(f"{what} cannot be read: it is stored as {packed[0][:20]!r}")
    try:
        return serde.loads_typed(packed)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:  # and their subclasses
        raise CorruptRecord(f"{what} cannot be read: it is a record of something else") from error
