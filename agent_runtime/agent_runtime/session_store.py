"""What a backend implements to keep sessions: bytes in, bytes out, each operation one atomic step."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from agent_runtime.errors import (
    AgentRuntimeError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    SessionConflict,
)
from agent_runtime.records import decode_record, encode_payload, frame
from agent_runtime.types import Message, Owner, Value

_decoder = msgspec.msgpack.Decoder(tuple[Message, ...])


class MessageBatch(Value, frozen=True, kw_only=True):
    """The messages of one append. A store keeps `data`, and gets the messages back with `MessageBatch.stored(data)`.

    `messages` is decoded from what is stored: nothing in it belongs to a caller or can change, so it may be shared.
    """

    payload: bytes
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: Sequence[Message]) -> "MessageBatch":
        """Encode; `InvalidInput` for what is no message, or has a field of the wrong type."""
        try:
            payload = encode_payload(messages)
            return cls(payload=payload, messages=_decoder.decode(payload))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidInput("a message has a field of the wrong type, or text that is not Unicode") from error

    @staticmethod
    def stored(data: bytes) -> tuple[Message, ...]:
        """The messages of a batch's `data`. Raises `CorruptRecord`."""
        return decode_record(data, _decoder, "a part of the conversation")

    @property
    def data(self) -> bytes:
        """The batch as a record."""
        return frame(self.payload)

    def __repr__(self) -> str:
        return f"MessageBatch({len(self.messages)} messages, {len(self.payload)} bytes)"


class SessionFields(Value, frozen=True, kw_only=True):
    """What a write sets, all of it: `agent_id` for `delete_all`, `data` is opaque, a `closed` session grows no more."""

    agent_id: str
    data: bytes
    closed: bool = False


class StoredSession(Value, frozen=True, kw_only=True):
    """A session as the store has it. Times are Unix seconds by the store's clock; `version` counts writes from 1."""

    session_id: str
    fields: SessionFields
    version: int
    message_count: int
    created_at: float
    updated_at: float
    expires_at: float


class StoredCheckpoint(Value, frozen=True, kw_only=True):
    """A checkpoint as the store has it: `sequence` counts from 1 in the session and no number is given twice.

    `message_count` is the length of the conversation, `created_at` Unix seconds by the store's clock, when it was put.
    """

    checkpoint_id: str
    data: bytes
    sequence: int
    message_count: int
    created_at: float


class ExpiredSession(Value, frozen=True, kw_only=True):
    """Which session's time was up."""

    owner: Owner
    session_id: str
    agent_id: str


class SessionQuota(Value, frozen=True, kw_only=True):
    """What a new session is given: it lives `ttl` seconds, where the owner, and everybody, have fewer than so many."""

    ttl: float
    max_sessions: int | None = None
    max_sessions_per_user: int | None = None


class Refusal(StrEnum):
    """Why a store did not do it; then nothing has changed."""

    MISSING = "missing"
    """No such session or checkpoint, or another owner's."""
    EXISTS = "exists"
    """The owner has a session, or the session has another checkpoint, of this id."""
    CHANGED = "changed"
    """The session is not at the expected version or message count."""
    CLOSED = "closed"
    """The session takes no more messages and checkpoints."""
    FULL = "full"
    """`max_sessions` is reached."""
    OWNER_FULL = "owner_full"
    """`max_sessions_per_user` is reached."""


def refused(refusal: Refusal, session_id: str, quota: SessionQuota) -> AgentRuntimeError:
    """The error that tells a caller of `refusal`."""
    if refusal is Refusal.MISSING:
        return NotFound(f"there is no session {session_id!r} of this owner, or no such checkpoint in it")
    if refusal is Refusal.FULL:
        return _too_many(quota.max_sessions, "max_sessions")
    if refusal is Refusal.OWNER_FULL:
        return _too_many(quota.max_sessions_per_user, "max_sessions_per_user")
    return SessionConflict(f"session {session_id!r} {_CONFLICTS[refusal]}")


