"""The sessions of a file, as they are for one job at one moment."""

import math
import sqlite3
from collections.abc import Sequence

import msgspec

from agent_runtime import (
    CorruptRecord,
    ExpiredSession,
    LeaseToken,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoredSession,
)
from agent_runtime_adapters.sqlite.records import decode, encode

_EXPIRE_AT_ONCE = 1_000
_COLUMNS = "id, owner, session_id, agent_id, expires_at, record"


class SessionRow(msgspec.Struct, array_like=True, kw_only=True):
    """All of a session but its messages, checkpoints and runs, which are found by its `id`.

    The lease of `holder` holds until it is given back or taken over, also when `until` is over. `operation` made it.
    """

    id: int
    owner: bytes
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
    fence: int = 0
    until: float = -math.inf
    checkpoints: int = 0
    runs: int = 0

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

    def lend(self, lease: LeaseToken, until: float) -> None:
        self.holder, self.fence, self.until = lease.holder, lease.fence, until
        self.expires_at = max(self.expires_at, until)

    def give_back(self) -> None:
        self.holder, self.until = None, -math.inf

    def touch(self, now: float, ttl: float) -> None:
        self.updated_at = now
        self.expires_at = max(now + ttl, self.until)


class SessionRows:
    """Finds and keeps sessions; those whose time is up are there for `expire` only."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self.connection = connection
        self.now = now

    def find(self, owner: Owner, session_id: str) -> SessionRow | None:
        key = owner_key(owner)
        found = self.connection.execute(
            f"SELECT {_COLUMNS} FROM sessions WHERE owner = ? AND session_id = ?", (key, session_id)
        ).fetchone()
        row = None if found is None else _row(found)
        return row if row is not None and row.expires_at > self.now else None

    def of(self, owner: Owner) -> list[SessionRow]:
        found = self.connection.execute(f"SELECT {_COLUMNS} FROM sessions WHERE owner = ?", (owner_key(owner),))
        return [row for row in map(_row, found.fetchall()) if row.expires_at > self.now]

    def count(self, owner: Owner) -> int:
        [count] = self.connection.execute(
            "SELECT count(*) FROM sessions WHERE owner = ? AND expires_at > ?", (owner_key(owner), self.now)
        ).fetchone()
        return int(count)

    def no_room(self, owner: Owner, quota: SessionQuota) -> Refusal | None:
        if quota.max_sessions is not None and self._living() >= quota.max_sessions:
            return Refusal.FULL
        limit = quota.max_sessions_per_user
        return Refusal.OWNER_FULL if limit is not None and self.count(owner) >= limit else None

    def add(
        self, owner: Owner, session_id: str, fields: SessionFields, quota: SessionQuota, operation: str
    ) -> SessionRow:
        """A new session, which is to be saved when it has what it starts with."""
        key = owner_key(owner)
        self._set_aside(key, session_id)
        [last] = self.connection.execute("SELECT max(id) FROM sessions").fetchone()
        row = SessionRow(
            id=(last or 0) + 1,
            owner=key,
            session_id=session_id,
            agent_id=fields.agent_id,
            data=fields.data,
            closed=fields.closed,
            operation=operation,
            created_at=self.now,
            updated_at=self.now,
            expires_at=self.now + quota.ttl,
        )
        self.connection.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.id, key, session_id, row.agent_id, row.expires_at, row.expires_at, encode(row)),
        )
        return row

    def save(self, row: SessionRow) -> None:
        self.connection.execute(
            "UPDATE sessions SET agent_id = ?, expires_at = ?, record = ? WHERE id = ?",
            (row.agent_id, row.expires_at, encode(row), row.id),
        )

    def delete(self, owner: Owner, session_id: str) -> bool:
        return 0 < self._rows_changed(
            "DELETE FROM sessions WHERE owner = ? AND session_id = ? AND expires_at > ?",
            (owner_key(owner), session_id, self.now),
        )

    def delete_all(self, owner: Owner, agent_id: str | None) -> int:
        return self._rows_changed(
            "DELETE FROM sessions WHERE owner = ? AND expires_at > ? AND agent_id = ifnull(?, agent_id)",
            (owner_key(owner), self.now, agent_id),
        )

    def is_written(self, row: SessionRow, operation: str) -> bool:
        """Whether it is one of the session's last operations of `write`."""
        found = self.connection.execute("SELECT 1 FROM writes WHERE session = ? AND operation = ?", (row.id, operation))
        return found.fetchone() is not None

    def written(self, row: SessionRow, operation: str, kept: int) -> None:
        self.connection.execute("REPLACE INTO writes VALUES (?, ?, ?)", (row.id, row.version % kept, operation))

    def next_fence(self) -> int:
        self.connection.execute("UPDATE session_numbers SET fence = fence + 1")
        [fence] = self.connection.execute("SELECT fence FROM session_numbers").fetchone()
        return int(fence)

    def expire(self) -> list[ExpiredSession]:
        aside = self.connection.execute(
            "SELECT owner, session_id, agent_id, id FROM expired LIMIT ?", (_EXPIRE_AT_ONCE,)
        ).fetchall()
        due = self.connection.execute(
            "SELECT owner, session_id, agent_id, id FROM sessions WHERE due <= ? AND expires_at <= ? LIMIT ?",
            (self.now, self.now, _EXPIRE_AT_ONCE - len(aside)),
        ).fetchall()
        self.connection.executemany("DELETE FROM expired WHERE id = ?", [(number,) for *_, number in aside])
        self.connection.executemany("DELETE FROM sessions WHERE id = ?", [(number,) for *_, number in due])
        self.connection.execute(
            "UPDATE sessions SET due = expires_at WHERE id IN (SELECT id FROM sessions WHERE due <= ? LIMIT ?)",
            (self.now, _EXPIRE_AT_ONCE),
        )
        return [
            ExpiredSession(owner=_owner(key), session_id=session_id, agent_id=agent_id)
            for key, session_id, agent_id, _ in (*aside, *due)
        ]

    def _set_aside(self, key: bytes, session_id: str) -> None:
        """Make way where an expired session is, which `expire` still has to tell of."""
        there = (key, session_id)
        self.connection.execute(
            "INSERT INTO expired (owner, session_id, agent_id)"
            " SELECT owner, session_id, agent_id FROM sessions WHERE owner = ? AND session_id = ?",
            there,
        )
        self.connection.execute("DELETE FROM sessions WHERE owner = ? AND session_id = ?", there)

    def _living(self) -> int:
        [living] = self.connection.execute(
            "SELECT sessions - (SELECT count(*) FROM sessions WHERE due <= ? AND expires_at <= ?) FROM session_numbers",
            (self.now, self.now),
        ).fetchone()
        return int(living)

    def _rows_changed(self, statement: str, values: Sequence[object]) -> int:
        return self.connection.execute(statement, values).rowcount


_rows = msgspec.msgpack.Decoder(SessionRow)
_owners = msgspec.msgpack.Decoder(tuple[str | None, str])


def owner_key(owner: Owner) -> bytes:
    """One owner's bytes, and no other's."""
    return msgspec.msgpack.encode((owner.tenant_id, owner.user_id))


def _owner(key: bytes) -> Owner:
    try:
        tenant_id, user_id = _owners.decode(key)
    except (msgspec.DecodeError, TypeError) as error:
        raise CorruptRecord("a session is damaged: whose it is cannot be read") from error
    return Owner(tenant_id=tenant_id, user_id=user_id)


def _row(found: tuple[object, ...]) -> SessionRow:
    *columns, record = found
    row = decode(record, _rows, "a session")
    if columns != [row.id, row.owner, row.session_id, row.agent_id, row.expires_at]:
        raise CorruptRecord("a session is damaged: its row is that of another, or found under what it is not")
    return row
