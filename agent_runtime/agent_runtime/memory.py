"""Sessions in this process's memory."""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

from agent_runtime.memory_session import MemorySession
from agent_runtime.session_store import (
    ExpiredSession,
    LeaseToken,
    MessageBatch,
    Refusal,
    SessionContent,
    SessionFields,
    SessionQuota,
    StoredCheckpoint,
    StoredLease,
    StoredRun,
    StoredSession,
)
from agent_runtime.types import Message, Owner

_EXPIRE_AT_ONCE = 1_000


class MemorySessionStore:
    """A `SessionStore` that is gone when the process ends. `clock` gives Unix seconds. For one event loop at a time.

    No operation suspends, so each is atomic. Any operation frees the sessions whose time is up.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._owners: dict[Owner, dict[str, MemorySession]] = {}
        self._count = 0
        self._due: list[tuple[float, int, MemorySession]] = []  # a heap; each living session is in it at its `due`
        self._tickets = itertools.count()
        self._fences = itertools.count(1)  # of all sessions: one that is made again gets no number that was there
        self._expired: deque[ExpiredSession] = deque()

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
        now, there = self._find(owner, session_id)
        if there is not None:
            return there.stored(now) if there.operation == operation else Refusal.EXISTS
        refusal = self._no_room(owner, quota)
        if refusal is not None:
            return refusal
        session = MemorySession(owner, session_id, fields, operation, now)
        if content is not None:
            session.fill(content, now)
        return self._add(session, now, quota)

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        now, session = self._find(owner, session_id)
        return None if session is None else session.stored(now)

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
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        if operation in session.writes:
            return session.stored(now)
        if lease is not None and lease != session.token:
            return Refusal.FENCED
        if session.version != expected:
            return Refusal.CHANGED
        session.fields = fields
        session.version += 1
        session.written(operation)
        self._touch(session, now, ttl)
        return session.stored(now)

    async def delete(self, owner: Owner, session_id: str) -> bool:
        _, session = self._find(owner, session_id)
        if session is None:
            return False
        self._remove(session)
        return True

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        self._now()
        sessions = self._owners.get(owner, {}).values()
        found = [session for session in sessions if agent_id is None or session.fields.agent_id == agent_id]
        for session in found:
            self._remove(session)
        return len(found)

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        now = self._now()
        return [session.stored(now) for session in self._owners.get(owner, {}).values()]

    async def count(self, owner: Owner) -> int:
        self._now()
        return len(self._owners.get(owner, ()))

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        now, there = self._find(owner, new_id)
        if there is not None and there.operation == operation:
            return there.stored(now)
        source = self._owners.get(owner, {}).get(session_id)
        checkpoint = None if source is None else source.checkpoints.get(checkpoint_id)
        if source is None or checkpoint is None:
            return Refusal.MISSING
        refusal = Refusal.EXISTS if there is not None else self._no_room(owner, quota)
        if refusal is not None:
            return refusal
        fields = SessionFields(agent_id=source.fields.agent_id, data=source.fields.data)
        session = MemorySession(owner, new_id, fields, operation, now)
        session.messages = source.messages[: checkpoint.message_count]
        session.put(checkpoint_id, checkpoint.data, checkpoint.message_count, now)
        return self._add(session, now, quota)

    async def expire(self) -> Sequence[ExpiredSession]:
        self._now()
        return [self._expired.popleft() for _ in range(min(len(self._expired), _EXPIRE_AT_ONCE))]

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
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        if (count := session.counts.get(operation)) is not None:
            return count
        if session.fields.closed:
            return Refusal.CLOSED
        if lease is None:
            if session.holder(now) is not None:
                return Refusal.HELD
        elif lease != session.token:
            return Refusal.FENCED
        if expected is not None and len(session.messages) != expected:
            return Refusal.CHANGED
        self._touch(session, now, ttl)
        return session.add(batch, operation)

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        _, session = self._find(owner, session_id)
        if session is None:
            return None
        return session.messages[-last:] if last else session.messages[:last]

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
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        there = session.checkpoints.get(checkpoint_id)
        if there is not None and there.data == data:
            return there
        if session.fields.closed:
            return Refusal.CLOSED
        if lease is not None and lease != session.token:
            return Refusal.FENCED
        if there is not None:
            return Refusal.EXISTS
        self._touch(session, now, ttl)
        return session.put(checkpoint_id, data, len(session.messages), now)

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        _, session = self._find(owner, session_id)
        if session is None:
            return ()
        if checkpoint_id is not None:
            found = session.checkpoints.get(checkpoint_id)
            return () if found is None else (found,)
        return list(itertools.islice(reversed(session.checkpoints.values()), last))

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        _, session = self._find(owner, session_id)
        if session is None:
            return 0
        if checkpoint_id is not None:
            return 0 if session.checkpoints.pop(checkpoint_id, None) is None else 1
        count = len(session.checkpoints)
        session.checkpoints.clear()
        return count

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        held = session.token if session.token is not None and session.token.holder == holder else None
        first = None if entry is None or session.recorded(holder, 1, entry) else entry
        if session.fields.closed and (held is None or first is not None):
            return Refusal.CLOSED
        if held is None and session.holder(now) is not None:
            return Refusal.HELD
        if first is not None and holder in session.runs:
            return Refusal.CHANGED
        token = held or LeaseToken(holder=holder, fence=next(self._fences))
        session.lend(token, now + seconds)
        if first is not None:
            session.record(holder, first, now)
        if held is None or first is not None:
            self._touch(session, now, ttl)
        return StoredLease(token=token, session=session.stored(now))

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        if lease != session.token:
            return Refusal.FENCED
        session.lend(lease, now + seconds)
        return StoredLease(token=lease, session=session.stored(now))

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        _, session = self._find(owner, session_id)
        if session is None or lease != session.token:
            return False
        session.give_back()
        return True

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        if session.recorded(run_id, number, entry):
            return number
        refusal = session.refusal(run_id, number) if lease == session.token else Refusal.FENCED
        if refusal is not None:
            return refusal
        session.record(run_id, entry, now)
        self._touch(session, now, ttl)
        return number

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        _, session = self._find(owner, session_id)
        return () if session is None else [run.stored() for run in reversed(session.runs.values())]

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        _, session = self._find(owner, session_id)
        run = None if session is None else session.runs.get(run_id)
        return () if run is None else run.entries.copy()

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        now, session = self._find(owner, session_id)
        if session is None:
            return Refusal.MISSING
        count = session.counts.get(lease.holder)
        if lease != session.token:
            if count is None and batch is None and run_id not in session.runs:
                return len(session.messages)
            return Refusal.FENCED if count is None else count
        if count is None and batch is not None:
            if session.fields.closed:
                return Refusal.CLOSED
            count = session.add(batch, lease.holder)
        session.runs.pop(run_id, None)
        session.give_back()
        self._touch(session, now, ttl)
        return len(session.messages) if count is None else count

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        now, session = self._find(owner, session_id)
        if session is None:
            return False
        if session.holder(now) is not None:
            return Refusal.HELD
        return session.runs.pop(run_id, None) is not None

    def _now(self) -> float:
        """The time, when everything that it has made expire is out of the way."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, _, session = heapq.heappop(self._due)
            if not session.alive or due != session.due:
                continue
            if session.expires_at > now:
                self._schedule(session)
                continue
            self._remove(session)
            self._expired.append(
                ExpiredSession(owner=session.owner, session_id=session.session_id, agent_id=session.fields.agent_id)
            )
        return now

    def _find(self, owner: Owner, session_id: str) -> tuple[float, MemorySession | None]:
        now = self._now()
        sessions = self._owners.get(owner)
        return now, None if sessions is None else sessions.get(session_id)

    def _no_room(self, owner: Owner, quota: SessionQuota) -> Refusal | None:
        if quota.max_sessions is not None and self._count >= quota.max_sessions:
            return Refusal.FULL
        limit = quota.max_sessions_per_user
        return Refusal.OWNER_FULL if limit is not None and len(self._owners.get(owner, ())) >= limit else None

    def _add(self, session: MemorySession, now: float, quota: SessionQuota) -> StoredSession:
        self._owners.setdefault(session.owner, {})[session.session_id] = session
        self._count += 1
        session.expires_at = now + quota.ttl
        self._schedule(session)
        return session.stored(now)

    def _remove(self, session: MemorySession) -> None:
        sessions = self._owners[session.owner]
        del sessions[session.session_id]
        if not sessions:
            del self._owners[session.owner]
        self._count -= 1
        session.clear()
        if len(self._due) > 2 * self._count + 64:  # what was deleted long before its time
            self._due = [item for item in self._due if item[2].alive]
            heapq.heapify(self._due)

    def _touch(self, session: MemorySession, now: float, ttl: float) -> None:
        session.updated_at = now
        session.expires_at = max(now + ttl, session.until)
        if session.expires_at < session.due:
            self._schedule(session)

    def _schedule(self, session: MemorySession) -> None:
        session.due = session.expires_at
        heapq.heappush(self._due, (session.due, next(self._tickets), session))