_CONFLICTS = {
    Refusal.EXISTS: "exists already, or its checkpoint of this id has another state; choose another id",
    Refusal.CHANGED: "changed since it was read; read it again",
    Refusal.CLOSED: "is closed and takes no more messages and checkpoints; make a new one, or fork it",
}


def _too_many(limit: int | None, name: str) -> LimitExceeded:
    return LimitExceeded(
        f"there are {limit} sessions, the limit ({name}); delete one, or wait until one expires",
        details={"field": name, "limit": limit, "remaining": 0},
    )


class SessionStore(Protocol):
    """Sessions, each with its messages and checkpoints.

    - A session is named by owner *and* id, both compared exactly: nobody sees, changes or counts another owner's, and two
      owners may use the same id.
    - Each method is one atomic step and one await. Cancelled or failing, it is done as a whole or not at all.
    - A session lives until `expires_at`; from that moment on it, its messages, checkpoints and index entries are gone for
      every method but `expire`. Each write sets `expires_at` to `ttl` seconds (above 0) from now, by the store's clock.
    - Bytes come back as they were. Callers have checked all arguments: ids are `[A-Za-z0-9_-]{1,128}`, names are 1–255
      printable characters (any script, also `:`, `*` and quotes), counts are not negative.
    - `StoreUnavailable` when the backend cannot be reached, `OutcomeUnknown` when a write was sent and no answer came. An
      outage never looks like an absent session.
    """

    async def create(
        self, owner: Owner, session_id: str, fields: SessionFields, quota: SessionQuota
    ) -> StoredSession | Refusal:
        """Add an empty session. Refuses `EXISTS`, `FULL`, `OWNER_FULL`; expired sessions are not counted."""
        ...

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        """The session without its messages and checkpoints."""
        ...

    async def write(
        self, owner: Owner, session_id: str, fields: SessionFields, *, expected: int, ttl: float
    ) -> StoredSession | Refusal:
        """Set the fields and add 1 to the version, if that is `expected`. Refuses `MISSING`, `CHANGED`."""
        ...

    async def delete(self, owner: Owner, session_id: str) -> bool:
        """Remove the session and all that belongs to it; whether there was one."""
        ...

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        """Remove all sessions of the owner, or those with this agent; how many there were."""
        ...

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        """All sessions of the owner, in any order, as they were at one moment."""
        ...

    async def count(self, owner: Owner) -> int:
        """How many sessions the owner has."""
        ...

    async def append(
        self, owner: Owner, session_id: str, batch: MessageBatch, *, expected: int | None, ttl: float
    ) -> int | Refusal:
        """Add messages, of which there is one at least, and return the new message count; the version stays.

        What is there is not written again: the cost is that of the batch. Refuses `MISSING`, `CLOSED`, and `CHANGED` when
        `expected` is given and not the message count.
        """
        ...

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        """The messages in order, or the `last` so many; `None` without the session."""
        ...

    async def put_checkpoint(
        self, owner: Owner, session_id: str, checkpoint_id: str, data: bytes, *, ttl: float
    ) -> StoredCheckpoint | Refusal:
        """Add a checkpoint with the next sequence number. The same id and data again change nothing.

        Refuses `MISSING`, `CLOSED`, and `EXISTS` when the id is there with other data.
        """
        ...

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        """All checkpoints, or this one, or the `last` so many; the highest sequence first. Empty without the session."""
        ...

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        """Remove all checkpoints, or this one; how many there were. `expires_at` stays."""
        ...

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota
    ) -> StoredSession | Refusal:
        """Add session `new_id`, open, with the fields, the messages up to the checkpoint, and the checkpoint as its first.

        Refuses `MISSING`, `EXISTS`, `FULL`, `OWNER_FULL`. The session that is forked stays as it is.
        """
        ...

    async def expire(self) -> Sequence[ExpiredSession]:
        """Remove sessions whose time is up, at most 1,000, and return them; each is returned to one caller only."""
        ...
