"""What the memory store has of one session."""

import math

from agent_runtime.session_store import (
    OPERATIONS_KEPT,
    RUNS_KEPT,
    LeaseToken,
    MessageBatch,
    Refusal,
    SessionContent,
    SessionFields,
    StoredCheckpoint,
    StoredRun,
    StoredSession,
)
from agent_runtime.types import Message, Owner


class MemorySession:
    """A session and all that belongs to it. `due` is when the store looks at its time, at the latest `expires_at`.

    `operation` made it; `counts` are what the appends and finished runs gave, by their operation; `writes` are the last
    operations of `write`. `token` holds until it is given back or another takes its place, also when `until` is over.
    """

    __slots__ = (
        "alive",
        "checkpoints",
        "counts",
        "created_at",
        "due",
        "expires_at",
        "fields",
        "messages",
        "operation",
        "owner",
        "runs",
        "runs_begun",
        "sequence",
        "session_id",
        "token",
        "until",
        "updated_at",
        "version",
        "writes",
    )

    def __init__(self, owner: Owner, session_id: str, fields: SessionFields, operation: str, now: float) -> None:
        self.owner = owner
        self.session_id = session_id
        self.fields = fields
        self.operation = operation
        self.version = 1
        self.created_at = self.updated_at = now
        self.expires_at = self.due = math.inf
        self.token: LeaseToken | None = None
        self.until = -math.inf
        self.sequence = 0
        self.runs_begun = 0
        self.alive = True
        self._forget()

    def stored(self, now: float) -> StoredSession:
        return StoredSession(
            session_id=self.session_id,
            fields=self.fields,
            version=self.version,
            message_count=len(self.messages),
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=self.expires_at,
            holder=self.holder(now),
        )

    def holder(self, now: float) -> str | None:
        return self.token.holder if self.token is not None and self.until > now else None

    def lend(self, token: LeaseToken, until: float) -> None:
        self.token = token
        self.until = until
        self.expires_at = max(self.expires_at, until)

    def give_back(self) -> None:
        self.token = None
        self.until = -math.inf

    def add(self, batch: MessageBatch, operation: str) -> int:
        self.messages.extend(batch.messages)
        count = self.counts[operation] = len(self.messages)
        return count

    def fill(self, content: SessionContent, now: float) -> None:
        if content.messages is not None:
            self.messages.extend(content.messages.messages)
        for checkpoint in content.checkpoints:
            self.put(checkpoint.checkpoint_id, checkpoint.data, checkpoint.message_count, now)

    def written(self, operation: str) -> None:
        self.writes[operation] = None
        if len(self.writes) > OPERATIONS_KEPT:
            del self.writes[next(iter(self.writes))]

    def put(self, checkpoint_id: str, data: bytes, message_count: int, now: float) -> StoredCheckpoint:
        self.sequence += 1
        checkpoint = self.checkpoints[checkpoint_id] = StoredCheckpoint(
            checkpoint_id=checkpoint_id,
            data=data,
            sequence=self.sequence,
            message_count=message_count,
            created_at=now,
        )
        return checkpoint

    def recorded(self, run_id: str, number: int, entry: bytes) -> bool:
        run = self.runs.get(run_id)
        return run is not None and 0 < number <= len(run.entries) and run.entries[number - 1] == entry

    def refusal(self, run_id: str, number: int) -> Refusal | None:
        """Why the run's next entry cannot have this number."""
        run = self.runs.get(run_id)
        if run is None and number > 1:
            return Refusal.MISSING
        if number == 1 and self.fields.closed:
            return Refusal.CLOSED
        following = 1 if run is None else len(run.entries) + 1
        return None if number == following else Refusal.CHANGED

    def record(self, run_id: str, entry: bytes, now: float) -> None:
        run = self.runs.get(run_id)
        if run is None:
            self.runs_begun += 1
            run = self.runs[run_id] = MemoryRun(run_id, self.runs_begun, len(self.messages), now)
            if len(self.runs) > RUNS_KEPT:
                del self.runs[next(iter(self.runs))]
        run.entries.append(entry)
        run.updated_at = now

    def clear(self) -> None:
        """Let go of the content: the heap may hold the session until its time."""
        self.alive = False
        self._forget()

    def _forget(self) -> None:
        self.messages: list[Message] = []
        self.checkpoints: dict[str, StoredCheckpoint] = {}  # in the order of their sequence
        self.runs: dict[str, MemoryRun] = {}  # in the order of their sequence
        self.counts: dict[str, int] = {}
        self.writes: dict[str, None] = {}


class MemoryRun:
    """A run that is not finished."""

    __slots__ = ("created_at", "entries", "message_count", "run_id", "sequence", "updated_at")

    def __init__(self, run_id: str, sequence: int, message_count: int, now: float) -> None:
        self.run_id = run_id
        self.sequence = sequence
        self.message_count = message_count
        self.created_at = self.updated_at = now
        self.entries: list[bytes] = []

    def stored(self) -> StoredRun:
        return StoredRun(
            run_id=self.run_id,
            sequence=self.sequence,
            entry_count=len(self.entries),
            message_count=self.message_count,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )
