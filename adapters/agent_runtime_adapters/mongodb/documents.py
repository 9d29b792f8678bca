"""What a session is in the database: one document that decides, and its parts, which are written once.

The document holds all that changes. A part is a batch of messages, a checkpoint or an entry of a run, found by its place.
"""

from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from agent_runtime import (
    OPERATIONS_KEPT,
    CorruptRecord,
    LeaseToken,
    Owner,
    SessionFields,
    StoredCheckpoint,
    StoredRun,
    StoredSession,
)

DAY = 86_400_000  # milliseconds
GRACE = DAY  # that a session stays when its time is up, for `expire` to tell of it

_LAST_DATE = 253_402_300_799_000  # milliseconds, the end of the year 9999
_OVER = float("-inf")


class Part(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"id": "_id"}):
    """`count` is how many messages are in a batch, or how many the session had at a checkpoint.

    `label` is the operation of an append, or the checkpoint's id; with the session it makes the `key`. A checkpoint that
    was removed by itself is `gone`, and its place stays taken.
    """

    id: str
    session: str
    place: str
    purge_at: datetime
    key: str | None = None
    label: str = ""
    data: bytes = b""
    count: int = 0
    created_at: float = 0.0
    gone: bool = False

    def checkpoint(self) -> StoredCheckpoint:
        return StoredCheckpoint(
            checkpoint_id=self.label,
            data=self.data,
            sequence=int(self.place[1:]),
            message_count=self.count,
            created_at=self.created_at,
        )


class RunDocument(msgspec.Struct, kw_only=True):
    """An unfinished run; its entries are parts."""

    run_id: str
    sequence: int
    entry_count: int = 0
    message_count: int
    created_at: float
    updated_at: float

    def stored(self) -> StoredRun:
        return StoredRun(
            run_id=self.run_id,
            sequence=self.sequence,
            entry_count=self.entry_count,
            message_count=self.message_count,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


class SessionDocument(msgspec.Struct, kw_only=True, rename={"id": "_id"}):
    """`id` is new for each session that is made, also under the name of an old one, so nobody ever sees another's parts.

    `revision` counts the changes: who changes it names the one that he has seen. `pending` is the part that the last change
    added; whoever finds it puts it in its place before anything else. The parts are kept until `parts_until` (Unix
    milliseconds by the server's clock), the document until `purge_at`; the other times are the store's.
    """

    id: str
    name: str
    owner: str
    session_id: str
    agent_id: str
    data: bytes
    closed: bool
    operation: str
    version: int = 1
    message_count: int = 0
    created_at: float
    updated_at: float
    expires_at: float
    holder: str | None = None
    fence: int
    until: float = _OVER
    checkpoints: int = 0
    cleared: int = 0
    runs_begun: int = 0
    runs: list[RunDocument] = []
    writes: list[str] = []
    revision: int = 1
    pending: Part | None = None
    parts_until: int
    purge_at: datetime

    def stored(self, now: float) -> StoredSession:
        return StoredSession(
            session_id=self.session_id,
            fields=SessionFields(agent_id=self.agent_id, data=self.data, closed=self.closed),
            version=self.version,
            message_count=self.message_count,
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=self.expires_at,
            holder=self.holder if self.is_held(now) else None,
        )

    def is_held(self, now: float) -> bool:
        return self.holder is not None and self.until > now

    def is_leased(self, lease: LeaseToken) -> bool:
        """Whether the lease holds, by which it was given."""
        return self.holder == lease.holder and self.fence == lease.fence

    def lend(self, holder: str, until: float) -> LeaseToken:
        """Give it to the holder, again or with a new fence."""
        if self.holder != holder:
            self.fence += 1
        self.holder, self.until = holder, until
        self.expires_at = max(self.expires_at, until)
        return LeaseToken(holder=holder, fence=self.fence)

    def give_back(self) -> None:
        self.holder, self.until = None, _OVER

    def touch(self, now: float, ttl: float) -> None:
        self.updated_at = now
        self.expires_at = max(now + ttl, self.until)

    def written(self, operation: str) -> None:
        self.writes = [*self.writes, operation][-OPERATIONS_KEPT:]

    def run(self, run_id: str) -> RunDocument | None:
        return next((run for run in self.runs if run.run_id == run_id), None)

    # Parts, which are not there before they are written

    def batch(self, data: bytes, count: int, operation: str | None = None) -> Part:
        """The next part of the conversation, which now ends with these `count` messages."""
        self.message_count += count
        place = message_place(self.message_count)
        part = self._part(place, data, None if operation is None else "o", operation or "")
        part.count = count
        return part

    def checkpoint(self, checkpoint_id: str, data: bytes, message_count: int, now: float) -> Part:
        """The next checkpoint."""
        self.checkpoints += 1
        part = self._part(checkpoint_place(self.checkpoints), data, "c", checkpoint_id)
        part.count, part.created_at = message_count, now
        return part

    def entry(self, run: RunDocument, data: bytes, now: float) -> Part:
        """The run's next entry."""
        run.entry_count += 1
        run.updated_at = now
        return self._part(entry_place(run.sequence, run.entry_count), data, None, "")

    def _part(self, place: str, data: bytes, kind: str | None, label: str) -> Part:
        return Part(
            id=self.id + place,
            session=self.id,
            place=place,
            purge_at=date(self.parts_until),
            key=None if kind is None else self.id + kind + label,
            label=label,
            data=data,
        )


def message_place(count: int) -> str:
    """Of the batch that the conversation has `count` messages with: what comes after it is found without the rest."""
    return f"m{count:012}"


def message_count_at(place: str) -> int:
    return int(place[1:])


def checkpoint_place(sequence: int) -> str:
    return f"c{sequence:012}"


def entry_place(run: int, number: int) -> str:
    return f"r{run:012}.{number:012}"


def owner_key(owner: Owner) -> str:
    """One owner's text, and no other's."""
    return msgspec.json.encode((owner.tenant_id, owner.user_id)).decode()


def owner_of(key: str) -> Owner:
    try:
        tenant_id, user_id = msgspec.json.decode(key, type=tuple[str | None, str])
    except msgspec.DecodeError as error:
        raise CorruptRecord("a session is damaged: whose it is cannot be read") from error
    return Owner(tenant_id=tenant_id, user_id=user_id)


def session_name(owner: Owner, session_id: str) -> str:
    return msgspec.json.encode((owner.tenant_id, owner.user_id, session_id)).decode()


def date(milliseconds: float) -> datetime:
    """A moment by the server's clock, for it to compare with; one that is too far away is the last that there is."""
    return datetime.fromtimestamp(min(milliseconds, _LAST_DATE) / 1_000, UTC)


def encoded(record: msgspec.Struct) -> dict[str, Any]:
    return cast("dict[str, Any]", msgspec.to_builtins(record, builtin_types=(bytes, datetime)))


def session_of(document: dict[str, Any]) -> SessionDocument:
    """Raises `CorruptRecord`."""
    try:
        return msgspec.convert(document, SessionDocument)
    except msgspec.ValidationError as error:
        raise CorruptRecord("a session is damaged, or was changed by something else") from error


def part_of(document: dict[str, Any]) -> Part:
    """Raises `CorruptRecord`."""
    try:
        return msgspec.convert(document, Part)
    except msgspec.ValidationError as error:
        raise CorruptRecord("a part of a session is damaged, or was changed by something else") from error
