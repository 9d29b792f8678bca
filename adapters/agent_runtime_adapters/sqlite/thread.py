"""A thread that works for event loops: jobs in, from any of them, and answers out, one hand-over for each loop.

The thread holds no reference to its `JobThread`, so one that nobody holds is collected, and the thread ends. What the
worker holds is in that thread's frames only: a process made by `fork` never sees it.
"""

import asyncio
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import anyio
from anyio.lowlevel import current_token

from agent_runtime import ConfigurationError, RuntimeClosed, StoreUnavailable, translate

T = TypeVar("T")
AnyJob: TypeAlias = "Job[Any]"
Soon: TypeAlias = Callable[..., object]
"""Has an event loop call something, from another thread; `RuntimeError` when the loop is closed."""

_AT_ONCE = 256  # jobs, so that other processes get their turn between two commits
_MOMENT = 0.001  # seconds


class Job(Generic[T]):
    """A function for the thread, and the task that waits for what it gives.

    `dropped` is set by a waiting task that was cancelled, `answer` or `error` by the thread, and `done` when the task is told.
    """

    __slots__ = ("answer", "done", "dropped", "error", "function", "give_up_at", "waiting", "writes")

    def __init__(self, function: Callable[[sqlite3.Connection], T], *, writes: bool) -> None:
        self.function = function
        self.writes = writes
        self.waiting = _waiting()
        self.dropped = False
        self.done = False
        self.give_up_at: float | None = None
        self.error: BaseException | None = None
        self.answer: T

    async def result(self) -> T:
        """What the function returned or raised. Cancelled: where the thread has not begun it, it never does."""
        try:
            await self.waiting.wait()
        except BaseException:
            self.dropped = True
            raise
        error, self.error = self.error, None
        if error is None:
            return self.answer
        try:
            raise error
        finally:
            del error, self  # a cycle: the error has this frame


class Worker(Protocol):
    """What the thread has done by; made, used and closed in the thread."""

    def work(self, jobs: list[AnyJob]) -> list[AnyJob]:
        """Do the jobs and hand them over; those returned are to be tried again in a moment."""
        ...

    def close(self) -> None: ...


class JobThread:
    """Makes its thread when the first job comes. The thread never keeps the interpreter from exiting."""

    def __init__(self, name: str, make_worker: Callable[[], Worker]) -> None:
        self._name = name
        self._make_worker = make_worker
        # As long as there are callers: each waits for its one job. Each thread has a queue of its own.
        self._jobs: SimpleQueue[AnyJob | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended: threading.Thread | None = None
        self._end: Callable[[], object] = _nothing
        self._process = os.getpid()
        self._closed = False

    async def do(self, function: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        """Have the thread do it. Raises what it raises, `RuntimeClosed` after `aclose`, `ConfigurationError` after `fork`.

        A caller that is cancelled stops waiting at once. What was not begun then is dropped, what was is done as a whole.
        """
        if self._is_forked():
            raise ConfigurationError(
                f"{self._name} was opened before this process was made by fork: open it after the fork, in each process"
            )
        job = Job(function, writes=writes)
        with self._lock:
            if self._closed:
                raise RuntimeClosed(f"{self._name} has been closed")
            if self._thread is None:
                self._thread = self._started()
            self._jobs.put(job)
        return await job.result()

    async def rest(self) -> None:
        """Do what has been asked for, close the worker and end the thread: the next job makes another.

        Idempotent; cancelled, that goes on without it.
        """
        if self._is_forked():
            return
        with self._lock:
            if self._thread is not None:
                self._ended, self._thread = self._thread, None
                self._end()
        if self._ended is not None:
            alone = anyio.CapacityLimiter(1)  # it must not wait for what else the application has threads for
            await anyio.to_thread.run_sync(self._ended.join, abandon_on_cancel=True, limiter=alone)

    async def aclose(self) -> None:
        """The same, and take no more jobs."""
        self._closed = not self._is_forked()
        await self.rest()

    def _started(self) -> threading.Thread:
        self._jobs = SimpleQueue()
        thread = threading.Thread(
            target=_serve, args=(self._jobs, self._make_worker), name=f"agent_runtime: {self._name}", daemon=True
        )
        with translate(RuntimeError, StoreUnavailable, f"there is no thread for {self._name}: too many are running"):
            thread.start()
        self._end = end = weakref.finalize(self, self._jobs.put, None)
        end.atexit = False
        self._process = os.getpid()
        return thread

    def _is_forked(self) -> bool:
        return self._thread is not None and self._process != os.getpid()


def hand_over(jobs: Iterable[AnyJob]) -> None:
    """Wake the tasks that wait for these jobs; for the thread."""
    loops: dict[Soon, list[AnyJob]] = {}
    for job in jobs:
        job.done = True
        loops.setdefault(job.waiting.soon, []).append(job)
    for soon, done in loops.items():
        with suppress(RuntimeError):  # the loop is closed, and with it the tasks that waited
            soon(_wake, done)


def _nothing() -> None:
    """What ends a thread that has not begun."""


def _wake(jobs: list[AnyJob]) -> None:
    for job in jobs:
        job.waiting.set()


def _serve(queue: "SimpleQueue[AnyJob | None]", make_worker: Callable[[], Worker]) -> None:
    worker = make_worker()
    jobs: list[AnyJob] = []
    is_open = True
    while is_open or jobs:
        is_open = _take(queue, jobs) and is_open
        jobs = _done(worker, jobs)
    worker.close()


def _take(queue: "SimpleQueue[AnyJob | None]", jobs: list[AnyJob]) -> bool:
    """Add what is queued: at once in a moment where jobs wait, and otherwise when it comes; false once the queue has ended.

    Never with a timeout: the `get` of Python 3.11 computes what is left of it after a wake-up with nothing to take, and
    where that is below zero it waits for ever.
    """
    if jobs:
        time.sleep(_MOMENT)
    try:
        job = queue.get(block=not jobs)
    except Empty:
        return True
    while job is not None:
        jobs.append(job)
        if queue.empty() or len(jobs) >= _AT_ONCE:
            return True
        job = queue.get()
    return False


def _done(worker: Worker, jobs: list[AnyJob]) -> list[AnyJob]:
    try:
        return worker.work(jobs)
    except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
        left = [job for job in jobs if not job.done]
        for job in left:
            job.error = error
        hand_over(left)
        return []


class _Waiting(Protocol):
    """What a task waits for, made in its event loop."""

    soon: Soon

    def set(self) -> object: ...

    def wait(self) -> Awaitable[object]: ...


class _Future:
    """For asyncio: a bare future, where an `anyio.Event` costs ten times as much."""

    __slots__ = ("_future", "soon")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.soon: Soon = loop.call_soon_threadsafe
        self._future: asyncio.Future[None] = loop.create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


class _Event:
    """For trio."""

    __slots__ = ("_event", "soon")

    def __init__(self, token: Any) -> None:
        self.soon: Soon = token.run_sync_soon
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self) -> Awaitable[None]:
        return self._event.wait()


def _waiting() -> _Waiting:
    try:
        return _Future(asyncio.get_running_loop())
    except RuntimeError:  # no asyncio loop: trio
        return _Event(current_token().native_token)
