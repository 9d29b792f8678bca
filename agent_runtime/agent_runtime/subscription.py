"""One subscriber: a bounded queue, what happens when it is full, and the one worker that empties it in order."""

import inspect
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, Generic, Literal, Protocol, TypeGuard, TypeVar, final

import anyio
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync

from agent_runtime.background import cancel_requested
from agent_runtime.types import Value
from agent_runtime.wakeup import Wakeup, new_wakeup

T = TypeVar("T")

Overflow = Literal["drop_oldest", "drop_newest", "block"]
Call = Callable[[Any], Awaitable[object]]

_BURST = 16  # items handled before others get a turn, where the handler itself never waits
_NEVER = sys.maxsize

_current: ContextVar["Subscription[Any] | None"] = ContextVar("agent_runtime_subscription", default=None)


def current_subscription() -> "Subscription[Any] | None":
    """The subscription whose handler is calling."""
    return _current.get()


class SubscriberStats(Value, frozen=True, kw_only=True):
    """What became of the items that one subscriber was sent: each is in exactly one of the five counts.

    `failed` also counts the items at which `where` raised.
    """

    delivered: int
    failed: int
    dropped: int
    timed_out: int
    queued: int


@final
class Batched(Generic[T]):
    """A handler of lists: called with at most `size` items, at the latest `every` seconds after the first of them."""

    def __init__(self, handler: Callable[[list[T]], object], size: int, every: float) -> None:
        if size < 1 or not every > 0:
            raise ValueError(f"a batch needs a size of at least 1 and a positive interval, not {size} and {every} s")
        self.handler = handler
        self.size = size
        self.every = every


class Start(Protocol):
    """Runs a coroutine function beside the caller; see `Background.start`."""

    def __call__(
        self, function: Callable[[], Awaitable[object]], *, name: str, on_end: Callable[[], None] | None = None
    ) -> None: ...


