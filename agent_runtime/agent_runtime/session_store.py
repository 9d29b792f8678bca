"""What a backend implements to keep sessions: bytes in, bytes out, each operation one atomic step."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from agent_runtime.errors import (
    InvalidInput,
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
    """A session as the store has it. Times are Unix seconds by the store's clock; `version` counts writes from 1.

    `holder` is who holds the lease now; `None` when nobody does, or its time is up.
    """

    session_id: str
    fields: SessionFields
    version: int
    message_count: int
    created_at: float
    updated_at: float
    expires_at: float
    holder: str | None = None


class StoredCheckpoint(Value, frozen=True, kw_only=True):
    """A checkpoint as the store has it: `sequence` counts from 1 in the session and no number is given twice.

    `message_count` is the length of the conversation, `created_at` Unix seconds by the store's clock, when it was put.
    """

    checkpoint_id: str
    data: bytes
    sequence: int
    message_count: int
    created_at: float


class LeaseToken(Value, frozen=True, kw_only=True):
    """What proves a lease to the store: who took it, and the fencing token, which is larger for each lease of a session.

    It holds until the session is leased to another holder or the lease is given back: one whose time is up, and that
    nobody else has taken, still holds.
    """

    holder: str
    fence: int


class StoredLease(Value, frozen=True, kw_only=True):
    """A lease as it was given, and the session as it is then."""

    token: LeaseToken
    session: StoredSession


class StoredRun(Value, frozen=True, kw_only=True):
    """A run that has entries and is not finished: `sequence` counts the session's runs from 1, never a number twice.

    `message_count` is the length of the conversation when the run began; times are Unix seconds by the store's clock.
    """

    run_id: str
    sequence: int
    entry_count: int
    message_count: int
    created_at: float
    updated_at: float


class SessionContent(Value, frozen=True, kw_only=True):
    """What a new session starts with: messages, and checkpoints with their `message_count`, the oldest first."""

    messages: MessageBatch | None = None
    checkpoints: tuple[StoredCheckpoint, ...] = ()


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


RUNS_KEPT = 32
"""How many unfinished runs a session has at most; a new one takes the place of the oldest."""
OPERATIONS_KEPT = 100
"""How many of a session's last `write` operations are known again."""


class Refusal(StrEnum):
    """Why a store did not do it; then nothing has changed. What they say of sessions holds for values and logs too."""

    MISSING = "missing"
    """No such session, checkpoint or run, or another owner's."""
    EXISTS = "exists"
    """The owner has a session, or the session has another checkpoint, of this id."""
    CHANGED = "changed"
    """The session is not at the expected version or message count, or the run not at the expected entry."""
    CLOSED = "closed"
    """The session takes no more messages, checkpoints and runs."""
    HELD = "held"
    """Somebody else holds the lease."""
    FENCED = "fenced"
    """The lease of this token is over: another holder has taken the session since, or it was given back."""
    FULL = "full"
    """`max_sessions` is reached."""
    OWNER_FULL = "owner_full"
    """`max_sessions_per_user` is reached."""


