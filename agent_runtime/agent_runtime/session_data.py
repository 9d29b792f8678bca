"""What a caller sees of a session and of a checkpoint: copies, as they were when they were read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from agent_runtime.errors import ErrorType
from agent_runtime.journal import Journal
from agent_runtime.records import decode_record, decoder_of
from agent_runtime.session_store import StoredCheckpoint, StoredRun, StoredSession
from agent_runtime.types import Owner, Question, RunStatus, Value

_json: msgspec.msgpack.Decoder[dict[str, Any]] = decoder_of(dict[str, Any])


class Session(Value, frozen=True, kw_only=True):
    """A conversation as it was when it was read. Times are aware UTC, by the store's clock.

    Attributes:
        agent_id: The agent that it was made for.
        metadata: JSON values, a copy of this reader's own.
        version: Counts the writes of metadata, agent and lifetime, from 1; what `update(expected=)` compares.
        message_count: Length of the conversation; what `append_messages(expected=)` compares.
        expires_at: When it and all that belongs to it is gone, unless it is written to before.
        closed: Whether it takes no more messages and checkpoints.
    """

    session_id: str
    owner: Owner
    agent_id: str
    metadata: Mapping[str, Any]
    version: int
    message_count: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    closed: bool

    def __repr__(self) -> str:
        return f"Session({self.session_id!r}, version={self.version}, {self.message_count} messages)"


class Checkpoint(Value, frozen=True, kw_only=True):
    """The state of a run at one moment.

    Attributes:
        sequence: Its place among the session's checkpoints, from 1; a number is never given twice.
        state: JSON values, a copy of this reader's own.
        message_count: Length of the conversation when it was saved.
        created_at: Aware, UTC, by the store's clock; never what decides the order.
    """

    checkpoint_id: str
    session_id: str
    sequence: int
    state: Mapping[str, Any]
    message_count: int
    created_at: datetime

    def __repr__(self) -> str:
        return f"Checkpoint({self.checkpoint_id!r}, session_id={self.session_id!r}, sequence={self.sequence})"


class UnfinishedRun(Value, frozen=True, kw_only=True):
    """A run that was cut short, failed or waits, and can be resumed.

    Attributes:
        run_id: The id that it began with; `last_run_id` is that of the latest run that went on with it.
        status: How it ended: `suspended`, `failed`, `cancelled`, `timeout`. `running` when it has not ended: it is under
            way while somebody holds the session (`held`), and otherwise its process is gone.
        task: What the user asked.
        questions: What it waits for.
        steps: How many answers of models and results of tools are recorded.
        in_doubt: Names of the tools that were started, and of which no end is recorded.
    """

    run_id: str
    last_run_id: str
    session_id: str
    agent_id: str
    task: str
    status: RunStatus
    error_type: ErrorType | None
    held: bool
    questions: tuple[Question, ...]
    steps: int
    in_doubt: tuple[str, ...]
    created_at: datetime
    updated_at: datetime

    def __repr__(self) -> str:
        status = f"{self.status!s}, held" if self.held else f"{self.status!s}"
        return f"UnfinishedRun({self.run_id!r}, status={status}, {self.steps} steps)"


def run_of(session_id: str, stored: StoredRun, journal: Journal, holder: str | None) -> UnfinishedRun:
    """What the caller sees of an unfinished run that has begun."""
    assert journal.began is not None
    stopped = journal.stopped
    last = journal.run_ids[-1] if journal.run_ids else stored.run_id
    suspended = stopped is not None and stopped.status is RunStatus.SUSPENDED
    return UnfinishedRun(
        run_id=stored.run_id,
        last_run_id=last,
        session_id=session_id,
        agent_id=journal.began.agent_id,
        task=journal.began.task,
        status=RunStatus.RUNNING if stopped is None else stopped.status,
        error_type=None if stopped is None else stopped.error_type,
        held=holder == last,
        questions=tuple(journal.asked.values()) if suspended else (),
        steps=journal.steps,
        in_doubt=tuple(known.name for known in journal.calls.values() if known.in_doubt),
        created_at=_moment(stored.created_at),
        updated_at=_moment(stored.updated_at),
    )


def values_of(data: bytes, what: str) -> dict[str, Any]:
    """The JSON values of a record, a new copy. Raises `CorruptRecord`, with `what` in the message."""
    return decode_record(data, _json, what)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def session_of(owner: Owner, stored: StoredSession) -> Session:
    """What the caller sees of a stored session."""
    return Session(
        session_id=stored.session_id,
        owner=owner,
        agent_id=stored.fields.agent_id,
        metadata=values_of(stored.fields.data, f"session {stored.session_id!r}"),
        version=stored.version,
        message_count=stored.message_count,
        created_at=_moment(stored.created_at),
        updated_at=_moment(stored.updated_at),
        expires_at=_moment(stored.expires_at),
        closed=stored.fields.closed,
    )


def checkpoint_of(session_id: str, stored: StoredCheckpoint) -> Checkpoint:
    """What the caller sees of a stored checkpoint."""
    return Checkpoint(
        checkpoint_id=stored.checkpoint_id,
        session_id=session_id,
        sequence=stored.sequence,
        state=values_of(stored.data, f"checkpoint {stored.checkpoint_id!r} of session {session_id!r}"),
        message_count=stored.message_count,
        created_at=_moment(stored.created_at),
    )
