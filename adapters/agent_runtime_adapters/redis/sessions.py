"""Sessions in Redis."""

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Unpack

import agent_runtime_adapters.redis.replies as replies
from agent_runtime import (
    OPERATIONS_KEPT,
    RUNS_KEPT,
    ConfigurationError,
    CorruptRecord,
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
    Unavailable,
)
from agent_runtime_adapters.redis.commands import Command
from agent_runtime_adapters.redis.keys import owner_part
from agent_runtime_adapters.redis.lua import Argument, Script, script
from agent_runtime_adapters.redis.server import RedisServer, RedisStore, ServerOptions


def _script(name: str, *parts: str) -> Script:
    """`session.lua` has what all of them need."""
    return script(name, "clock", "session", *(f"session_{part}" for part in parts))


_CREATE, _FORK = (
    _script(name, "stored", "lease", "parts", "put", "new") for name in ("session_create", "session_fork")
)
_READ, _WRITE = (_script(f"session_{name}", "stored") for name in ("read", "write"))
_DELETE, _DELETE_ALL = _script("session_delete", "gone"), _script("session_delete_all", "gone", "all")
_LIST, _COUNT, _EXPIRE = _script("session_list", "stored", "all"), _script("session_count"), _script("session_expire")
_APPEND = _script("session_append", "parts")
_LENGTH = script("session_length", "clock")  # without the others' part, that costs more than what it does
_PUT, _CHECKPOINTS = _script("session_put_checkpoint", "put"), _script("session_checkpoints")
_DELETE_CHECKPOINTS = _script("session_delete_checkpoints")
_ACQUIRE, _RENEW = _script("session_acquire", "stored", "lease", "runs"), _script("session_renew", "stored", "lease")
_RELEASE = _script("session_release", "lease")
_RECORD, _RUNS, _ENTRIES = (
    _script("session_record", "runs"),
    _script("session_list_runs"),
    _script("session_entries", "runs"),
)
_FINISH, _DISCARD = _script("session_finish", "lease", "parts", "runs"), _script("session_discard_run", "runs")

_EXPIRE_AT_ONCE = 1_000


