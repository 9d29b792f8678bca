"""The parent of background work. No other file makes an asyncio task."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVarTuple

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from agent_runtime.errors import ConfigurationError, RuntimeClosed

Ts = TypeVarTuple("Ts")

logger = logging.getLogger(__name__)

_LAST_WORDS = 5.0  # seconds for the jobs' own clean-up when `aclose` is itself cancelled
_KEPT_ERRORS = 100


class Background:
    """Runs jobs beside the caller, in one event loop, and ends them all on `aclose`.

    Entered, jobs live in a task group of the entering task. Not entered, they are asyncio tasks that this object
    holds on to; trio has no such tasks, there `start` needs `async with`. A job that raises is logged, its
    exception is kept in `errors` (the last 100), and neither the caller nor another job notices. Where the entering
    task is cancelled, jobs go on until it leaves.
    """

    def __init__(self) -> None:
        self.errors: deque[Exception] = deque(maxlen=_KEPT_ERRORS)
        self._jobs: dict[anyio.CancelScope, Callable[[], None] | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: TaskGroup | None = None
        self._home: EventLoopToken | None = None
        self._idle: anyio.Event | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    def start(
        self,
        function: Callable[[*Ts], Awaitable[object]],
        *args: *Ts,
        name: str | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """Run `function(*args)` beside the caller; what is returned cancels it.

        `on_end` is called once when it has ended, also if it never began.

        Raises `RuntimeClosed` after `aclose`, `ConfigurationError` on trio outside `async with`, and `RuntimeError`
        in another event loop than that of the jobs still running.
        """
        if self._closed:
            raise RuntimeClosed("this background has been closed and starts nothing more")
        self.check_loop()
        if self._group is None and not runs_on_asyncio():
            raise ConfigurationError("background work on trio needs its lifespan: use `async with`")
        scope = anyio.CancelScope(shield=True)  # jobs are ended by `aclose`, after what is to be drained first
        self._jobs[scope] = on_end
        if self._group is not None:
            self._group.start_soon(self._run, scope, function, args, name=name)
            return scope.cancel
        task = asyncio.create_task(self._run(scope, function, args), name=name)
        self._hold(task)
        task.add_done_callback(lambda _: self._ended(scope))  # a task cancelled before its first step never runs
        return scope.cancel

    def _hold(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def later(
        self, seconds: float, function: Callable[[*Ts], Awaitable[object]], *args: *Ts, name: str | None = None
    ) -> Callable[[], None]:
        """Run `function(*args)` beside the caller in so many seconds; what is returned cancels it, before or after.

        Until then it costs a timer. Needs asyncio. When the background is closed by then, nothing happens.
        """
        started: list[Callable[[], None]] = []

        async def begin() -> None:
            if not timer.cancelled():  # which it may have been since it was due
                with suppress(RuntimeClosed):
                    started.append(self.start(function, *args, name=name))

        loop = asyncio.get_running_loop()
        # In a task: anyio finds no event loop in a mere callback, unless the program was started by `anyio.run`.
        timer = loop.call_later(seconds, lambda: self._hold(loop.create_task(begin(), name=name)))

        def cancel() -> None:
            timer.cancel()
            for cancel_job in started:
                cancel_job()

        return cancel

    async def aclose(self) -> None:
        """Cancel the jobs and wait for them. Idempotent; cancelled, it still gives them 5 s before it returns."""
        self._cancel()
        try:
            await self.ended()
        finally:
            with anyio.move_on_after(_LAST_WORDS, shield=True):
                await self.ended()

    async def __aenter__(self) -> Self:
        self.check_loop()
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group, self._home = group, current_token()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._cancel()
        try:
            # Without the body's exception, which the group would wrap in an exception group.
            await self._group.__aexit__(None, None, None)
        finally:
            for scope in tuple(self._jobs):  # the same, for tasks of the group
                self._ended(scope)

    def check_loop(self) -> None:
        """Raise `RuntimeError` unless called from the event loop of the jobs, which the first one chooses."""
        here = current_token()
        if here != self._home and (self._jobs or self._group is not None):
            raise RuntimeError("this background still has work in another event loop: close it there first")
        self._home = here

    async def _run(
        self, scope: anyio.CancelScope, function: Callable[[*Ts], Awaitable[object]], args: tuple[*Ts]
    ) -> None:
        try:
            with scope:
                await function(*args)
        except anyio.get_cancelled_exc_class():
            if cancel_requested():
                raise
            logger.warning("background job ended: it awaited a task that was cancelled")
        except Exception as error:
            self.errors.append(error)
            logger.exception("background job failed")
        finally:
            self._ended(scope)

    def _ended(self, scope: anyio.CancelScope) -> None:
        on_end = self._jobs.pop(scope, None)
        if on_end is not None:
            on_end()
        if not self._jobs and self._idle is not None:
            self._idle.set()
            self._idle = None

    def _cancel(self) -> None:
        self._closed = True
        for scope in tuple(self._jobs):
            scope.cancel()

    async def ended(self) -> None:
        """Return when no job is left."""
        while self._jobs:
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()


def runs_on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    return isinstance(current_token().native_token, asyncio.AbstractEventLoop)


def cancel_requested() -> bool:
    """Whether a cancellation just caught was meant for this task.

    On asyncio a `CancelledError` also comes out of awaiting a task that somebody else cancelled; trio has no such thing.
    """
    if not runs_on_asyncio():
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
