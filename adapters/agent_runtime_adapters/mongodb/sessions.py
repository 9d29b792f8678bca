"""Sessions in MongoDB."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from typing_extensions import Unpack

import agent_runtime_adapters.mongodb.runs as runs
from agent_runtime import (
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
from agent_runtime_adapters.mongodb.beginnings import Beginning, create, fork
from agent_runtime_adapters.mongodb.database import Clock, Collections, DatabaseOptions, MongoDatabase, MongoStore
from agent_runtime_adapters.mongodb.documents import SessionDocument, message_count_at, session_name
from agent_runtime_adapters.mongodb.expiry import expire
from agent_runtime_adapters.mongodb.moments import Moment, Moments
from agent_runtime_adapters.mongodb.owners import count, delete, delete_all, sessions
from agent_runtime_adapters.mongodb.parts import (
    clear_checkpoints,
    conversation,
    delete_checkpoint,
    find_checkpoint,
    load_checkpoints,
    load_entries,
)

T = TypeVar("T")


class MongoSessionStore(MongoStore):
    """A `SessionStore` in MongoDB, for any number of processes; `MongoDatabase` says what the options are.

    `clock` gives Unix seconds in the place of the server's own time.

    - Each session is one document, and what is added to it one other, that is written once. An operation is the change of
      the first, by who names the revision that he has seen; what it adds stands in it until it is in its place.
    - `delete_all` removes one session after another, each as a whole.
    - Limits on the number of sessions hold among processes that give the same ones.
    - What nobody has removed is removed by the server itself, a day after its time.
    """

    def __init__(
        self, database: str | MongoDatabase, /, *, clock: Clock | None = None, **options: Unpack[DatabaseOptions]
    ) -> None:
        super().__init__(database, clock=clock, **options)
        self._moments = Moments(clock)

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
        async def call(collections: Collections) -> StoredSession | Refusal:
            beginning = Beginning(collections, self._moments, owner, session_id, quota, operation)
            return await create(beginning, fields, content or SessionContent())

        return await self.server.do(call, repeatable=True)

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        async def job(moment: Moment) -> StoredSession | None:
            return None if moment.session is None else moment.session.stored(moment.now)

        return await self._read(owner, session_id, job)

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
        async def job(moment: Moment) -> StoredSession | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            if operation in session.writes:
                return session.stored(moment.now)
            if lease is not None and not session.is_leased(lease):
                return Refusal.FENCED
            if session.version != expected:
                return Refusal.CHANGED
            session.agent_id, session.data, session.closed = fields.agent_id, fields.data, fields.closed
            session.version += 1
            session.written(operation)
            session.touch(moment.now, ttl)
            moment.save()
            return session.stored(moment.now)

        return await self._change(owner, session_id, job)

    async def delete(self, owner: Owner, session_id: str) -> bool:
        return await self.server.do(lambda found: delete(found, self._moments, owner, session_id))

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        return await self.server.do(lambda found: delete_all(found, self._moments, owner, agent_id))

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        return await self.server.do(lambda found: sessions(found, self._moments, owner), writes=False)

    async def count(self, owner: Owner) -> int:
        return await self.server.do(lambda found: count(found, self._moments, owner), writes=False)

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        async def call(collections: Collections) -> StoredSession | Refusal:
            beginning = Beginning(collections, self._moments, owner, new_id, quota, operation)
            return await fork(beginning, session_id, checkpoint_id)

        return await self.server.do(call, repeatable=True)

    async def expire(self) -> Sequence[ExpiredSession]:
        return await expire(self.server, self._moments)

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
        async def job(moment: Moment) -> int | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            if moment.known:
                return message_count_at(moment.known[0])
            refusal = _no_append(session, moment.now, expected, lease)
            if refusal is not None:
                return refusal
            part = session.batch(batch.data, len(batch.messages), operation)
            session.touch(moment.now, ttl)
            moment.save(part)
            return session.message_count

        return await self._change(owner, session_id, job, key=f"o{operation}")

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        async def job(moment: Moment) -> Sequence[Message] | None:
            return None if moment.session is None else await conversation(moment, moment.session, last)

        return await self._read(owner, session_id, job)

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
        async def job(moment: Moment) -> StoredCheckpoint | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            there = await find_checkpoint(moment, session)
            if there is not None and there.data == data:
                return there.checkpoint()
            if session.closed:
                return Refusal.CLOSED
            if lease is not None and not session.is_leased(lease):
                return Refusal.FENCED
            if there is not None:
                return Refusal.EXISTS
            part = session.checkpoint(checkpoint_id, data, session.message_count, moment.now)
            session.touch(moment.now, ttl)
            moment.save(part)
            return part.checkpoint()

        return await self._change(owner, session_id, job, key=f"c{checkpoint_id}")

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        async def job(moment: Moment) -> Sequence[StoredCheckpoint]:
            session = moment.session
            if session is None:
                return ()
            if checkpoint_id is None:
                return await load_checkpoints(moment, session, last)
            found = await find_checkpoint(moment, session)
            return () if found is None else (found.checkpoint(),)

        return await self._read(owner, session_id, job, key="" if checkpoint_id is None else f"c{checkpoint_id}")

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        async def job(moment: Moment) -> int:
            session = moment.session
            if session is None:
                return 0
            if checkpoint_id is None:
                return await clear_checkpoints(moment, session)
            return await delete_checkpoint(moment, session)

        key = "" if checkpoint_id is None else f"c{checkpoint_id}"
        return await self._change(owner, session_id, job, key=key, repeatable=False)

    # Leases

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        async def job(moment: Moment) -> StoredLease | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            run = session.run(holder)
            begins = entry is not None and not await runs.is_recorded(moment, run, 1, entry)
            is_again = session.holder == holder
            if session.closed and (begins or not is_again):
                return Refusal.CLOSED
            if session.is_held(moment.now) and not is_again:
                return Refusal.HELD
            if begins and run is not None:
                return Refusal.CHANGED
            token = session.lend(holder, moment.now + seconds)
            part = (
                session.entry(runs.begin(moment, session, holder), entry, moment.now)
                if entry is not None and begins
                else None
            )
            if begins or not is_again:
                session.touch(moment.now, ttl)
            moment.save(part)
            return StoredLease(token=token, session=session.stored(moment.now))

        return await self._change(owner, session_id, job)

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        async def job(moment: Moment) -> StoredLease | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            if not session.is_leased(lease):
                return Refusal.FENCED
            session.lend(lease.holder, moment.now + seconds)
            moment.save()
            return StoredLease(token=lease, session=session.stored(moment.now))

        return await self._change(owner, session_id, job)

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        async def job(moment: Moment) -> bool:
            session = moment.session
            if session is None or not session.is_leased(lease):
                return False
            session.give_back()
            moment.save()
            return True

        return await self._change(owner, session_id, job, repeatable=False)

    # Runs

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        async def job(moment: Moment) -> int | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            run = session.run(run_id)
            if await runs.is_recorded(moment, run, number, entry):
                return number
            refusal = runs.refusal(session, run, number) if session.is_leased(lease) else Refusal.FENCED
            if refusal is not None:
                return refusal
            part = session.entry(run or runs.begin(moment, session, run_id), entry, moment.now)
            session.touch(moment.now, ttl)
            moment.save(part)
            return number

        return await self._change(owner, session_id, job)

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        async def job(moment: Moment) -> Sequence[StoredRun]:
            return () if moment.session is None else [run.stored() for run in reversed(moment.session.runs)]

        return await self._read(owner, session_id, job)

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        async def job(moment: Moment) -> Sequence[bytes]:
            session = moment.session
            run = None if session is None else session.run(run_id)
            return () if session is None or run is None else await load_entries(moment, session, run)

        return await self._read(owner, session_id, job)

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        async def job(moment: Moment) -> int | Refusal:
            session = moment.session
            if session is None:
                return Refusal.MISSING
            run = session.run(run_id)
            count = message_count_at(moment.known[0]) if moment.known else None
            if not session.is_leased(lease):
                is_over = count is not None or (batch is None and run is None)
                return (session.message_count if count is None else count) if is_over else Refusal.FENCED
            adds = batch is not None and bool(batch.messages) and count is None
            if adds and session.closed:
                return Refusal.CLOSED
            part = session.batch(batch.data, len(batch.messages), lease.holder) if batch is not None and adds else None
            if run is not None:
                runs.remove(moment, session, run)
            session.give_back()
            session.touch(moment.now, ttl)
            moment.save(part)
            return session.message_count if count is None else count

        return await self._change(owner, session_id, job, key=f"o{lease.holder}")

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        async def job(moment: Moment) -> bool | Refusal:
            session = moment.session
            if session is None:
                return False
            if session.is_held(moment.now):
                return Refusal.HELD
            run = session.run(run_id)
            if run is None:
                return False
            runs.remove(moment, session, run)
            moment.save()
            return True

        return await self._change(owner, session_id, job, repeatable=False)

    async def _read(self, owner: Owner, session_id: str, job: Callable[[Moment], Awaitable[T]], *, key: str = "") -> T:
        name = session_name(owner, session_id)
        return await self.server.do(lambda found: self._moments.do(found, name, job, key), writes=False)

    async def _change(
        self,
        owner: Owner,
        session_id: str,
        job: Callable[[Moment], Awaitable[T]],
        *,
        key: str = "",
        repeatable: bool = True,
    ) -> T:
        name = session_name(owner, session_id)

        async def call(collections: Collections) -> T:
            async with self._moments.turn(name):
                return await self._moments.do(collections, name, job, key)

        return await self.server.do(call, repeatable=repeatable)


def _no_append(session: SessionDocument, now: float, expected: int | None, lease: LeaseToken | None) -> Refusal | None:
    if session.closed:
        return Refusal.CLOSED
    if lease is None:
        if session.is_held(now):
            return Refusal.HELD
    elif not session.is_leased(lease):
        return Refusal.FENCED
    return None if expected in (None, session.message_count) else Refusal.CHANGED
