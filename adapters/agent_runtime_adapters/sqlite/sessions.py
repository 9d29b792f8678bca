"""Sessions in a SQLite file."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from typing_extensions import Unpack

import agent_runtime_adapters.sqlite.checkpoint_rows as checkpoint_rows
import agent_runtime_adapters.sqlite.message_rows as message_rows
import agent_runtime_adapters.sqlite.run_rows as run_rows
from agent_runtime import (
    OPERATIONS_KEPT,
    ExpiredSession,
    LeaseToken,
    Message,
    MessageBatch,
    Owner,
    Refusal,
    SessionContent,
    SessionFields,
    SessionQuota,
    StoredCheckpoint,
    StoredLease,
    StoredRun,
    StoredSession,
)
from agent_runtime_adapters.sqlite.database import DatabaseOptions, FilePath, SQLiteDatabase, SQLiteStore
from agent_runtime_adapters.sqlite.session_rows import SessionRow, SessionRows

T = TypeVar("T")


class SQLiteSessionStore(SQLiteStore):
    """A `SessionStore` in one file, for any number of processes of one host; `SQLiteDatabase` says what its options are.

    What one process asks for at the same time is written with one commit. `clock` gives Unix seconds, and is called on
    the database's thread; processes that share the file must have the same.
    """

    def __init__(
        self,
        database: FilePath | SQLiteDatabase,
        *,
        clock: Callable[[], float] = time.time,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        super().__init__(database, **options)
        self._clock = clock

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
        def job(rows: SessionRows) -> StoredSession | Refusal:
            there = rows.find(owner, session_id)
            if there is not None:
                return there.stored(rows.now) if there.operation == operation else Refusal.EXISTS
            refusal = rows.no_room(owner, quota)
            if refusal is not None:
                return refusal
            session = rows.add(owner, session_id, fields, quota, operation)
            if content is not None:
                _fill(rows, session, content)
            return session.stored(rows.now)

        return await self._write(job)

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        def job(rows: SessionRows) -> StoredSession | None:
            session = rows.find(owner, session_id)
            return None if session is None else session.stored(rows.now)

        return await self._read(job)

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
        def job(rows: SessionRows) -> StoredSession | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            if rows.is_written(session, operation):
                return session.stored(rows.now)
            if lease is not None and not session.is_leased(lease):
                return Refusal.FENCED
            if session.version != expected:
                return Refusal.CHANGED
            session.agent_id, session.data, session.closed = fields.agent_id, fields.data, fields.closed
            session.version += 1
            session.touch(rows.now, ttl)
            rows.written(session, operation, OPERATIONS_KEPT)
            rows.save(session)
            return session.stored(rows.now)

        return await self._write(job)

    async def delete(self, owner: Owner, session_id: str) -> bool:
        return await self._write(lambda rows: rows.delete(owner, session_id))

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        return await self._write(lambda rows: rows.delete_all(owner, agent_id))

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        return await self._read(lambda rows: [session.stored(rows.now) for session in rows.of(owner)])

    async def count(self, owner: Owner) -> int:
        return await self._read(lambda rows: rows.count(owner))

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        def job(rows: SessionRows) -> StoredSession | Refusal:
            there = rows.find(owner, new_id)
            if there is not None and there.operation == operation:
                return there.stored(rows.now)
            source = rows.find(owner, session_id)
            checkpoint = None if source is None else checkpoint_rows.find(rows, source, checkpoint_id)
            if source is None or checkpoint is None:
                return Refusal.MISSING
            refusal = Refusal.EXISTS if there is not None else rows.no_room(owner, quota)
            if refusal is not None:
                return refusal
            fields = SessionFields(agent_id=source.agent_id, data=source.data)
            session = rows.add(owner, new_id, fields, quota, operation)
            message_rows.copy(rows, source, session, checkpoint.message_count)
            _put(rows, session, checkpoint)
            rows.save(session)
            return session.stored(rows.now)

        return await self._write(job)

    async def expire(self) -> Sequence[ExpiredSession]:
        return await self._write(lambda rows: rows.expire())

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
        def job(rows: SessionRows) -> int | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            count = message_rows.count_of(rows, session, operation)
            if count is not None:
                return count
            refusal = _no_append(session, rows.now, expected, lease)
            if refusal is not None:
                return refusal
            count = message_rows.add(rows, session, batch, operation)
            session.touch(rows.now, ttl)
            rows.save(session)
            return count

        return await self._write(job)

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        def job(rows: SessionRows) -> Sequence[Message] | None:
            session = rows.find(owner, session_id)
            return None if session is None else message_rows.load(rows, session, last)

        return await self._read(job)

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
        def job(rows: SessionRows) -> StoredCheckpoint | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            there = checkpoint_rows.find(rows, session, checkpoint_id)
            if there is not None and there.data == data:
                return there
            if session.closed:
                return Refusal.CLOSED
            if lease is not None and not session.is_leased(lease):
                return Refusal.FENCED
            if there is not None:
                return Refusal.EXISTS
            put = checkpoint_rows.put(rows, session, checkpoint_id, data, session.message_count)
            session.touch(rows.now, ttl)
            rows.save(session)
            return put

        return await self._write(job)

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        def job(rows: SessionRows) -> Sequence[StoredCheckpoint]:
            session = rows.find(owner, session_id)
            if session is None:
                return ()
            if checkpoint_id is None:
                return checkpoint_rows.load(rows, session, last)
            found = checkpoint_rows.find(rows, session, checkpoint_id)
            return () if found is None else (found,)

        return await self._read(job)

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        def job(rows: SessionRows) -> int:
            session = rows.find(owner, session_id)
            return 0 if session is None else checkpoint_rows.delete(rows, session, checkpoint_id)

        return await self._write(job)

    # Leases

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        def job(rows: SessionRows) -> StoredLease | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            run = None if entry is None else run_rows.find(rows, session, holder)
            begins = entry is not None and not run_rows.is_recorded(rows, run, 1, entry)
            is_again = session.holder == holder
            if session.closed and (begins or not is_again):
                return Refusal.CLOSED
            if session.is_held(rows.now) and not is_again:
                return Refusal.HELD
            if begins and run is not None:
                return Refusal.CHANGED
            lease = LeaseToken(holder=holder, fence=session.fence if is_again else rows.next_fence())
            session.lend(lease, rows.now + seconds)
            if entry is not None and begins:
                run_rows.record(rows, run_rows.begin(rows, session, holder), entry)
            if begins or not is_again:
                session.touch(rows.now, ttl)
            rows.save(session)
            return StoredLease(token=lease, session=session.stored(rows.now))

        return await self._write(job)

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        def job(rows: SessionRows) -> StoredLease | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            if not session.is_leased(lease):
                return Refusal.FENCED
            session.lend(lease, rows.now + seconds)
            rows.save(session)
            return StoredLease(token=lease, session=session.stored(rows.now))

        return await self._write(job)

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        def job(rows: SessionRows) -> bool:
            session = rows.find(owner, session_id)
            if session is None or not session.is_leased(lease):
                return False
            session.give_back()
            rows.save(session)
            return True

        return await self._write(job)

    # Runs

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        def job(rows: SessionRows) -> int | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            run = run_rows.find(rows, session, run_id)
            if run_rows.is_recorded(rows, run, number, entry):
                return number
            refusal = run_rows.refusal(session, run, number) if session.is_leased(lease) else Refusal.FENCED
            if refusal is not None:
                return refusal
            run_rows.record(rows, run or run_rows.begin(rows, session, run_id), entry)
            session.touch(rows.now, ttl)
            rows.save(session)
            return number

        return await self._write(job)

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        def job(rows: SessionRows) -> Sequence[StoredRun]:
            session = rows.find(owner, session_id)
            return () if session is None else [run.stored() for run in run_rows.all_of(rows, session)]

        return await self._read(job)

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        def job(rows: SessionRows) -> Sequence[bytes]:
            session = rows.find(owner, session_id)
            run = None if session is None else run_rows.find(rows, session, run_id)
            return () if run is None else run_rows.entries(rows, run)

        return await self._read(job)

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        def job(rows: SessionRows) -> int | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return Refusal.MISSING
            count = message_rows.count_of(rows, session, lease.holder)
            if not session.is_leased(lease):
                is_over = count is not None or (batch is None and run_rows.find(rows, session, run_id) is None)
                return (session.message_count if count is None else count) if is_over else Refusal.FENCED
            if count is None and batch is not None and batch.messages:
                if session.closed:
                    return Refusal.CLOSED
                count = message_rows.add(rows, session, batch, lease.holder)
            run_rows.delete(rows, session, run_id)
            session.give_back()
            session.touch(rows.now, ttl)
            rows.save(session)
            return session.message_count if count is None else count

        return await self._write(job)

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        def job(rows: SessionRows) -> bool | Refusal:
            session = rows.find(owner, session_id)
            if session is None:
                return False
            return Refusal.HELD if session.is_held(rows.now) else run_rows.delete(rows, session, run_id)

        return await self._write(job)

    async def _read(self, job: Callable[[SessionRows], T]) -> T:
        return await self.database.read(self._at_once(job))

    async def _write(self, job: Callable[[SessionRows], T]) -> T:
        return await self.database.write(self._at_once(job))

    def _at_once(self, job: Callable[[SessionRows], T]) -> Callable[[sqlite3.Connection], T]:
        return lambda connection: job(SessionRows(connection, self._clock()))


def _no_append(session: SessionRow, now: float, expected: int | None, lease: LeaseToken | None) -> Refusal | None:
    if session.closed:
        return Refusal.CLOSED
    if lease is None:
        if session.is_held(now):
            return Refusal.HELD
    elif not session.is_leased(lease):
        return Refusal.FENCED
    return None if expected in (None, session.message_count) else Refusal.CHANGED


def _fill(rows: SessionRows, session: SessionRow, content: SessionContent) -> None:
    if content.messages is not None and content.messages.messages:
        message_rows.add(rows, session, content.messages, None)
    for checkpoint in content.checkpoints:
        _put(rows, session, checkpoint)
    rows.save(session)


def _put(rows: SessionRows, session: SessionRow, checkpoint: StoredCheckpoint) -> None:
    checkpoint_rows.put(rows, session, checkpoint.checkpoint_id, checkpoint.data, checkpoint.message_count)
