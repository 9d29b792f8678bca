"""Conversations that outlive a run: sessions, their messages and their checkpoints, each of them one owner's."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec

from agent_runtime.events import EventBus
from agent_runtime.ids import new_id, new_secret_id
from agent_runtime.limits import Limits
from agent_runtime.payload import check_name, check_owner
from agent_runtime.session_access import check_session, checked_count
from agent_runtime.session_checkpoints import SessionCheckpoints
from agent_runtime.session_data import Session, session_of, values_of
from agent_runtime.session_leases import Lease, SessionLeases, token_of
from agent_runtime.session_store import Refusal, SessionFields, SessionStore, StoredSession
from agent_runtime.session_transfer import SessionTransfer
from agent_runtime.types import Message, Owner

Merge = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]

_ATTEMPTS = 200  # of a compare-and-set; each failed one means that somebody else's write succeeded


class SessionManager(SessionCheckpoints, SessionLeases, SessionTransfer):
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
        super().__init__(
            store,
            ttl=ttl,
            max_sessions=max_sessions,
            max_sessions_per_user=max_sessions_per_user,
            event_bus=event_bus,
            limits=limits,
        )

        self._opened = AsyncExitStack()
        self._entries = 0

    async def __aenter__(self) -> Self:
        """Open the store where it can be opened. Entries may be nested; the last exit closes."""
        if self._entries == 0 and isinstance(self._store, AbstractAsyncContextManager):
            await self._opened.enter_async_context(self._store)
        self._entries += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entries -= 1
        if self._entries == 0:
            await self._opened.aclose()

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
        name = new_secret_id() if session_id is None else session_id
        check_session(owner, name)
        fields = self._fields(agent_id, metadata or {})
        await self._sweep()
        return await self._created(owner, name, await self._add(owner, name, fields))

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
            outcome = await self._add(owner, session_id, self._fields(agent_id, {}))
            if outcome is not Refusal.EXISTS:
                return await self._created(owner, session_id, outcome)
        self._refuse(Refusal.CHANGED, session_id)

    async def get(self, session_id: str, *, owner: Owner) -> Session | None:
        """The session, or `None`."""
        check_session(owner, session_id)
        stored = await self._ask(self._store.read(owner, session_id))
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
        lease: Lease | None = None,
    ) -> Session:
        """Set what is given; with `expected` only at that version, with `lease` only under it, else `SessionConflict`.

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

        return await self._change(session_id, owner, change, lease)

    async def update_metadata(
        self, session_id: str, merge: Merge, *, owner: Owner, lease: Lease | None = None
    ) -> Session:
        """Put the items of `merge` over the old ones, or replace them by what `merge(old)` returns.

        No concurrent change is lost: a function is called again, with the newer metadata, until nobody came between.
        """

        def change(stored: StoredSession) -> SessionFields:
            old = values_of(stored.fields.data, f"session {session_id!r}")
            new = merge(old) if callable(merge) else {**old, **merge}
            return msgspec.structs.replace(stored.fields, data=self._metadata(new))

        return await self._change(session_id, owner, change, lease)

    async def refresh(self, session_id: str, *, owner: Owner) -> Session:
        """Let the session live `ttl` seconds from now."""
        return await self._change(session_id, owner, lambda stored: stored.fields)

    async def close(self, session_id: str, *, owner: Owner) -> Session:
        """Have the session take no more messages and checkpoints; it can be read until it expires. Idempotent."""
        return await self._change(session_id, owner, lambda stored: msgspec.structs.replace(stored.fields, closed=True))

    async def delete(self, session_id: str, *, owner: Owner) -> bool:
        """Remove the session with its messages and checkpoints; whether there was one."""
        check_session(owner, session_id)
        return await self._do(lambda: self._store.delete(owner, session_id), again=False)

    async def list_by_user(self, *, owner: Owner) -> tuple[Session, ...]:
        """All sessions of the owner, the newest first."""
        check_owner(owner)
        found = await self._ask(self._store.sessions(owner))
        newest_first = sorted(found, key=lambda stored: (stored.created_at, stored.session_id), reverse=True)
        return tuple(session_of(owner, stored) for stored in newest_first)

    async def count(self, *, owner: Owner) -> int:
        """How many sessions the owner has."""
        check_owner(owner)
        return await self._ask(self._store.count(owner))

    async def delete_by_user(self, *, owner: Owner) -> int:
        """Remove all that is kept for the owner; how many sessions there were."""
        check_owner(owner)
        return await self._do(lambda: self._store.delete_all(owner), again=False)

    async def delete_by_agent(self, agent_id: str, *, owner: Owner) -> int:
        """Remove the owner's sessions with this agent; how many there were."""
        check_owner(owner)
        check_name(agent_id, "agent_id")
        return await self._do(lambda: self._store.delete_all(owner, agent_id=agent_id), again=False)

    async def cleanup_expired(self) -> int:
        """Remove the sessions whose time is up, of all owners, and publish each; how many there were."""
        total = 0
        while removed := await self._sweep():
            total += removed
        return total

    async def append_messages(
        self,
        session_id: str,
        messages: Sequence[Message],
        *,
        owner: Owner,
        expected: int | None = None,
        lease: Lease | None = None,
    ) -> int:
        """Add to the conversation and return its new length; costs what the added messages cost.

        Raises `SessionConflict` when `expected` is not the current length, the session is closed, the `lease` is over, or
        without `lease` somebody holds the session. Half a surrogate pair in content becomes U+FFFD.
        """
        check_session(owner, session_id)
        if not messages:
            return await self._length(session_id, owner, expected)
        batch, operation, token = self._batch(messages), new_id(), token_of(lease)
        outcome = await self._do(
            lambda: self._store.append(
                owner, session_id, batch, expected=expected, ttl=self._ttl, operation=operation, lease=token
            )
        )
        return self._granted(outcome, session_id)

    async def messages(self, session_id: str, *, owner: Owner, window: int | None = None) -> tuple[Message, ...]:
        """The conversation, or its last `window` messages."""
        check_session(owner, session_id)
        last = checked_count(window, "window", "messages")
        found = await self._ask(self._store.messages(owner, session_id, last=last))
        if found is None:
            self._refuse(Refusal.MISSING, session_id)
        return tuple(found)

    async def _length(self, session_id: str, owner: Owner, expected: int | None) -> int:
        session = await self.get(session_id, owner=owner)
        if session is None:
            self._refuse(Refusal.MISSING, session_id)
        if session.closed:
            self._refuse(Refusal.CLOSED, session_id)
        if expected not in (None, session.message_count):
            self._refuse(Refusal.CHANGED, session_id)
        return session.message_count

    async def _add(self, owner: Owner, session_id: str, fields: SessionFields) -> StoredSession | Refusal:
        operation = new_id()
        return await self._do(lambda: self._store.create(owner, session_id, fields, self._quota, operation=operation))

    async def _change(
        self,
        session_id: str,
        owner: Owner,
        change: Callable[[StoredSession], SessionFields],
        lease: Lease | None = None,
    ) -> Session:
        """Write what `change` makes of the session, again until nobody came between the read and the write."""
        check_session(owner, session_id)
        token = token_of(lease)
        for _ in range(_ATTEMPTS):
            stored = await self._ask(self._store.read(owner, session_id))
            if stored is None:
                self._refuse(Refusal.MISSING, session_id)
            outcome = await self._do(
                partial(
                    self._store.write,
                    owner,
                    session_id,
                    change(stored),
                    expected=stored.version,
                    ttl=self._ttl,
                    operation=new_id(),
                    lease=token,
                )
            )
            if outcome is not Refusal.CHANGED:
                return session_of(owner, self._granted(outcome, session_id))
        self._refuse(Refusal.CHANGED, session_id)
