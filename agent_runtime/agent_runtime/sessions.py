"""Conversations that outlive a run: sessions, their messages and their checkpoints, each of them one owner's."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import msgspec

from agent_runtime.entry import checked_messages
from agent_runtime.errors import (
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    RuntimeClosed,
)
from agent_runtime.events import EventBus, EventType, SystemEvent
from agent_runtime.ids import new_id, new_secret_id
from agent_runtime.limits import Limits
from agent_runtime.payload import check_id, check_name, check_owner, copy_json
from agent_runtime.records import encode_record
from agent_runtime.session_data import Checkpoint, Session, checkpoint_of, session_of, values_of
from agent_runtime.session_store import (
    MessageBatch,
    Refusal,
    SessionFields,
    SessionQuota,
    SessionStore,
    StoredCheckpoint,
    StoredSession,
    refused,
)
from agent_runtime.types import Message, Owner

T = TypeVar("T")

Merge = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]

_ATTEMPTS = 200  # of a compare-and-set; each failed one means that somebody else's write succeeded
_MAX_TTL = 100 * 365 * 86_400.0


class SessionManager:
    """Keeps the sessions of a service in `store`.

    Every call names the owner, and another owner's session is answered exactly like a missing one: `None`, `False`, 0 or
    empty where something is asked for or deleted, `NotFound` (a `ValueError`) where something is to be done with it. Any
    call raises `InvalidInput` for a wrong id or name and `StoreUnavailable` when the store fails; it is done as a whole or,
    cancelled or failing, not at all.

    A session lives `ttl` seconds from its last write, by the store's clock; reading does not prolong it. That one has
    expired is published once, by whoever finds it: a create, a read that misses, or `cleanup_expired`.

    `max_sessions` and `max_sessions_per_user` hold under concurrent creates; past them there is `LimitExceeded`.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        ttl: float = 3600.0,
        max_sessions: int | None = None,
        max_sessions_per_user: int | None = None,
        event_bus: EventBus | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not 0 < ttl <= _MAX_TTL:
            raise ConfigurationError(f"ttl is {ttl!r}; it must be above 0 and at most {_MAX_TTL:.0f} seconds")
        for name, limit in (("max_sessions", max_sessions), ("max_sessions_per_user", max_sessions_per_user)):
            if limit is not None and limit < 1:
                raise ConfigurationError(f"{name} is {limit!r}; it must be at least 1, or None for no limit")
        self._store = store
        self._quota = SessionQuota(
            ttl=float(ttl), max_sessions=max_sessions, max_sessions_per_user=max_sessions_per_user
        )
        self._ttl = self._quota.ttl
        self._bus = event_bus
        self._limits = limits or Limits()

    async def create(
        self,
        *,
        owner: Owner,
        agent_id: str,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """Make a session; without `session_id`, with one that nobody can guess.

        Raises `SessionConflict` when the owner has one of this id, `LimitExceeded` when there are too many.
        """
        session_id = new_secret_id() if session_id is None else session_id
        _check(owner, session_id)
        fields = self._fields(agent_id, metadata or {})
        await self._sweep()
        outcome = await self._store.create(owner, session_id, fields, self._quota)
        return await self._created(owner, session_id, outcome)

    async def open(self, session_id: str, *, owner: Owner, agent_id: str) -> Session:
        """Get the session, or make it where there is none: an outage never makes one.

        Raises `SessionConflict` for a closed one, `LimitExceeded` when there are too many.
        """
        check_name(agent_id, "agent_id")
        for _ in range(_ATTEMPTS):
            session = await self.get(session_id, owner=owner)
            if session is not None:
                if session.closed:
                    self._refuse(Refusal.CLOSED, session_id)
                return session
            outcome = await self._store.create(owner, session_id, self._fields(agent_id, {}), self._quota)
            if outcome is not Refusal.EXISTS:
                return await self._created(owner, session_id, outcome)
        self._refuse(Refusal.CHANGED, session_id)

    async def get(self, session_id: str, *, owner: Owner) -> Session | None:
        """The session, or `None`."""
        _check(owner, session_id)
        stored = await self._store.read(owner, session_id)
        if stored is None:
            await self._sweep()
            return None
        return session_of(owner, stored)

    async def exists(self, session_id: str, *, owner: Owner) -> bool:
        """Whether there is such a session."""
        return await self.get(session_id, owner=owner) is not None

    async def update(
        self,
        session_id: str,
        *,
        owner: Owner,
        agent_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        expected: int | None = None,
    ) -> Session:
        """Set what is given; with `expected`, only at that version, and otherwise `SessionConflict`.

        `metadata` takes the place of the old one: to change a part of it, use `update_metadata`.
        """
        if agent_id is not None:
            check_name(agent_id, "agent_id")
        data = None if metadata is None else self._metadata(metadata)

        def change(stored: StoredSession) -> SessionFields:
            if expected is not None and stored.version != expected:
                self._refuse(Refusal.CHANGED, session_id)
            old = stored.fields
            return SessionFields(agent_id=agent_id or old.agent_id, data=data or old.data, closed=old.closed)

        return await self._change(session_id, owner, change)

    async def update_metadata(self, session_id: str, merge: Merge, *, owner: Owner) -> Session:
        """Put the items of `merge` over the old ones, or replace them by what `merge(old)` returns.

        No concurrent change is lost: a function is called again, with the newer metadata, until nobody came between.
        """

        def change(stored: StoredSession) -> SessionFields:
            old = values_of(stored.fields.data, f"session {session_id!r}")
            new = merge(old) if callable(merge) else {**old, **merge}
            return msgspec.structs.replace(stored.fields, data=self._metadata(new))

        return await self._change(session_id, owner, change)

    async def refresh(self, session_id: str, *, owner: Owner) -> Session:
        """Let the session live `ttl` seconds from now."""
        return await self._change(session_id, owner, lambda stored: stored.fields)

    async def close(self, session_id: str, *, owner: Owner) -> Session:
        """Have the session take no more messages and checkpoints; it can be read until it expires. Idempotent."""
        return await self._change(session_id, owner, lambda stored: msgspec.structs.replace(stored.fields, closed=True))

    async def delete(self, session_id: str, *, owner: Owner) -> bool:
        """Remove the session with its messages and checkpoints; whether there was one."""
        _check(owner, session_id)
        return await self._store.delete(owner, session_id)

    async def list_by_user(self, *, owner: Owner) -> tuple[Session, ...]:
        """All sessions of the owner, the newest first."""
        check_owner(owner)
        found = await self._store.sessions(owner)
        newest_first = sorted(found, key=lambda stored: (stored.created_at, stored.session_id), reverse=True)
        return tuple(session_of(owner, stored) for stored in newest_first)

    async def count(self, *, owner: Owner) -> int:
        """How many sessions the owner has."""
        check_owner(owner)
        return await self._store.count(owner)

    async def delete_by_user(self, *, owner: Owner) -> int:
        """Remove all that is kept for the owner; how many sessions there were."""
        check_owner(owner)
        return await self._store.delete_all(owner)

    async def delete_by_agent(self, agent_id: str, *, owner: Owner) -> int:
        """Remove the owner's sessions with this agent; how many there were."""
        check_owner(owner)
        check_name(agent_id, "agent_id")
        return await self._store.delete_all(owner, agent_id=agent_id)

    async def cleanup_expired(self) -> int:
        """Remove the sessions whose time is up, of all owners, and publish each; how many there were."""
        total = 0
        while removed := await self._sweep():
            total += removed
        return total

    async def append_messages(
        self, session_id: str, messages: Sequence[Message], *, owner: Owner, expected: int | None = None
    ) -> int:
        """Add to the conversation and return its new length; costs what the added messages cost.

        Raises `SessionConflict` when `expected` is not the current length, or the session is closed. Half a surrogate pair
        in content becomes U+FFFD.
        """
        _check(owner, session_id)
        if not messages:
            return await self._length(session_id, owner, expected)
        outcome = await self._store.append(owner, session_id, self._batch(messages), expected=expected, ttl=self._ttl)
        return self._granted(outcome, session_id)

    async def messages(self, session_id: str, *, owner: Owner, window: int | None = None) -> tuple[Message, ...]:
        """The conversation, or its last `window` messages."""
        _check(owner, session_id)
        if window is not None and window < 0:
            raise InvalidInput(f"window is {window!r}; it must be 0 or more messages", details={"field": "window"})
        found = await self._store.messages(owner, session_id, last=window)
        if found is None:
            self._refuse(Refusal.MISSING, session_id)
        return tuple(found)

    async def save_checkpoint(
        self, session_id: str, state: Mapping[str, Any], *, owner: Owner, checkpoint_id: str | None = None
    ) -> Checkpoint:
        """Keep `state` (JSON values). With an id of your own, saving the same again is harmless.

        Raises `SessionConflict` when the id has another state, or the session is closed.
        """
        _check(owner, session_id)
        checkpoint_id = new_id() if checkpoint_id is None else checkpoint_id
        check_id(checkpoint_id, "checkpoint_id")
        data = encode_record(copy_json(state, "checkpoint", max_bytes=self._limits.checkpoint_bytes))
        outcome = await self._store.put_checkpoint(owner, session_id, checkpoint_id, data, ttl=self._ttl)
        checkpoint = checkpoint_of(session_id, self._granted(outcome, session_id))
        await self._publish_checkpoint(EventType.CHECKPOINT_SAVED, owner, checkpoint)
        return checkpoint

    async def get_checkpoint(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> Checkpoint | None:
        """The checkpoint, to go on from; published as restored."""
        _check(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        found = await self._store.checkpoints(owner, session_id, checkpoint_id=checkpoint_id)
        return await self._restored(owner, session_id, found)

    async def latest_checkpoint(self, session_id: str, *, owner: Owner) -> Checkpoint | None:
        """The checkpoint with the highest sequence, to go on from; published as restored."""
        _check(owner, session_id)
        return await self._restored(owner, session_id, await self._store.checkpoints(owner, session_id, last=1))

    async def list_checkpoints(self, session_id: str, *, owner: Owner) -> tuple[Checkpoint, ...]:
        """All checkpoints of the session, the newest first."""
        _check(owner, session_id)
        found = await self._store.checkpoints(owner, session_id)
        return tuple(checkpoint_of(session_id, stored) for stored in found)

    async def delete_checkpoint(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> bool:
        """Remove one checkpoint; whether there was one."""
        _check(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        return await self._store.delete_checkpoints(owner, session_id, checkpoint_id=checkpoint_id) > 0

    async def clear_checkpoints(self, session_id: str, *, owner: Owner) -> int:
        """Remove all checkpoints of the session; how many there were."""
        _check(owner, session_id)
        return await self._store.delete_checkpoints(owner, session_id)

    async def fork(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> Session:
        """Make a session that goes on from a checkpoint: its messages up to there, and the checkpoint as the first.

        Agent and metadata are those that the session has now. Raises `NotFound` without the checkpoint, `LimitExceeded`
        when there are too many sessions.
        """
        _check(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        await self._sweep()
        new = new_secret_id()
        outcome = await self._store.fork(owner, session_id, checkpoint_id, new, self._quota)
        session = await self._created(owner, session_id, outcome)
        await self._publish(
            EventType.CHECKPOINT_RESTORED, owner, session_id, session.agent_id, checkpoint_id=checkpoint_id
        )
        return session

    def _fields(self, agent_id: str, metadata: Mapping[str, Any]) -> SessionFields:
        check_name(agent_id, "agent_id")
        return SessionFields(agent_id=agent_id, data=self._metadata(metadata))

    def _metadata(self, metadata: Mapping[str, Any]) -> bytes:
        limits = self._limits
        return encode_record(
            copy_json(metadata, "metadata", max_bytes=limits.metadata_bytes, max_depth=limits.metadata_depth)
        )

    def _batch(self, messages: Sequence[Message]) -> MessageBatch:
        limits = self._limits
        try:
            batch = MessageBatch.of(messages)
            if len(batch.payload) <= limits.message_bytes and len(messages) <= limits.history_messages:
                return batch
        except InvalidInput as error:
            if not isinstance(error.__cause__, UnicodeEncodeError):
                raise
        batch = MessageBatch.of(checked_messages(tuple(messages), limits))
        if len(batch.payload) > limits.history_bytes:
            raise LimitExceeded(
                f"the messages take {len(batch.payload)} bytes, the limit is {limits.history_bytes} (Limits.history_bytes)",
                details={"field": "messages", "limit": limits.history_bytes, "actual": len(batch.payload)},
            )
        return batch

    async def _length(self, session_id: str, owner: Owner, expected: int | None) -> int:
        session = await self.get(session_id, owner=owner)
        if session is None:
            self._refuse(Refusal.MISSING, session_id)
        if session.closed:
            self._refuse(Refusal.CLOSED, session_id)
        if expected not in (None, session.message_count):
            self._refuse(Refusal.CHANGED, session_id)
        return session.message_count

    async def _change(self, session_id: str, owner: Owner, change: Callable[[StoredSession], SessionFields]) -> Session:
        """Write what `change` makes of the session, again until nobody came between the read and the write."""
        _check(owner, session_id)
        for _ in range(_ATTEMPTS):
            stored = await self._store.read(owner, session_id)
            if stored is None:
                self._refuse(Refusal.MISSING, session_id)
            outcome = await self._store.write(owner, session_id, change(stored), expected=stored.version, ttl=self._ttl)
            if outcome is not Refusal.CHANGED:
                return session_of(owner, self._granted(outcome, session_id))
        self._refuse(Refusal.CHANGED, session_id)

    async def _created(self, owner: Owner, session_id: str, outcome: StoredSession | Refusal) -> Session:
        session = session_of(owner, self._granted(outcome, session_id))
        await self._publish(EventType.SESSION_CREATED, owner, session.session_id, session.agent_id)
        return session

    async def _sweep(self) -> int:
        expired = await self._store.expire()
        for session in expired:
            await self._publish(EventType.SESSION_EXPIRED, session.owner, session.session_id, session.agent_id)
        return len(expired)

    async def _restored(self, owner: Owner, session_id: str, found: Sequence[StoredCheckpoint]) -> Checkpoint | None:
        if not found:
            return None
        checkpoint = checkpoint_of(session_id, found[0])
        await self._publish_checkpoint(EventType.CHECKPOINT_RESTORED, owner, checkpoint)
        return checkpoint

    async def _publish_checkpoint(self, event_type: EventType, owner: Owner, checkpoint: Checkpoint) -> None:
        await self._publish(event_type, owner, checkpoint.session_id, checkpoint_id=checkpoint.checkpoint_id)

    async def _publish(
        self, event_type: EventType, owner: Owner, session_id: str, agent_id: str = "", **metadata: str
    ) -> None:
        bus = self._bus
        if bus is None or not bus.wants(event_type):
            return
        if owner.tenant_id is not None:
            metadata["tenant_id"] = owner.tenant_id
        with suppress(RuntimeClosed):  # what was done is done, also when the bus is shut down and nobody is told
            await bus.publish(
                SystemEvent(
                    event_type=event_type,
                    agent_id=agent_id,
                    user_id=owner.user_id,
                    session_id=session_id,
                    metadata=metadata,
                )
            )

    def _granted(self, outcome: T | Refusal, session_id: str) -> T:
        if isinstance(outcome, Refusal):
            self._refuse(outcome, session_id)
        return outcome

    def _refuse(self, refusal: Refusal, session_id: str) -> NoReturn:
        raise refused(refusal, session_id, self._quota)


def _check(owner: Owner, session_id: str) -> None:
    check_owner(owner)
    check_id(session_id, "session_id")