class SessionStore(Protocol):
    """Sessions, each with its messages, its checkpoints, and the entries of its unfinished runs.

    - A session is named by owner *and* id, both compared exactly: nobody sees, changes or counts another owner's, and two
      owners may use the same id.
    - Each method is one atomic step and one await. Cancelled or failing, it is done as a whole or not at all.
    - A session lives until `expires_at`; from that moment on it, all that belongs to it and its index entries are gone for
      every method but `expire`. Each write sets `expires_at` to `ttl` seconds (above 0) from now, by the store's clock, or
      to the end of the lease where that is later.
    - A write can be repeated: the same `operation` (or checkpoint id, holder, or entry number with the same data) again
      changes nothing and answers like the first, whatever happened since. An operation is known while the session lives;
      of `write`, the last 100.
    - With `lease`, a write is done only while that token holds, which is checked in the same step; otherwise `FENCED`.
    - Bytes come back as they were. Callers have checked all arguments: ids, holders and operations are
      `[A-Za-z0-9_-]{1,128}`, names are 1–255 printable characters (any script, also `:`, `*` and quotes), counts are from 0
      to 2**53 - 1.
    - `StoreUnavailable` when the backend cannot be reached, `OutcomeUnknown` when a write was sent and no answer came. An
      outage never looks like an absent session.
    """

    # Sessions

    async def create(
        self,
        owner: Owner,
        session_id: str,
        fields: SessionFields,
        quota: SessionQuota,
        *,
        operation: str,
        content: SessionContent | None = None,
    ) -> StoredSession | Refusal:
        """Add a session, empty or with `content`, whose checkpoints are numbered anew from 1.

        Refuses `EXISTS`, `FULL`, `OWNER_FULL`; expired sessions are not counted. A repeated operation answers with the
        session as it is now.
        """
        ...

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        """The session without what belongs to it."""
        ...

    async def write(
        self,
        owner: Owner,
        session_id: str,
        fields: SessionFields,
        *,
        expected: int,
        ttl: float,
        operation: str,
        lease: LeaseToken | None = None,
    ) -> StoredSession | Refusal:
        """Set the fields and add 1 to the version, if that is `expected`. Refuses `MISSING`, `FENCED`, `CHANGED`.

        A repeated operation answers with the session as it is now.
        """
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

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        """Add session `new_id`, open, with the fields, the messages up to the checkpoint, and the checkpoint as its first.

        Refuses `MISSING`, `EXISTS`, `FULL`, `OWNER_FULL`. The session that is forked stays as it is. A repeated operation
        answers with the new session as it is now.
        """
        ...

    async def expire(self) -> Sequence[ExpiredSession]:
        """Remove sessions whose time is up, at most 1,000, and return them; each is returned to one caller only."""
        ...

    # Messages

    async def append(
        self,
        owner: Owner,
        session_id: str,
        batch: MessageBatch,
        *,
        expected: int | None,
        ttl: float,
        operation: str,
        lease: LeaseToken | None = None,
    ) -> int | Refusal:
        """Add messages, of which there is one at least, and return the new message count; the version stays.

        What is there is not written again: the cost is that of the batch. Refuses `MISSING`, `CLOSED`, `FENCED`, `HELD`
        without `lease` while there is a holder, and `CHANGED` when `expected` is given and not the message count. A
        repeated operation answers with the count that it gave.
        """
        ...

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        """The messages in order, or the `last` so many; `None` without the session."""
        ...

    # Checkpoints

    async def put_checkpoint(
        self,
        owner: Owner,
        session_id: str,
        checkpoint_id: str,
        data: bytes,
        *,
        ttl: float,
        lease: LeaseToken | None = None,
    ) -> StoredCheckpoint | Refusal:
        """Add a checkpoint with the next sequence number. The same id and data again change nothing.

        Refuses `MISSING`, `CLOSED`, `FENCED`, and `EXISTS` when the id is there with other data.
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

    # Leases

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        """Give `holder` the lease for `seconds`, by the store's clock; with `entry`, it begins run `holder` in the same step.

        A lease that holds is given to its holder again, as `renew` does, also when its time is up; otherwise the fencing
        token is larger than any before. Refuses `MISSING`, `HELD`, `CLOSED` for a new lease or run, and `CHANGED` when run
        `holder` has begun with another entry.
        """
        ...

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        """Have the lease last `seconds` from now, and the session at least as long. Refuses `MISSING`, `FENCED`."""
        ...

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        """Give the lease back; false when it did not hold. `expires_at` stays."""
        ...

    # Runs

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        """Add entry `number` to the run and return `number`; number 1 begins the run.

        The entries are not written again: the cost is that of this one. A new run is the session's next in sequence, and
        takes the place of the oldest where there are 32. The same number and entry again change nothing.
        Refuses `MISSING` (also a run that has not begun or is gone), `FENCED`, `CLOSED` for number 1, and `CHANGED` when
        the run's next entry has another number.
        """
        ...

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        """The session's unfinished runs, the highest sequence first. Empty without the session."""
        ...

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        """The run's entries in order. Empty without the run."""
        ...

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        """Add the messages, remove the run with its entries, give the lease back; return the message count.

        The run need not have begun. The lease's holder is the operation, and finishes once: when its messages are there,
        the count that they gave is returned again. Without a batch, a run that is not there is finished already (the
        lease is given back where it holds). Refuses `MISSING` without the session, `FENCED`, also when another holder has
        finished the run, and `CLOSED` with a batch.
        """
        ...

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        """Remove an unfinished run; whether there was one. `expires_at` stays.

        Refuses `HELD` while the session has a holder, also when there is no such run.
        """
        ...
