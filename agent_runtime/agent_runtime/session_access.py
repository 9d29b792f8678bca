"""How the session manager speaks to its store: within a time, again where nobody knows, and refusals as errors."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import anyio

from agent_runtime.entry import checked_messages
from agent_runtime.errors import (
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    OutcomeUnknown,
    RuntimeClosed,
    SessionConflict,
    StoreUnavailable,
)
from agent_runtime.events import EventBus, EventType, SystemEvent
from agent_runtime.limits import Limits
from agent_runtime.memory import MemorySessionStore
from agent_runtime.payload import check_id, check_name, check_owner, copy_json
from agent_runtime.records import encode_record
from agent_runtime.session_data import Session, session_of
from agent_runtime.session_store import (
    MessageBatch,
    Refusal,
    SessionFields,
    SessionQuota,
    SessionStore,
    StoredSession,
)
from agent_runtime.types import Message, Owner

T = TypeVar("T")

_MAX_TTL = 100 * 365 * 86_400.0
_MAX_COUNT = 2**53 - 1  # what every store takes
_PAUSES = (0.05, 0.2)  # seconds before a write of unknown outcome is sent again


class SessionAccess:
    """A store, and what is promised about each call of it: see `SessionManager`."""

    def __init__(
        self,
        store: SessionStore,
        *,
        ttl: float,
        max_sessions: int | None,
        max_sessions_per_user: int | None,
        event_bus: EventBus | None,
        limits: Limits | None,
    ) -> None:
        if not 0 < ttl <= _MAX_TTL:
            raise ConfigurationError(f"ttl is {ttl!r}; it must be above 0 and at most {_MAX_TTL:.0f} seconds")
        for name, limit in (("max_sessions", max_sessions), ("max_sessions_per_user", max_sessions_per_user)):
            if limit is not None and limit < 1:
                raise ConfigurationError(f"{name} is {limit!r}; it must be at least 1, or None for no limit")
        self._store = store
        self._waits = type(store) is not MemorySessionStore  # which never suspends: a timer for it would be waste
        self._quota = SessionQuota(
            ttl=float(ttl), max_sessions=max_sessions, max_sessions_per_user=max_sessions_per_user
        )
        self._ttl = self._quota.ttl
        self._bus = event_bus
        self._limits = limits or Limits()

    async def _ask(self, answer: Awaitable[T]) -> T:
        """What a read gives; `StoreUnavailable` when it takes longer than `Limits.store`."""
        if not self._waits:
            return await answer
        with anyio.CancelScope(deadline=anyio.current_time() + self._limits.store):
            return await answer
        raise StoreUnavailable(f"the session store took longer than {self._limits.store:g} s (Limits.store)")

    async def _do(self, write: Callable[[], Awaitable[T]], *, again: bool = True) -> T:
        """What a write gives; `OutcomeUnknown` when nobody knows whether it was done.

        It is sent `again` first, with the same operation id: for writes that answer a repetition like the first time.
        """
        if not self._waits:
            return await write()
        for pause in (*_PAUSES, 0.0) if again else (0.0,):
            try:
                with anyio.CancelScope(deadline=anyio.current_time() + self._limits.store):
                    return await write()
            except OutcomeUnknown:
                if not pause:
                    raise
            if pause:
                await anyio.sleep(pause)
        raise OutcomeUnknown(
            f"the session store did not answer a write within {self._limits.store:g} s (Limits.store); it may be done"
        )

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

    async def _created(
        self, owner: Owner, session_id: str, outcome: StoredSession | Refusal, *, part: str | None = None
    ) -> Session:
        session = session_of(owner, self._granted(outcome, session_id, part=part))
        await self._publish(EventType.SESSION_CREATED, owner, session.session_id, session.agent_id)
        return session

    async def _sweep(self) -> int:
        expired = await self._ask(self._store.expire())
        for session in expired:
            await self._publish(EventType.SESSION_EXPIRED, session.owner, session.session_id, session.agent_id)
        return len(expired)

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

    def _granted(self, outcome: T | Refusal, session_id: str, *, part: str | None = None) -> T:
        if isinstance(outcome, Refusal):
            self._refuse(outcome, session_id, part=part)
        return outcome

    def _refuse(self, refusal: Refusal, session_id: str, *, part: str | None = None) -> NoReturn:
        raise refused(refusal, session_id, self._quota, part=part)


def check_session(owner: Owner, session_id: str) -> None:
    """Refuse what names no session with `InvalidInput`."""
    check_owner(owner)
    check_id(session_id, "session_id")


def refused(refusal: Refusal, session_id: str, quota: SessionQuota, *, part: str | None = None) -> AgentRuntimeError:
    """The error that tells a caller of `refusal`; `part` names what of the session was asked for, if not all of it."""
    if refusal is Refusal.MISSING:
        missing = f"session {session_id!r} of this owner"
        return NotFound(f"there is no {missing}" if part is None else f"there is no {part} of {missing}")
    if refusal is Refusal.FULL:
        return _too_many(quota.max_sessions, "max_sessions")
    if refusal is Refusal.OWNER_FULL:
        return _too_many(quota.max_sessions_per_user, "max_sessions_per_user")
    return SessionConflict(f"session {session_id!r} {_CONFLICTS[refusal]}", retryable=refusal is Refusal.HELD)


_CONFLICTS = {
    Refusal.EXISTS: "exists already, or its checkpoint of this id has another state; choose another id",
    Refusal.CHANGED: "changed since it was read; read it again",
    Refusal.CLOSED: "is closed and takes no more messages, checkpoints and runs; make a new one, or fork it",
    Refusal.HELD: "is held by another run; try again when that has ended",
    Refusal.FENCED: "was taken over by another run while this one was paused; nothing was written",
}


def checked_count(count: int | None, name: str, of: str) -> int | None:
    """How many a store is asked for. Raises `InvalidInput` below 0."""
    if count is not None and count < 0:
        raise InvalidInput(f"{name} is {count!r}; it must be 0 or more {of}", details={"field": name})
    return None if count is None else min(count, _MAX_COUNT)


def _too_many(limit: int | None, name: str) -> LimitExceeded:
    return LimitExceeded(
        f"there are {limit} sessions, the limit ({name}); delete one, or wait until one expires",
        details={"field": name, "limit": limit, "remaining": 0},
    )
