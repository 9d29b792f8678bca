"""The calls that the contract of session stores makes, with what a test does not care about filled in."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from agent_runtime.ids import new_id
from agent_runtime.session_store import (
    LeaseToken,
    MessageBatch,
    Refusal,
    SessionContent,
    SessionFields,
    SessionQuota,
    SessionStore,
    StoredCheckpoint,
    StoredLease,
    StoredSession,
)
from agent_runtime.testing.session_samples import FIELDS, HELLO, OTHER_FIELDS, OWNER, TURN, done, some
from agent_runtime.types import Message, Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCalls:
    """Calls for one session of one owner. Each makes one call of the store; an operation not given is a new one."""

    store: SessionStore
    ttl: float
    owner: Owner = OWNER
    session_id: str = "s"

    def create(
        self,
        fields: SessionFields = FIELDS,
        *,
        quota: SessionQuota | None = None,
        operation: str | None = None,
        content: SessionContent | None = None,
    ) -> Awaitable[StoredSession | Refusal]:
        quota = quota or SessionQuota(ttl=self.ttl)
        operation = operation or new_id()
        return self.store.create(self.owner, self.session_id, fields, quota, operation=operation, content=content)

    def read(self) -> Awaitable[StoredSession | None]:
        return self.store.read(self.owner, self.session_id)

    def write(
        self,
        fields: SessionFields = OTHER_FIELDS,
        *,
        expected: int = 1,
        operation: str | None = None,
        lease: LeaseToken | None = None,
    ) -> Awaitable[StoredSession | Refusal]:
        return self.store.write(
            self.owner,
            self.session_id,
            fields,
            expected=expected,
            ttl=self.ttl,
            operation=operation or new_id(),
            lease=lease,
        )

    def fork(
        self,
        checkpoint_id: str = "c1",
        new: str = "fork",
        *,
        quota: SessionQuota | None = None,
        operation: str | None = None,
    ) -> Awaitable[StoredSession | Refusal]:
        quota = quota or SessionQuota(ttl=self.ttl)
        operation = operation or new_id()
        return self.store.fork(self.owner, self.session_id, checkpoint_id, new, quota, operation=operation)

    def delete(self) -> Awaitable[bool]:
        return self.store.delete(self.owner, self.session_id)

    def append(
        self,
        messages: Sequence[Message] = TURN,
        *,
        expected: int | None = None,
        operation: str | None = None,
        lease: LeaseToken | None = None,
    ) -> Awaitable[int | Refusal]:
        return self.store.append(
            self.owner,
            self.session_id,
            MessageBatch.of(messages),
            expected=expected,
            ttl=self.ttl,
            operation=operation or new_id(),
            lease=lease,
        )

    async def messages(self) -> list[Message]:
        return list(some(await self.store.messages(self.owner, self.session_id)))

    def put(
        self, checkpoint_id: str = "c", data: bytes = b"", *, lease: LeaseToken | None = None
    ) -> Awaitable[StoredCheckpoint | Refusal]:
        return self.store.put_checkpoint(self.owner, self.session_id, checkpoint_id, data, ttl=self.ttl, lease=lease)

    async def checkpoints(self) -> list[StoredCheckpoint]:
        return list(await self.store.checkpoints(self.owner, self.session_id))

    def acquire(
        self, holder: str = "h", *, seconds: float | None = None, entry: bytes | None = None
    ) -> Awaitable[StoredLease | Refusal]:
        seconds = self.ttl if seconds is None else seconds
        return self.store.acquire(self.owner, self.session_id, holder, seconds=seconds, ttl=self.ttl, entry=entry)

    async def leased(self, holder: str = "h", *, seconds: float | None = None) -> LeaseToken:
        """The token of a lease that is given."""
        return done(await self.acquire(holder, seconds=seconds)).token

    def renew(self, lease: LeaseToken, *, seconds: float | None = None) -> Awaitable[StoredLease | Refusal]:
        seconds = self.ttl if seconds is None else seconds
        return self.store.renew(self.owner, self.session_id, lease, seconds=seconds)

    def release(self, lease: LeaseToken) -> Awaitable[bool]:
        return self.store.release(self.owner, self.session_id, lease)

    def record(self, number: int, entry: bytes, *, lease: LeaseToken, run: str = "r") -> Awaitable[int | Refusal]:
        return self.store.record(self.owner, self.session_id, run, number, entry, ttl=self.ttl, lease=lease)

    async def runs(self) -> list[str]:
        return [run.run_id for run in await self.store.runs(self.owner, self.session_id)]

    async def entries(self, run: str = "r") -> list[bytes]:
        return list(await self.store.entries(self.owner, self.session_id, run))

    def finish(
        self, messages: Sequence[Message] | None = TURN, *, lease: LeaseToken, run: str = "r"
    ) -> Awaitable[int | Refusal]:
        batch = None if messages is None else MessageBatch.of(messages)
        return self.store.finish(self.owner, self.session_id, run, batch, ttl=self.ttl, lease=lease)

    def discard_run(self, run: str = "r") -> Awaitable[bool | Refusal]:
        return self.store.discard_run(self.owner, self.session_id, run)

    def other(self, session_id: str) -> "SessionCalls":
        """The calls for another session of the owner."""
        return SessionCalls(store=self.store, ttl=self.ttl, owner=self.owner, session_id=session_id)

    async def furnish(self) -> LeaseToken:
        """Make the session, held by `h`: three messages, checkpoints after the first and the third, run `r` of two entries.

        And session `free`, that nobody holds, with a run `q` of one entry.
        """
        await self.create()
        for place, messages in enumerate(([HELLO], TURN), 1):
            await self.append(messages)
            await self.put(f"c{place}", b"%d" % place)
        lease = await self.leased()
        await self.record(1, b"first", lease=lease)
        await self.record(2, b"second", lease=lease)
        free = self.other("free")
        await free.create(OTHER_FIELDS)
        await free.release(done(await free.acquire("q", entry=b"asked")).token)
        return lease


CONTENT = SessionContent(
    messages=MessageBatch.of((HELLO, *TURN)),
    checkpoints=tuple(
        StoredCheckpoint(checkpoint_id=name, data=name.encode(), sequence=sequence, message_count=count, created_at=1.0)
        for name, sequence, count in (("old", 7, 1), ("young", 9, 3))
    ),
)
Operation: TypeAlias = Callable[[SessionCalls, LeaseToken], Awaitable[object]]

# What can be done with a furnished session by the holder of its lease; made again, each is the same operation.
WRITES: dict[str, Operation] = {
    "write": lambda s, lease: s.write(operation="o", lease=lease),
    "append": lambda s, lease: s.append(expected=3, operation="o", lease=lease),
    "put_checkpoint": lambda s, lease: s.put("c3", b"3", lease=lease),
    "record": lambda s, lease: s.record(3, b"third", lease=lease),
    "finish": lambda s, lease: s.finish(lease=lease),
}
OPERATIONS: dict[str, Operation] = {
    **WRITES,
    "create": lambda s, lease: s.other("new").create(operation="o", content=CONTENT),
    "fork": lambda s, lease: s.fork(operation="o"),
    "acquire": lambda s, lease: s.other("free").acquire("k", seconds=s.ttl * 0.5, entry=b"first"),
    "delete": lambda s, lease: s.delete(),
    "delete_all": lambda s, lease: s.store.delete_all(s.owner),
    "delete_checkpoints": lambda s, lease: s.store.delete_checkpoints(s.owner, s.session_id),
    "release": lambda s, lease: s.release(lease),
    "discard_run": lambda s, lease: s.other("free").discard_run("q"),
}


@dataclass(frozen=True, slots=True)
class Pictured:
    """What a store has of one session, without times."""

    session_id: str
    fields: SessionFields = FIELDS
    version: int = 1
    messages: tuple[Message, ...] = ()
    checkpoints: tuple[tuple[str, bytes, int, int], ...] = ()
    runs: tuple[tuple[str, int, int, tuple[bytes, ...]], ...] = ()
    holder: str | None = None


async def picture_of(store: SessionStore, owner: Owner = OWNER) -> dict[str, Pictured]:
    """All that the store has of an owner."""
    return {stored.session_id: await _pictured(store, owner, stored) for stored in await store.sessions(owner)}


async def _pictured(store: SessionStore, owner: Owner, stored: StoredSession) -> Pictured:
    name = stored.session_id
    messages = tuple(some(await store.messages(owner, name)))
    assert len(messages) == stored.message_count
    runs: list[tuple[str, int, int, tuple[bytes, ...]]] = []
    for run in await store.runs(owner, name):
        entries = tuple(await store.entries(owner, name, run.run_id))
        assert len(entries) == run.entry_count
        runs.append((run.run_id, run.sequence, run.message_count, entries))
    return Pictured(
        session_id=name,
        fields=stored.fields,
        version=stored.version,
        messages=messages,
        checkpoints=tuple(
            (item.checkpoint_id, item.data, item.sequence, item.message_count)
            for item in await store.checkpoints(owner, name)
        ),
        runs=tuple(runs),
        holder=stored.holder,
    )
