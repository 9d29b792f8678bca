"""A run's hold on its session: the lease, the journal, and what becomes of both when the run ends."""

import logging
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal, TypeAlias

import anyio
import msgspec

from agent_runtime.background import Background, runs_on_asyncio
from agent_runtime.context import AgentContext
from agent_runtime.ending import LAST_WORDS
from agent_runtime.errors import (
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    NotFound,
    SessionConflict,
    Suspended,
    error_type_of,
    safe_text,
)
from agent_runtime.events import EventType
from agent_runtime.journal import Durability, Journal
from agent_runtime.journal_items import Asked, Began
from agent_runtime.known_calls import suspension
from agent_runtime.limits import Limits
from agent_runtime.payload import copy_json, plain_json
from agent_runtime.session_store import LeaseToken, StoredRun
from agent_runtime.sessions import SessionManager
from agent_runtime.types import Message, Resume, RunStatus

OnBusy: TypeAlias = Literal["reject", "wait", "allow"]
"""What a run does whose session another run holds: fail at once, wait its turn, or run beside it."""

logger = logging.getLogger(__name__)


class SessionTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How the runs of one executor use their sessions. `resumable` and `fingerprint` are the agent's."""

    sessions: SessionManager
    limits: Limits
    on_busy: OnBusy
    durability: Durability
    resumable: bool
    fingerprint: str