class Turn(Generic[T]):
    """The place of a publisher that waits for room."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.over = anyio.Event()


class Subscription(Generic[T]):
    """Public attributes are the publisher's fast path: below `slow_at`, an item may be appended to `queue` directly."""

    def __init__(
        self,
        handler: Callable[[T], object] | Batched[T],
        *,
        name: str,
        where: Callable[[T], bool] | None,
        queue_size: int,
        overflow: Overflow,
        timeout: float | None,
        limiter: anyio.CapacityLimiter,
        start: Start,
        report: Callable[[str, Sequence[T], BaseException], None],
    ) -> None:
        self.name = name
        self.handler = handler
        self.where = where
        self.queue: deque[T] = deque()
        self.slow_at = 0
        self._size = queue_size
        self._overflow = overflow
        self._timeout = timeout
        self._limiter = limiter
        self._start = start
        self._report = report
        self._many = isinstance(handler, Batched)
        self._batch, self._every = (handler.size, handler.every) if isinstance(handler, Batched) else (1, math.inf)
        self._function: Callable[[Any], object] = handler.handler if isinstance(handler, Batched) else handler
        self._untimed: Call = self._function if _is_async(self._function) else self._call_in_thread
        self._call: Call = self._untimed if timeout is None else self._call_in_time
        self._context = copy_context()  # handlers see the context variables of who subscribed
        self._turns: deque[Turn[T]] = deque()
        self._alive = self._handling = self._flush = self._retired = False
        self._bell: Wakeup | anyio.Event | None = None
        self._rested: anyio.Event | None = None
        self._thread_over: anyio.Event | None = None
        self._delivered = self._failed = self._dropped = self._timed_out = 0

    @property
    def stats(self) -> SubscriberStats:
        return SubscriberStats(
            delivered=self._delivered,
            failed=self._failed,
            dropped=self._dropped,
            timed_out=self._timed_out,
            queued=len(self.queue),
        )

    @property
    def busy(self) -> bool:
        """Whether anything is queued or being handled."""
        return bool(self.queue) or self._handling

    def matches(self, item: T, where: Callable[[T], bool]) -> bool:
        """Answer `where`; raising counts as a failure and as no."""
        try:
            return where(item)
        except Exception as error:  # noqa: BLE001 - the edge that keeps a subscriber's bug from the publisher
            self._fail([item], error)
            return False

    def offer(self, item: T) -> Turn[T] | None:
        """Queue `item` and wake the worker, or apply the overflow policy. A returned turn is to be waited for."""
        if self.slow_at < self._size:
            self.wake()
        if len(self.queue) < self._size:
            self.queue.append(item)
            return None
        # A handler that waited for room might wait for itself, directly or through other handlers.
        if self._overflow == "block" and _current.get() is None:
            turn = Turn(item)
            self._turns.append(turn)
            return turn
        self._dropped += 1
        if self._overflow == "drop_oldest":
            self.queue.popleft()
            self.queue.append(item)
        return None

    def withdraw(self, turn: Turn[T]) -> None:
        """Give up a turn that has not come; its item is dropped."""
        if not turn.over.is_set() and turn in self._turns:
            self._turns.remove(turn)
            self._dropped += 1

    def wake(self) -> None:
        """Have the worker look at the queue; start it where there is none."""
        if not self._alive:
            self._context.run(self._start, self._work, name=f"subscriber {self.name}", on_end=self._ended)
            self._alive = True
        elif self._bell is not None:
            self._bell.set()
        self.slow_at = self._size

    async def rest(self) -> None:
        """Return once nothing is queued and no call is in progress; a partial batch is handled at once."""
        while self.busy:
            self._flush = True
            self.wake()
            if self._rested is None:
                self._rested = anyio.Event()
            await self._rested.wait()

    def discard(self) -> None:
        """Drop what is queued."""
        self._dropped += len(self.queue) + len(self._turns)
        self.queue.clear()
        while self._turns:
            self._turns.popleft().over.set()

    def retire(self) -> None:
        """Drop what is queued and end the worker after the call in progress. Nothing may be offered afterwards."""
        self._retired = True
        self.discard()
        if self._alive:
            self.wake()
        self.slow_at = _NEVER

    async def _work(self) -> None:
        _current.set(self)
        while True:
            await checkpoint()
            for _ in range(_BURST):
                if len(self.queue) < self._batch and not await self._wait():
                    return
                await self._handle()

    async def _wait(self) -> bool:
        """Wait until a batch is due; false when retired."""
        due = math.inf
        while not self._retired:
            queued = len(self.queue)
            if queued >= self._batch or (queued and (self._flush or anyio.current_time() >= due)):
                return True
            if not queued:
                self._now_at_rest()
                await self._listen(1, math.inf)
            else:
                due = min(due, anyio.current_time() + self._every)
                await self._listen(self._batch, due)
        return False

    async def _listen(self, length: int, until: float) -> None:
        """Wait until the queue has `length` items, the clock shows `until`, or somebody calls `wake`."""
        self._bell = new_wakeup()
        self.slow_at = length - 1
        if until == math.inf:
            await self._bell.wait()
        else:
            with anyio.CancelScope(deadline=until):
                await self._bell.wait()
        self._bell = None
        self.slow_at = self._size

    def _take(self) -> list[T]:
        items = [self.queue.popleft()]
        while self.queue and len(items) < self._batch:
            items.append(self.queue.popleft())
        while self._turns and len(self.queue) < self._size:
            turn = self._turns.popleft()
            self.queue.append(turn.item)
            turn.over.set()
        return items

    async def _handle(self) -> None:
        items = self._take()
        self._handling = True
        try:
            await self._call(items if self._many else items[0])
            self._delivered += len(items)
        except _HandlerTimeout as error:
            self._timed_out += len(items)
            self._report(self.name, items, error)
        except anyio.get_cancelled_exc_class() as error:
            self._fail(items, error)
            if cancel_requested():
                raise
        except Exception as error:  # noqa: BLE001 - the edge that keeps a handler's bug from the other handlers
            self._fail(items, error)
        finally:
            self._handling = False

    async def _call_in_time(self, argument: Any) -> None:
        with anyio.move_on_after(self._timeout):
            await self._untimed(argument)
            return
        raise _HandlerTimeout(f"the handler took longer than {self._timeout} s")

    async def _call_in_thread(self, argument: Any) -> None:
        """Call a plain function. No thread can be stopped: a call that timed out keeps it, and the next one waits."""
        if self._thread_over is not None:
            await self._thread_over.wait()
        over = self._thread_over = anyio.Event()
        results: list[object] = []
        errors: list[Exception] = []

        def call() -> None:
            results.append(self._function(argument))

        async def occupy_thread() -> None:
            try:
                await run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
            except Exception as error:  # noqa: BLE001 - raised again below, in the worker
                errors.append(error)

        self._start(occupy_thread, name=f"thread of subscriber {self.name}", on_end=over.set)
        await over.wait()
        for error in errors:
            raise error
        for result in results:
            if inspect.isawaitable(result):  # a lambda around an async function
                await result

    def _fail(self, items: Sequence[T], error: BaseException) -> None:
        self._failed += len(items)
        self._report(self.name, items, error)

    def _now_at_rest(self) -> None:
        self._flush = False
        if self._rested is not None:
            self._rested.set()
            self._rested = None

    def _ended(self) -> None:
        self._alive = False
        self._bell = None
        self.slow_at = _NEVER if self._retired else 0
        self._now_at_rest()


class _HandlerTimeout(TimeoutError):
    """Ours, as opposed to a `TimeoutError` that the handler raised."""


def _is_async(function: Callable[[Any], object]) -> TypeGuard[Call]:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
