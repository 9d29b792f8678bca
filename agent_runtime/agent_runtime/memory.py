"""Sessions in this process's memory."""

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from agent_runtime.session_store import (
    ExpiredSession,
    MessageBatch,
    Refusal,
    SessionFields,
    SessionQuota,
    StoredCheckpoint,
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
        self._owners: dict[Owner, dict[str, _Entry]] = {}
        self._count = 0
        self._due: list[tuple[float, int, _Entry]] = []  # a heap; each living entry is in it at its `due`
        self._tickets = itertools.count()
        self._expired: deque[ExpiredSession] = deque()

    async def create(
        self, owner: Owner, session_id: str, fields: SessionFields, quota: SessionQuota
    ) -> StoredSession | Refusal:
        now = self._now()
        refusal = self._refusal(owner, session_id, quota)
        return refusal or self._add(_Entry(owner, session_id, fields, now), now + quota.ttl)

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        self._now()
        entry = self._find(owner, session_id)
        return None if entry is None else entry.stored()

    async def write(
        self, owner: Owner, session_id: str, fields: SessionFields, *, expected: int, ttl: float
    ) -> StoredSession | Refusal:
        now = self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return Refusal.MISSING
        if entry.version != expected:
            return Refusal.CHANGED
        entry.fields = fields
        entry.version += 1
        self._touch(entry, now, ttl)
        return entry.stored()

    async def delete(self, owner: Owner, session_id: str) -> bool:
        self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return False
        self._remove(entry)
        return True

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        self._now()
        entries = self._owners.get(owner, {}).values()
        found = [entry for entry in entries if agent_id is None or entry.fields.agent_id == agent_id]
        for entry in found:
            self._remove(entry)
        return len(found)

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        self._now()
        return [entry.stored() for entry in self._owners.get(owner, {}).values()]

    async def count(self, owner: Owner) -> int:
        self._now()
        return len(self._owners.get(owner, ()))

    async def append(
        self, owner: Owner, session_id: str, batch: MessageBatch, *, expected: int | None, ttl: float
    ) -> int | Refusal:
        now = self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return Refusal.MISSING
        if entry.fields.closed:
            return Refusal.CLOSED
        if expected is not None and len(entry.messages) != expected:
            return Refusal.CHANGED
        entry.messages.extend(batch.messages)
        self._touch(entry, now, ttl)
        return len(entry.messages)

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return None
        return entry.messages[-last:] if last else entry.messages[:last]

    async def put_checkpoint(
        self, owner: Owner, session_id: str, checkpoint_id: str, data: bytes, *, ttl: float
    ) -> StoredCheckpoint | Refusal:
        now = self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return Refusal.MISSING
        if entry.fields.closed:
            return Refusal.CLOSED
        if (there := entry.checkpoints.get(checkpoint_id)) is not None:
            return there if there.data == data else Refusal.EXISTS
        self._touch(entry, now, ttl)
        return entry.put(checkpoint_id, data, len(entry.messages), now)

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return ()
        if checkpoint_id is not None:
            found = entry.checkpoints.get(checkpoint_id)
            return () if found is None else (found,)
        return list(itertools.islice(reversed(entry.checkpoints.values()), last))

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        self._now()
        entry = self._find(owner, session_id)
        if entry is None:
            return 0
        if checkpoint_id is not None:
            return 0 if entry.checkpoints.pop(checkpoint_id, None) is None else 1
        count = len(entry.checkpoints)
        entry.checkpoints.clear()
        return count

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota
    ) -> StoredSession | Refusal:
        now = self._now()
        source = self._find(owner, session_id)
        checkpoint = None if source is None else source.checkpoints.get(checkpoint_id)
        if source is None or checkpoint is None:
            return Refusal.MISSING
        refusal = self._refusal(owner, new_id, quota)
        if refusal is not None:
            return refusal
        fields = SessionFields(agent_id=source.fields.agent_id, data=source.fields.data)
        entry = _Entry(owner, new_id, fields, now)
        entry.messages = source.messages[: checkpoint.message_count]
        entry.put(checkpoint_id, checkpoint.data, checkpoint.message_count, now)
        return self._add(entry, now + quota.ttl)

    async def expire(self) -> Sequence[ExpiredSession]:
        self._now()
        return [self._expired.popleft() for _ in range(min(len(self._expired), _EXPIRE_AT_ONCE))]

    def _now(self) -> float:
        """The time, when everything that it has made expire is out of the way."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, _, entry = heapq.heappop(self._due)
            if not entry.alive or due != entry.due:
                continue
            if entry.expires_at > now:
                self._schedule(entry)
                continue
            self._remove(entry)
            self._expired.append(
                ExpiredSession(owner=entry.owner, session_id=entry.session_id, agent_id=entry.fields.agent_id)
            )
        return now

    def _find(self, owner: Owner, session_id: str) -> "_Entry | None":
        entries = self._owners.get(owner)
        return None if entries is None else entries.get(session_id)

    def _refusal(self, owner: Owner, session_id: str, quota: SessionQuota) -> Refusal | None:
        entries = self._owners.get(owner, {})
        if session_id in entries:
            return Refusal.EXISTS
        if quota.max_sessions is not None and self._count >= quota.max_sessions:
            return Refusal.FULL
        if quota.max_sessions_per_user is not None and len(entries) >= quota.max_sessions_per_user:
            return Refusal.OWNER_FULL
        return None

    def _add(self, entry: "_Entry", expires_at: float) -> StoredSession:
        self._owners.setdefault(entry.owner, {})[entry.session_id] = entry
        self._count += 1
        entry.expires_at = expires_at
        self._schedule(entry)
        return entry.stored()

    def _remove(self, entry: "_Entry") -> None:
        entries = self._owners[entry.owner]
        del entries[entry.session_id]
        if not entries:
            del self._owners[entry.owner]
        self._count -= 1
        entry.clear()
        if len(self._due) > 2 * self._count + 64:  # what was deleted long before its time
            self._due = [item for item in self._due if item[2].alive]
            heapq.heapify(self._due)

    def _touch(self, entry: "_Entry", now: float, ttl: float) -> None:
        entry.updated_at = now
        entry.expires_at = now + ttl
        if entry.expires_at < entry.due:
            self._schedule(entry)

    def _schedule(self, entry: "_Entry") -> None:
        entry.due = entry.expires_at
        heapq.heappush(self._due, (entry.due, next(self._tickets), entry))


class _Entry:
    """A session and all that belongs to it. `due` is when the store looks at its time, at the latest `expires_at`."""

    __slots__ = (
        "alive",
        "checkpoints",
        "created_at",
        "due",
        "expires_at",
        "fields",
        "messages",
        "owner",
        "sequence",
        "session_id",
        "updated_at",
        "version",
    )

    def __init__(self, owner: Owner, session_id: str, fields: SessionFields, now: float) -> None:
        self.owner = owner
        self.session_id = session_id
        self.fields = fields
        self.version = 1
        self.created_at = self.updated_at = now
        self.expires_at = self.due = math.inf
        self.messages: list[Message] = []
        self.checkpoints: dict[str, StoredCheckpoint] = {}  # in the order of their sequence
        self.sequence = 0
        self.alive = True

    def stored(self) -> StoredSession:
        return StoredSession(
            session_id=self.session_id,
            fields=self.fields,
            version=self.version,
            message_count=len(self.messages),
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=self.expires_at,
        )

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

    def clear(self) -> None:
        """Let go of the content: the heap may hold the entry until its time."""
        self.alive = False
        self.messages = []
        self.checkpoints = {}
