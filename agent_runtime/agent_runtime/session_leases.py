"""The part of the session manager that says whose turn it is: leases, and the runs that hold them."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio

from agent_runtime.background import Background
from agent_runtime.errors import InvalidInput, OutcomeUnknown, SessionConflict, StoreUnavailable, Unknown
from agent_runtime.ids import new_id
from agent_runtime.journal import Journal
from agent_runtime.payload import check_id
from agent_runtime.session_access import SessionAccess, check_session
from agent_runtime.session_data import Session, UnfinishedRun, run_of, session_of
from agent_runtime.session_store import LeaseToken, Refusal, StoredLease, StoredRun
from agent_runtime.types import Message, Owner, Value

_FIRST_LOOK = 0.005  # seconds between two looks at a session that is held, doubled each time
_LAST_LOOK = 0.25
_LONGEST = 86_400.0  # seconds that a holder which has crashed may keep others out


class Lease(Value, frozen=True, kw_only=True):
    """The right to write to a session until somebody else has it.

    Attributes:
        session: The session as it was when the lease was given.
        holder: Who has it; unique for each lease.
        fence: The fencing token: larger for each lease of a session. Pass it on to other systems that the work writes to,
            and have them refuse a smaller one.
    """

    session: Session
    holder: str
    fence: int

    def __repr__(self) -> str:
        return f"Lease({self.session.session_id!r}, holder={self.holder!r}, fence={self.fence})"


def token_of(lease: Lease | None) -> LeaseToken | None:
    """What the store is shown."""
    return None if lease is None else LeaseToken(holder=lease.holder, fence=lease.fence)


class SessionLeases(SessionAccess):
    """See `SessionManager`."""

    @asynccontextmanager
    async def lease(
        self, session_id: str, *, owner: Owner, ttl: float = 30.0, wait: float = 0.0
    ) -> AsyncGenerator[Lease]:
        """Inside, nobody else holds the session: `async with sessions.lease(session_id, owner=owner) as lease:`.

        It is renewed every third of `ttl` seconds, in the background, and given back at the end. A holder that crashes
        keeps others out for `ttl` seconds at most. A holder that was paused for longer may have lost the session: the
        block is then cancelled and `SessionConflict` raised, and a write with `lease=` is refused by the store in any case.

        `ttl` is at most a day. Raises `SessionConflict` when the session is still held after `wait` seconds, or closed;
        `NotFound` without it.
        """
        if not (_is_number(ttl) and 0 < ttl <= _LONGEST):
            raise InvalidInput(
                f"ttl is {ttl!r}; it must be above 0 and at most {_LONGEST:.0f} seconds", details={"field": "ttl"}
            )
        if not (_is_number(wait) and wait >= 0):
            raise InvalidInput(f"wait is {wait!r}; it must be 0 or more seconds", details={"field": "wait"})
        check_session(owner, session_id)
        held = await self.acquire(session_id, owner=owner, holder=new_id(), seconds=ttl, until=_later(wait))
        token = held.token
        try:
            async with self.renewing(session_id, token, owner=owner, seconds=ttl, every=ttl / 3):
                yield Lease(session=session_of(owner, held.session), holder=token.holder, fence=token.fence)
        finally:
            with anyio.CancelScope(deadline=_later(self._limits.store), shield=True):
                await self.release(session_id, token, owner=owner)

    async def acquire(
        self,
        session_id: str,
        *,
        owner: Owner,
        holder: str,
        seconds: float,
        entry: bytes | None = None,
        until: float = 0.0,
    ) -> StoredLease:
        """Take the lease, and with `entry` begin the run `holder`. `renew` and `release` are the caller's to do.

        While the session is held it looks again, until `anyio.current_time()` has reached `until`. Raises
        `SessionConflict`, `NotFound`. Cancelled, or without an answer of the store, it does not leave the session held if it can.
        """
        pause = _FIRST_LOOK
        take = partial(self._store.acquire, owner, session_id, holder, seconds=seconds, ttl=self._ttl, entry=entry)
        while True:
            try:
                outcome = await self._do(take)
            except (anyio.get_cancelled_exc_class(), OutcomeUnknown):
                with anyio.CancelScope(deadline=_later(self._limits.store), shield=True):
                    await self._undo(take, session_id, holder, owner, begun=entry is not None)
                raise
            left = until - anyio.current_time()
            if outcome is not Refusal.HELD or left <= 0:
                return self._granted(outcome, session_id)
            await anyio.sleep(min(left, random.uniform(pause / 2, pause)))
            pause = min(2 * pause, _LAST_LOOK)

    async def _undo(
        self,
        take: Callable[[], Awaitable[StoredLease | Refusal]],
        session_id: str,
        holder: str,
        owner: Owner,
        *,
        begun: bool,
    ) -> None:
        """Give back what was perhaps taken: taken again by the same holder, it is the same lease."""
        with suppress(StoreUnavailable, Unknown):
            outcome = await take()
            if isinstance(outcome, Refusal):
                return
            if begun:
                await self._store.finish(owner, session_id, holder, None, ttl=self._ttl, lease=outcome.token)
            else:
                await self._store.release(owner, session_id, outcome.token)

    async def release(self, session_id: str, token: LeaseToken, *, owner: Owner) -> bool:
        """Give the lease back; false when it was over."""
        return await self._do(lambda: self._store.release(owner, session_id, token))

    @asynccontextmanager
    async def renewing(
        self,
        session_id: str,
        token: LeaseToken,
        *,
        owner: Owner,
        seconds: float,
        every: float,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> AsyncGenerator[None]:
        """Inside, the lease is renewed. When it is lost the block is cancelled, and `SessionConflict` raised.

        A store that does not answer loses the lease only when `seconds` have passed since the last renewal. `beside` runs
        as long as the block does, and must not raise.
        """
        lost = False
        failure: BaseException | None = None

        async def renew() -> None:
            nonlocal lost
            await self._renew_until_lost(session_id, token, owner, seconds, every, anyio.current_time())
            lost = True
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(renew)
            if beside is not None:
                group.start_soon(beside)
            try:
                yield
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - raised below, where no group wraps it
                failure = error
            group.cancel_scope.cancel()
        if lost:
            raise _lost(session_id) from failure
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def renewing_later(
        self,
        session_id: str,
        token: LeaseToken,
        *,
        owner: Owner,
        seconds: float,
        every: float,
        background: Background,
    ) -> AsyncGenerator[None]:
        """The same, on asyncio, without a task until the first renewal is due: most runs end before."""
        lost = False

        async def renew(taken: float) -> None:
            nonlocal lost
            await self._renew_until_lost(session_id, token, owner, seconds, every, taken)
            lost = True
            scope.cancel()

        end = background.later(every, renew, anyio.current_time(), name="renew a lease")
        try:
            with anyio.CancelScope() as scope:
                yield
        except Exception as error:
            if lost:
                raise _lost(session_id) from error
            raise
        finally:
            end()
        if lost:
            raise _lost(session_id)

    async def _renew_until_lost(
        self,
        session_id: str,
        token: LeaseToken,
        owner: Owner,
        seconds: float,
        every: float,
        taken: float,
    ) -> None:
        """Renew a lease that was taken at `taken`, and return when it is somebody else's, or over."""
        ends = taken + seconds
        due = taken + every
        while (left := ends - anyio.current_time()) > 0:
            await anyio.sleep(min(max(due - anyio.current_time(), 0.0), left))
            asked = anyio.current_time()
            due = asked + every
            with suppress(StoreUnavailable, Unknown):
                outcome = await self._ask(self._store.renew(owner, session_id, token, seconds=seconds))
                if isinstance(outcome, Refusal):
                    return
                ends = asked + seconds

    # Runs

    async def unfinished_runs(self, session_id: str, *, owner: Owner) -> tuple[UnfinishedRun, ...]:
        """The runs of the session that can be resumed, the newest first; at most 32 are kept."""
        check_session(owner, session_id)
        session = await self._ask(self._store.read(owner, session_id))
        holder = None if session is None else session.holder
        found = await self._ask(self._store.runs(owner, session_id))
        runs = [(stored, await self.journal(session_id, stored.run_id, owner=owner)) for stored in found]
        return tuple(run_of(session_id, stored, journal, holder) for stored, journal in runs if journal.began)

    async def discard_run(self, session_id: str, run_id: str, *, owner: Owner) -> bool:
        """Give an unfinished run up; whether there was one. `SessionConflict` while the session is held."""
        check_session(owner, session_id)
        check_id(run_id, "run_id")
        outcome = await self._do(lambda: self._store.discard_run(owner, session_id, run_id), again=False)
        return self._granted(outcome, session_id)

    async def journal(self, session_id: str, run_id: str, *, owner: Owner, journal: Journal | None = None) -> Journal:
        """What is stored of a run, read into `journal` or a new one. Raises `CorruptRecord`."""
        entries = await self._ask(self._store.entries(owner, session_id, run_id))
        journal = journal or Journal()
        journal.load(entries, f"run {run_id!r} of session {session_id!r}")
        return journal

    async def stored_runs(self, session_id: str, *, owner: Owner) -> Sequence[StoredRun]:
        """The runs of the session that can be resumed, as the store has them."""
        return await self._ask(self._store.runs(owner, session_id))

    async def record(
        self, session_id: str, run_id: str, number: int, entry: bytes, *, owner: Owner, token: LeaseToken
    ) -> None:
        """Add an entry to a run. Raises `SessionConflict` when the lease is over or somebody else wrote this entry."""
        outcome = await self._do(
            lambda: self._store.record(owner, session_id, run_id, number, entry, ttl=self._ttl, lease=token)
        )
        self._granted(outcome, session_id, part=f"run {run_id!r}")

    async def finish_run(
        self, session_id: str, run_id: str, messages: Sequence[Message], *, owner: Owner, token: LeaseToken
    ) -> int:
        """Add what the run said to the conversation, remove its entries and give the lease back, as one step.

        Returns the length of the conversation. Raises `SessionConflict` when the lease is over.
        """
        batch = self._batch(messages) if messages else None
        outcome = await self._do(
            lambda: self._store.finish(owner, session_id, run_id, batch, ttl=self._ttl, lease=token)
        )
        return self._granted(outcome, session_id, part=f"run {run_id!r}")


def _lost(session_id: str) -> SessionConflict:
    return SessionConflict(
        f"the lease of session {session_id!r} was lost: this run was paused for too long, or the store was away"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _later(seconds: float) -> float:
    return anyio.current_time() + seconds