class Hold:
    """Made once for a run, entered for each execution of its agent, closed when the run ends.

    With `on_busy="allow"` there is no lease, and nothing is kept of a run that is not finished. Where a layer starts the
    agent again after its turn was added to the conversation, that is another turn.
    """

    def __init__(self, terms: SessionTerms, context: AgentContext, session_id: str, resume: Resume | None) -> None:
        self._terms = terms
        self._sessions = terms.sessions
        self._session_id = session_id
        self._owner = context.owner
        self._run_id = self._holder = context.run.run_id
        self._resume = resume
        self._context = context
        self._token: LeaseToken | None = None
        self._leased = terms.on_busy != "allow"
        self._history: int | None = None  # of a resumed run: as many messages as there were when it began
        self._input: Began | None = None  # of a resumed run: what it began with
        self._begun = False
        self._message_count = 0
        self._finished = False
        self.journal = self._new_journal()

    def _new_journal(self) -> Journal:
        terms = self._terms
        return Journal(
            self._save if self._leased and terms.resumable else None,
            durability=terms.durability,
            max_bytes=terms.limits.checkpoint_bytes,
            state=self._context.run.state,
        )

    async def enter(self, context: AgentContext) -> AgentContext:
        """Take the session; what the agent gets: `context` with the history, of a resumed run with its task too."""
        if self._finished:
            self._next_turn()
        if self._begun:
            await self._take(None)
            await self.journal.begin_again()
        elif self._resume is not None:
            await self._take_up(self._resume)
        else:
            await self._begin(self._as_begun(context))
        self._begun = True
        context.run.journal = self.journal
        context = self._as_begun(context)
        return msgspec.structs.replace(context, may_ask=True, messages=(*await self._messages(), *context.messages))

    def _as_begun(self, context: AgentContext) -> AgentContext:
        began = self._input
        if began is None:
            return context
        return context.replace(
            current_task=began.task,
            messages=began.messages,
            metadata=copy_json(began.metadata, "metadata", max_bytes=self._terms.limits.checkpoint_bytes),
        )

    def _next_turn(self) -> None:
        run = self._context.run
        self._holder = run.origin = f"{run.run_id}-{run.executions}"
        self._finished = self._begun = False
        self._resume = self._history = self._token = None
        self.journal = self._new_journal()

    def attended(self, background: Background) -> AbstractAsyncContextManager[None]:
        """Inside, the lease is renewed, and what may be written behind the run is written."""
        if self._token is None:
            return nullcontext()
        limits = self._terms.limits
        behind = self._terms.durability == "async" and self.journal.durable
        if behind or not runs_on_asyncio():
            return self._sessions.renewing(
                self._session_id,
                self._token,
                owner=self._owner,
                seconds=limits.lease,
                every=limits.lease_renewal,
                beside=self._write_behind if behind else None,
            )
        return self._sessions.renewing_later(
            self._session_id,
            self._token,
            owner=self._owner,
            seconds=limits.lease,
            every=limits.lease_renewal,
            background=background,
        )

    async def suspend(self) -> Suspended:
        """Keep the questions of the run; the error that ends it."""
        questions = tuple(self.journal.questions.values())
        await self.journal.note(Asked(questions=questions))
        await self.journal.flush()
        error = self._context.run.suspended = suspension(questions)
        return error

    async def finish(self, messages: tuple[Message, ...]) -> None:
        """Add the turn to the conversation and let go of the session, as one step."""
        if self._token is None:
            await self._sessions.append_messages(self._session_id, messages, owner=self._owner)
        else:
            await self._sessions.finish_run(
                self._session_id, self._context.run.origin, messages, owner=self._owner, token=self._token
            )
        self._finished = True
        self.journal.detach()

    async def close(self, status: RunStatus, error: Exception | None) -> None:
        """Let go of the session at the end of a run that was not finished; what it has recorded is kept for a resume.

        A store that fails here, or takes longer than 2 s, is logged: the lease ends by itself, and what was acknowledged is
        there. Nothing but that time cuts it short.
        """
        if self._token is None or self._finished:
            return
        with anyio.CancelScope(deadline=anyio.current_time() + LAST_WORDS, shield=True) as scope:
            await self._close(self._token, status, error)
        if scope.cancelled_caught:
            logger.warning("run %s: its session stays held until the lease ends: the store took too long", self._run_id)

    async def _close(self, token: LeaseToken, status: RunStatus, error: Exception | None) -> None:
        suspended = self._context.run.suspended
        if suspended is not None:  # however the run ended after that
            status, error = RunStatus.SUSPENDED, suspended
        answered = status is RunStatus.COMPLETED and not self.journal.doubtful  # by a layer, in place of the agent
        kept = not answered and (self._resume is not None or self.journal.worth_keeping)
        if kept and self._begun:
            stop = self.journal.stop(status, None if error is None else error_type_of(error))
            await self._last(stop, "how it ended could not be stored")
        let_go = (
            self._sessions.release(self._session_id, token, owner=self._owner)
            if kept
            else self._sessions.finish_run(
                self._session_id, self._context.run.origin, (), owner=self._owner, token=token
            )
        )
        await self._last(let_go, "its session stays held until the lease ends")

    async def _last(self, step: Awaitable[object], what: str) -> None:
        try:
            await step
        except SessionConflict:
            pass  # it is somebody else's by now
        except Exception as failure:  # noqa: BLE001 - whatever it is, the end of the run is told, and the session free
            logger.warning("run %s: %s: %s", self._run_id, what, safe_text(failure))

    async def _begin(self, context: AgentContext) -> None:
        if not self._leased:
            session = await self._sessions.open(self._session_id, owner=self._owner, agent_id=context.agent_id)
            self._message_count = session.message_count
            return
        began = Began(
            agent_id=context.agent_id,
            task=context.current_task,
            metadata=plain_json(context.metadata),
            messages=context.messages,
            fingerprint=self._terms.fingerprint,
        )
        entry = self.journal.begin(began) if self.journal.durable else None
        try:
            await self._take(entry)
        except NotFound:
            await self._sessions.open(self._session_id, owner=self._owner, agent_id=context.agent_id)
            await self._take(entry)

    async def _take(self, entry: bytes | None) -> None:
        """Take the lease for this run, or again."""
        if not self._leased:
            return
        held = await self._sessions.acquire(
            self._session_id,
            owner=self._owner,
            holder=self._holder,
            seconds=self._terms.limits.lease,
            entry=entry,
            until=self._context.deadline if self._terms.on_busy == "wait" else 0.0,
        )
        self._token = held.token
        self._context.run.fence = held.token.fence
        self._message_count = held.session.message_count

    async def _take_up(self, resume: Resume) -> None:
        self.journal = journal = self._new_journal()
        await self._take(None)
        stored = await self._find(resume)
        if journal.began is None:
            raise NotFound(f"run {stored.run_id!r} of session {self._session_id!r} has no beginning to go on from")
        if journal.began.agent_id != self._context.agent_id:
            raise InvalidInput(
                f"run {stored.run_id!r} is one of agent {journal.began.agent_id!r}, "
                f"and the context asks for {self._context.agent_id!r}",
                details={"field": "agent_id"},
            )
        if journal.began.fingerprint != self._terms.fingerprint and not resume.allow_changed:
            raise ConfigurationError(
                f"the agent's tools have changed since run {stored.run_id!r} began; "
                "resume it with the tools it had, or with Resume(allow_changed=True)"
            )
        answers = plain_json(copy_json(resume.answers, "checkpoint", max_bytes=self._terms.limits.checkpoint_bytes))
        journal.check_answers(answers)
        self._input = journal.began
        run = self._context.run
        run.origin = stored.run_id
        run.resumed_from = journal.run_ids[-1] if journal.run_ids else stored.run_id
        self._history = stored.message_count
        await journal.go_on(self._run_id, answers)
        await self._context.publish(EventType.CHECKPOINT_RESTORED, metadata={"resumed_from": run.resumed_from})

    async def _find(self, resume: Resume) -> StoredRun:
        """The run that is meant, read into the journal."""
        for stored in await self._sessions.stored_runs(self._session_id, owner=self._owner):
            journal = await self._sessions.journal(self._session_id, stored.run_id, owner=self._owner)
            if resume.run_id is None:
                found = journal.began is None or journal.began.agent_id == self._context.agent_id
            else:
                found = resume.run_id in (stored.run_id, *journal.run_ids)
            if found:
                await self._sessions.journal(self._session_id, stored.run_id, owner=self._owner, journal=self.journal)
                return stored
        which = "unfinished run" if resume.run_id is None else f"unfinished run {resume.run_id!r}"
        raise NotFound(f"session {self._session_id!r} has no {which}; it may have been finished")

    async def _messages(self) -> tuple[Message, ...]:
        """The conversation before the task, from a user's message on: a tool's answer needs its call."""
        window = self._terms.limits.history_messages
        if self._history is None or self._history == self._message_count:
            history = await self._sessions.messages(self._session_id, owner=self._owner, window=window)
        else:
            whole = await self._sessions.messages(self._session_id, owner=self._owner)
            history = whole[: self._history][-window:]
        for place, message in enumerate(history):
            if message.role == "user":
                return history[place:]
        return ()

    async def _save(self, number: int, entry: bytes) -> None:
        assert self._token is not None
        run = self._context.run
        await self._sessions.record(self._session_id, run.origin, number, entry, owner=self._owner, token=self._token)
        await self._context.publish(EventType.CHECKPOINT_SAVED, metadata={"entry": number})

    async def _write_behind(self) -> None:
        try:
            await self.journal.write_behind()
        except AgentRuntimeError:
            pass  # the journal keeps what it could not write, and the next flush fails the run with it
