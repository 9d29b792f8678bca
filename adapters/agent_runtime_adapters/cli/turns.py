"""The runs of a conversation, in an event loop of their own thread: this thread talks with the person meanwhile."""

from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agent_runtime import AgentContext, AgentExecutor, AgentResult, Owner, Resume, SessionManager, UnfinishedRun
from agent_runtime_adapters.cli.exits import CommandFailed, Ended
from agent_runtime_adapters.cli.place import Place
from agent_runtime_adapters.cli.retelling import Retelling
from agent_runtime_adapters.cli.streaming import failed_run, settled, streamed
from agent_runtime_adapters.cli.terminal import Answer, Progress, notice

T = TypeVar("T")

_LOOK = 2.0  # seconds for which a free session is taken, to see that it is free
_LATE = 2.0  # seconds after the end of a lease until it is given up


class Turns:
    """Made by `turns`; its methods wait for the event loop."""

    def __init__(self, executor: AgentExecutor, sessions: SessionManager, portal: BlockingPortal) -> None:
        self.executor = executor
        self.sessions = sessions
        self._portal = portal
        self._scope: anyio.CancelScope | None = None
        self.retelling = Retelling()

    def ask(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **named: Any) -> T:
        """What `function` gives in the event loop."""
        given: T = self._portal.call(partial(function, *arguments, **named))
        return given

    def unfinished(self, place: Place) -> tuple[UnfinishedRun, ...]:
        """The runs that can be resumed, the newest first."""
        return self.ask(self.sessions.unfinished_runs, place.session_id, owner=place.owner)

    def run(
        self, context: AgentContext, answer: Answer | None, resume: Resume | None = None, *, held: bool = False
    ) -> AgentResult | None:
        """Run it, streamed where there is an `answer`. Ctrl-C cancels it: `None`, once it has cleaned up.

        A signal that ends the command too is raised, as `Ended`, once it has cleaned up.

        A session that is `held` is waited for first, as long as a dead process may hold it. A bug is `CommandFailed`.
        """
        future = self._portal.start_task_soon(self._run, context, answer, resume, held)
        try:
            return settled(future)
        except Ended:
            self._portal.call(self._cancel)
            wait((future,))
            raise
        except KeyboardInterrupt:
            self._portal.call(self._cancel)
            return settled(future)

    async def _run(
        self, context: AgentContext, answer: Answer | None, resume: Resume | None, held: bool
    ) -> AgentResult | None:
        with anyio.CancelScope() as self._scope, failed_run():
            if held:
                await self._wait_for(context.session_id or "", context.owner)
            if answer is None:
                return await self.executor.execute(context, resume=resume)
            return await streamed(self.executor, context, answer, Progress(), resume=resume, retelling=self.retelling)
        return None

    async def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _wait_for(self, session_id: str, owner: Owner) -> None:
        wait = self.executor.limits.lease + _LATE
        notice(f"the session is still held; its process may be gone, so this waits for up to {wait:g} s")
        async with self.sessions.lease(session_id, owner=owner, ttl=_LOOK, wait=wait):
            pass


@contextmanager
def turns(executor: AgentExecutor) -> Generator[Turns]:
    """The executor and its sessions, open. Raises `CommandFailed` for one that has no sessions."""
    sessions = executor.session_manager
    if sessions is None:
        raise CommandFailed("the executor has no session_manager, so nothing would be remembered")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(executor):
        yield Turns(executor, sessions, portal)