class RedisSessionStore(RedisStore):
    """A `SessionStore` in a Redis, for any number of processes; `RedisServer` says what its options are.

    What one process asks for in one turn of the event loop goes out as one pipeline. An owner's sessions are in one hash
    slot. `max_sessions` counts the sessions of all owners, which is one step where they are in one slot: with more than one
    shard it is a `ConfigurationError`, and `max_sessions_per_user` holds as ever. `clock` gives Unix seconds; without one it
    is the server's.
    """

    def __init__(
        self, server: str | RedisServer, *, clock: Callable[[], float] | None = None, **options: Unpack[ServerOptions]
    ) -> None:
        super().__init__(server, clock=clock, **options)

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
        batch, checkpoints = (None, ()) if content is None else (content.messages, content.checkpoints)
        begin = (*_fields(fields), operation, *self._quota(quota), *_batch(batch))
        items = (item for each in checkpoints for item in (each.checkpoint_id, each.data, each.message_count))
        return replies.session(await self._call(_CREATE, owner, session_id, *begin, *items, repeatable=True))

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        reply = await self._call(_READ, owner, session_id, writes=False)
        return None if reply is None else replies.stored(reply)

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
        arguments = (*_fields(fields), expected, ttl, operation, *_lease(lease), OPERATIONS_KEPT)
        return replies.session(await self._call(_WRITE, owner, session_id, *arguments, repeatable=True))

    async def delete(self, owner: Owner, session_id: str) -> bool:
        return bool(await self._call(_DELETE, owner, session_id))

    async def delete_all(self, owner: Owner, *, agent_id: str | None = None) -> int:
        return int(await self._call(_DELETE_ALL, owner, "", agent_id or ""))

    async def sessions(self, owner: Owner) -> Sequence[StoredSession]:
        return [replies.stored(item) for item in await self._call(_LIST, owner, "", writes=False)]

    async def count(self, owner: Owner) -> int:
        return int(await self._call(_COUNT, owner, "", writes=False))

    async def fork(
        self, owner: Owner, session_id: str, checkpoint_id: str, new_id: str, quota: SessionQuota, *, operation: str
    ) -> StoredSession | Refusal:
        keys = self._keys(owner_part(owner), new_id.encode())[:3]
        arguments = (checkpoint_id, new_id, operation, *self._quota(quota))
        return replies.session(await self._call(_FORK, owner, session_id, *arguments, keys=keys, repeatable=True))

    async def expire(self) -> Sequence[ExpiredSession]:
        """Shards are asked one after another; what one has told is returned also when the next one fails."""
        expired: list[ExpiredSession] = []
        for number in range(self.server.shards):
            room = _EXPIRE_AT_ONCE - len(expired)
            if room == 0:
                break
            keys = _keys(self.server.shard(number), b"", b"")
            try:
                reply = await self.server.run(_EXPIRE, keys, (self.now(), b"", b"", room))
            except Unavailable:
                if not expired:
                    raise
                break
            expired += map(replies.expired, reply)
        return expired

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
        there = b"" if expected is None else expected
        arguments = (*_batch(batch), there, ttl, operation, *_lease(lease))
        return replies.number(await self._call(_APPEND, owner, session_id, *arguments, repeatable=True))

    async def messages(self, owner: Owner, session_id: str, *, last: int | None = None) -> Sequence[Message] | None:
        own = self._keys(owner_part(owner), session_id.encode())
        # Each append has a message at least: no more of them than messages are asked for.
        first, end = (0, -1) if last is None else (-last, -1) if last else (1, 0)
        while True:
            commands = (("LRANGE", own[1], first, end), ("HGET", own[0], "number"))
            there, parts, number = await self._call(_LENGTH, owner, session_id, then=commands, writes=False)
            if there is None:
                return None
            if there[1] != number:  # deleted, or made anew, in between
                continue
            found = replies.messages(int(there[0]), parts, last)
            if found is not None:
                return found
            if first == 0:
                raise CorruptRecord(
                    "a conversation is damaged: it is shorter or longer than it was, or a part is missing"
                )
            first, end = 0, -1  # others have appended in between

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
        arguments = (checkpoint_id, data, ttl, *_lease(lease))
        reply = await self._call(_PUT, owner, session_id, *arguments, repeatable=True)
        return Refusal(reply.decode()) if isinstance(reply, bytes) else replies.checkpoint(checkpoint_id, reply[0])

    async def checkpoints(
        self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None, last: int | None = None
    ) -> Sequence[StoredCheckpoint]:
        arguments = (checkpoint_id or "", b"" if last is None else last)
        reply = await self._call(_CHECKPOINTS, owner, session_id, *arguments, writes=False)
        return [replies.checkpoint(name.decode(), item) for name, item in zip(reply[::2], reply[1::2], strict=True)]

    async def delete_checkpoints(self, owner: Owner, session_id: str, *, checkpoint_id: str | None = None) -> int:
        return int(await self._call(_DELETE_CHECKPOINTS, owner, session_id, checkpoint_id or ""))

    # Leases

    async def acquire(
        self, owner: Owner, session_id: str, holder: str, *, seconds: float, ttl: float, entry: bytes | None = None
    ) -> StoredLease | Refusal:
        arguments = (holder, seconds, ttl, RUNS_KEPT, *(() if entry is None else (entry,)))
        reply = await self._call(_ACQUIRE, owner, session_id, *arguments, repeatable=True)
        return replies.lease(reply, holder)

    async def renew(self, owner: Owner, session_id: str, lease: LeaseToken, *, seconds: float) -> StoredLease | Refusal:
        reply = await self._call(_RENEW, owner, session_id, *_lease(lease), seconds, repeatable=True)
        return replies.lease(reply, lease.holder)

    async def release(self, owner: Owner, session_id: str, lease: LeaseToken) -> bool:
        return bool(await self._call(_RELEASE, owner, session_id, *_lease(lease)))

    # Runs

    async def record(
        self, owner: Owner, session_id: str, run_id: str, number: int, entry: bytes, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        arguments = (run_id, number, entry, ttl, *_lease(lease), RUNS_KEPT)
        return replies.number(await self._call(_RECORD, owner, session_id, *arguments, repeatable=True))

    async def runs(self, owner: Owner, session_id: str) -> Sequence[StoredRun]:
        reply = await self._call(_RUNS, owner, session_id, writes=False)
        return [replies.run(name, item) for name, item in zip(reply[-2::-2], reply[::-2], strict=True)]

    async def entries(self, owner: Owner, session_id: str, run_id: str) -> Sequence[bytes]:
        return replies.entries(await self._call(_ENTRIES, owner, session_id, run_id, writes=False))

    async def finish(
        self, owner: Owner, session_id: str, run_id: str, batch: MessageBatch | None, *, ttl: float, lease: LeaseToken
    ) -> int | Refusal:
        arguments = (run_id, ttl, *_lease(lease), *_batch(batch))
        return replies.number(await self._call(_FINISH, owner, session_id, *arguments, repeatable=True))

    async def discard_run(self, owner: Owner, session_id: str, run_id: str) -> bool | Refusal:
        reply = replies.number(await self._call(_DISCARD, owner, session_id, run_id))
        return reply if isinstance(reply, Refusal) else bool(reply)

    async def _call(
        self,
        operation: Script,
        owner: Owner,
        session_id: str,
        *arguments: Argument,
        keys: Sequence[bytes] = (),
        then: Sequence[Command] = (),
        writes: bool = True,
        repeatable: bool = False,
    ) -> Any:
        whose, name = owner_part(owner), session_id.encode()
        return await self.server.run(
            operation,
            (*self._keys(whose, name), *keys),
            (self.now(), whose, name, *arguments),
            then=then,
            writes=writes,
            repeatable=repeatable,
        )

    def _keys(self, whose: bytes, name: bytes) -> tuple[bytes, ...]:
        return _keys(self.server.tag(whose), whose, name)

    def _quota(self, quota: SessionQuota) -> tuple[Argument, Argument, Argument]:
        if quota.max_sessions is not None and self.server.shards > 1:
            raise ConfigurationError(
                f"max_sessions counts all sessions, and {self.server.name} has them in {self.server.shards} shards, of which"
                " none knows of the others: set max_sessions_per_user, or shards=1 before there are sessions"
            )
        limits = (quota.max_sessions, quota.max_sessions_per_user)
        limit, limit_of_user = (b"" if each is None else each for each in limits)
        return quota.ttl, limit, limit_of_user


def _keys(tag: bytes, whose: bytes, name: bytes) -> tuple[bytes, ...]:
    """`session.lua` says what they are."""
    own = whose + name
    return (
        tag + b"s" + own,
        tag + b"m" + own,
        tag + b"c" + own,
        tag + b"o" + whose,
        tag + b"x",
        tag + b"n",
    )


def _fields(fields: SessionFields) -> tuple[Argument, ...]:
    return fields.agent_id, fields.data, b"1" if fields.closed else b"0"


def _lease(lease: LeaseToken | None) -> tuple[Argument, Argument]:
    return (b"", b"") if lease is None else (lease.holder, lease.fence)


def _batch(batch: MessageBatch | None) -> tuple[Argument, Argument]:
    """How many messages, and what is kept of them."""
    return (0, b"") if batch is None or not batch.messages else (len(batch.messages), batch.data)
