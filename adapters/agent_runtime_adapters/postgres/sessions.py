"""Sessions in a PostgreSQL schema."""

from collections.abc import Sequence

import asyncpg

from agent_runtime import (
    CorruptRecord,
    ExpiredSession,
    LeaseToken,
    Message,
    MessageBatch,
    OutcomeUnknown,
    Owner,
    Refusal,
    SessionContent,
    SessionFields,
    SessionQuota,
    StoredCheckpoint,
    StoredLease,
    StoredRun,
    StoredSession,
    StoreUnavailable,
)
from agent_runtime_adapters.postgres.connections import Rows
from agent_runtime_adapters.postgres.store import PostgresStore, in_range, owner_columns

_EXPIRED = 1_000
_EXPIRED_AT_ONCE = 100  # with all that belongs to them


class PostgresSessionStore(PostgresStore):
    """A `SessionStore` for any number of processes; `PostgresDatabase` says what its options are.

    A session that is being written is locked for that one round trip: others who write it wait, whoever reads it does not.
    With `max_sessions` the sessions are counted up to that number, for each that is made.
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
        batch = None if content is None else content.messages
        checkpoints = () if content is None else content.checkpoints
        made = (fields.agent_id, fields.data, fields.closed, operation, quota.ttl)
        limits = (_bounded(quota.max_sessions), _bounded(quota.max_sessions_per_user))
        columns = (
            [checkpoint.checkpoint_id for checkpoint in checkpoints],
            [str(checkpoint.message_count) for checkpoint in checkpoints],
            [str(len(checkpoint.data)) for checkpoint in checkpoints],
            b"".join(checkpoint.data for checkpoint in checkpoints),
        )
        return await self._answer("session_create", owner, session_id, *made, *limits, *_batch(batch), *columns)

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        rows = await self._read("session_read", owner, session_id)
        return _session(rows[0]) if rows else None

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
        written = (fields.agent_id, fields.data, fields.closed, in_range(expected), ttl, operation)
        return await self._answer("session_write", owner, session_id, *written, *_lease(lease))

    async def delete(self, owner: Owner, session_id: str) -> bool:
        return bool((await self._write("session_delete", owner, session_id))[0])

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        [row] = await self.server.call("session_delete_all", *owner_columns(owner), self.now(), agent_id)
        return int(row[0])

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        rows = await self.server.call("session_list", *owner_columns(owner), self.now(), writes=False)
        return [_session(row) for row in rows]

    async def count(self, owner: Owner) -> int:
        [row] = await self.server.call("session_count", *owner_columns(owner), self.now(), writes=False)
        return int(row[0])

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        limits = (quota.ttl, _bounded(quota.max_sessions), _bounded(quota.max_sessions_per_user))
        return await self._answer("session_fork", owner, session_id, checkpoint_id, new_id, operation, *limits)

    async def expire(self) -> Sequence[ExpiredSession]:
        """Some by each statement, so that it ends within the timeout. What is removed before one fails is told of."""
        told: list[ExpiredSession] = []
        while len(told) < _EXPIRED:
            try:
                rows = await self.server.call("session_expire", self.now(), _EXPIRED_AT_ONCE)
            except (StoreUnavailable, OutcomeUnknown):
                if not told:
                    raise
                break
            told += map(_expired, rows)
            if len(rows) < _EXPIRED_AT_ONCE:
                break
        return told

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
        values = (*_batch(batch), _bounded(expected), ttl, operation, *_lease(lease))
        row = await self._write("session_append", owner, session_id, *values, repeatable=True)
        return _refusal(row) or int(row["message_count"])

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        rows = await self._read("session_messages", owner, session_id, _bounded(last))
        return _messages(rows, last) if rows else None

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
        values = (checkpoint_id, data, ttl, *_lease(lease))
        row = await self._write("session_put_checkpoint", owner, session_id, *values, repeatable=True)
        return _refusal(row) or StoredCheckpoint(
            checkpoint_id=checkpoint_id,
            data=data,
            sequence=row["sequence"],
            message_count=row["message_count"],
            created_at=row["created_at"],
        )

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        rows = await self._read("session_checkpoints", owner, session_id, checkpoint_id, _bounded(last))
        return [
            StoredCheckpoint(
                checkpoint_id=row["checkpoint_id"],
                data=row["data"],
                sequence=row["sequence"],
                message_count=row["message_count"],
                created_at=row["created_at"],
            )
            for row in rows
        ]

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        return int((await self._write("session_delete_checkpoints", owner, session_id, checkpoint_id))[0])

    # Leases

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        row = await self._write("session_acquire", owner, session_id, holder, seconds, ttl, entry, repeatable=True)
        return _refusal(row) or _stored_lease(row, holder)

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        row = await self._write("session_renew", owner, session_id, *_lease(lease), seconds, repeatable=True)
        return _refusal(row) or _stored_lease(row, lease.holder)

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        return bool((await self._write("session_release", owner, session_id, *_lease(lease)))[0])

    # Runs

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        values = (run_id, in_range(number), entry, ttl, *_lease(lease))
        [refusal] = await self._write("session_record", owner, session_id, *values, repeatable=True)
        return number if refusal is None else Refusal(refusal)

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        rows = await self._read("session_runs", owner, session_id)
        return [
            StoredRun(
                run_id=row["run_id"],
                sequence=row["sequence"],
                entry_count=row["entry_count"],
                message_count=row["message_count"],
                created_at=row["created_at"],
                updated_at=row["updated_at"],
            )
            for row in rows
        ]

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        return [row[0] for row in await self._read("session_entries", owner, session_id, run_id)]

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        values = (run_id, *_batch(batch), ttl, *_lease(lease))
        row = await self._write("session_finish", owner, session_id, *values, repeatable=True)
        return _refusal(row) or int(row["message_count"])

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        row = await self._write("session_discard_run", owner, session_id, run_id)
        return _refusal(row) or bool(row["removed"])

    async def _read(self, function: str, owner: Owner, session_id: str, *values: object) -> Rows:
        return await self.server.call(function, *owner_columns(owner), session_id, self.now(), *values, writes=False)

    async def _write(
        self, function: str, owner: Owner, session_id: str, *values: object, repeatable: bool = False
    ) -> asyncpg.Record:
        key = (*owner_columns(owner), session_id, self.now())
        [row] = await self.server.call(function, *key, *values, repeatable=repeatable)
        return row

    async def _answer(self, function: str, owner: Owner, session_id: str, *values: object) -> StoredSession | Refusal:
        row = await self._write(function, owner, session_id, *values, repeatable=True)
        return _refusal(row) or _session(row)


def _expired(row: asyncpg.Record) -> ExpiredSession:
    return ExpiredSession(
        owner=Owner(tenant_id=row["tenant_id"] or None, user_id=row["user_id"]),
        session_id=row["session_id"],
        agent_id=row["agent_id"],
    )


def _bounded(number: int | None) -> int | None:
    return None if number is None else in_range(number)


def _batch(batch: MessageBatch | None) -> tuple[bytes | None, int]:
    return (None, 0) if batch is None else (batch.data, len(batch.messages))


def _lease(lease: LeaseToken | None) -> tuple[str | None, int | None]:
    return (None, None) if lease is None else (lease.holder, lease.fence)


def _refusal(row: asyncpg.Record) -> Refusal | None:
    refusal = row["refusal"]
    return None if refusal is None else Refusal(refusal)


def _session(row: asyncpg.Record) -> StoredSession:
    return StoredSession(
        session_id=row["session_id"],
        fields=SessionFields(agent_id=row["agent_id"], data=row["data"], closed=row["closed"]),
        version=row["version"],
        message_count=row["message_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        holder=row["holder"],
    )


def _stored_lease(row: asyncpg.Record, holder: str) -> StoredLease:
    return StoredLease(token=LeaseToken(holder=holder, fence=row["fence"]), session=_session(row))


def _messages(rows: Rows, last: int | None) -> Sequence[Message]:
    """The messages of these batches, which are all from some place on, or the last so many."""
    count, start, _, _ = rows[0]
    if start is None:
        start, rows = 0, ()
    begin = 0 if last is None else max(0, count - last)
    messages: list[Message] = []
    for _, first, size, data in rows:
        batch = MessageBatch.stored(data)
        if first != start + len(messages) or size > len(batch):
            raise CorruptRecord("a conversation is damaged: a part is missing, or is not what it was")
        messages += batch if size == len(batch) else batch[:size]
    if start > begin or start + len(messages) != count:
        raise CorruptRecord("a conversation is damaged: it is shorter or longer than it was")
    return messages[begin - start :]
