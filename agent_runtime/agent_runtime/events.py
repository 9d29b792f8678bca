"""What happens in the runtime, told to whoever listens, without delaying the run that tells it."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypedDict, get_args

import anyio
import msgspec
from typing_extensions import Unpack

from agent_runtime.background import Background
from agent_runtime.errors import RuntimeClosed
from agent_runtime.ids import new_id
from agent_runtime.subscription import Batched, Overflow, SubscriberStats, Subscription, Turn, current_subscription

logger = logging.getLogger(__name__)

_THREADS = 8  # sync handlers of one bus that run at the same time


class EventType(StrEnum):
    """The events of the runtime. A type is any string: an application's own ("order.paid") route like these."""

    AGENT_STARTED = "agent_started"
    AGENT_COMPLETED = "agent_completed"
    ERROR_OCCURRED = "error_occurred"
    RUN_CANCELLED = "run_cancelled"
    RUN_SUSPENDED = "run_suspended"
    SESSION_CREATED = "session_created"
    SESSION_EXPIRED = "session_expired"
    CHECKPOINT_SAVED = "checkpoint_saved"
    CHECKPOINT_RESTORED = "checkpoint_restored"
    MIDDLEWARE_EXECUTED = "middleware_executed"
    MIDDLEWARE_FAILED = "middleware_failed"
    LLM_INVOCATION_START = "llm_invocation_start"
    LLM_INVOCATION_COMPLETE = "llm_invocation_complete"
    TOOL_STARTED = "tool_started"
    TOOL_COMPLETED = "tool_completed"
    CACHE_HIT = "cache_hit"
    RATE_LIMITED = "rate_limited"
    RETRY = "retry"
    FALLBACK = "fallback"
    CUSTOM = "custom"
    ANY = "any"
    """Subscribes to every type."""


class EventChanges(TypedDict, total=False):
    """What `SystemEvent.replace` takes."""

    event_id: str
    event_type: str
    agent_id: str
    user_id: str
    session_id: str | None
    run_id: str
    sequence: int
    timestamp: datetime
    execution_time_ms: float | None
    error_type: str | None
    error_message: str | None
    trace_id: str | None
    metadata: Mapping[str, Any]


class SystemEvent(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One thing that happened. All subscribers get the same object: change a copy, made with `replace`.

    Attributes:
        event_id: Unique; sorts by time. What a consumer knows a duplicate by.
        sequence: Counts the events of one run.
        timestamp: Aware, UTC.
        error_message: Safe to show: no prompt, no key, no backend's words.
    """

    event_type: str
    event_id: str = msgspec.field(default_factory=new_id)
    agent_id: str = ""
    user_id: str = ""
    session_id: str | None = None
    run_id: str = ""
    sequence: int = 0
    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    execution_time_ms: float | None = None
    error_type: str | None = None
    error_message: str | None = None
    trace_id: str | None = None
    metadata: Mapping[str, Any] = {}

    def replace(self, **changes: Unpack[EventChanges]) -> "SystemEvent":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"SystemEvent({self.event_type}, {self.event_id!r}, run_id={self.run_id!r}, sequence={self.sequence})"


EventHandler = Callable[[SystemEvent], object]
"""An async function, a sync one (called in a worker thread), or an object whose `__call__` is either."""

OnError = Callable[[SystemEvent, BaseException], None]


def batched(
    handler: Callable[[list[SystemEvent]], object], size: int = 100, every: float = 5.0
) -> Batched[SystemEvent]:
    """Have `handler` called with lists of at most `size` events, at the latest `every` seconds after the first.

    `drain` and `aclose` hand over what is there. `timeout` of the subscription bounds one call, with its whole list.
    """
    return Batched(handler, size, every)


class EventBus:
    """Publishes events to subscribers, each with a bounded queue and one worker that keeps the order.

    A handler that is slow, hangs or raises costs the publisher nothing: its failures are counted (`stats`), logged
    without the event's content, and passed to `on_error`, which must not block. One event loop at a time may use a bus.

    `async with bus:` is its lifespan; entries may be nested, and the last exit closes. Without it workers are held by
    the bus until `aclose`, on asyncio only. Entering a closed bus opens it again, with its subscriptions.
    """

    def __init__(self, *, drain_timeout: float = 5.0, on_error: OnError | None = None) -> None:
        self._drain_timeout = drain_timeout
        self._on_error = on_error
        self._subscriptions: dict[str, tuple[str, Subscription[SystemEvent]]] = {}
        # Who gets an event of a type that somebody names, and of any other type. Bounded by the subscriptions.
        self._routes: dict[str, tuple[Subscription[SystemEvent], ...]] = {}
        self._any: tuple[Subscription[SystemEvent], ...] = ()
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._unparented = Background()
        self._entered: list[tuple[int, Background]] = []
        self._users = 0  # entries that have not begun to exit
        self._closed = False

    async def subscribe(
        self,
        event_type: str,
        handler: EventHandler | Batched[SystemEvent],
        *,
        where: Callable[[SystemEvent], bool] | None = None,
        queue_size: int = 1000,
        overflow: Overflow = "drop_oldest",
        timeout: float | None = None,  # noqa: ASYNC109 - of one call of the handler, not of this one
    ) -> str:
        """Have `handler` called with each later event of this type for which `where` holds; return the id.

        `where` runs in the publisher and must be quick. A full queue drops and counts, or with "block" makes the
        publisher wait for room, except a publisher inside a handler, whose event is dropped. `timeout` is seconds for
        one call; a sync handler's thread cannot be stopped, so its next call waits until the late one has ended.
        """
        if self._closed:
            raise RuntimeClosed("this event bus is closed and takes no more subscribers")
        _check(event_type, handler, queue_size, overflow, timeout)
        subscription_id = new_id()
        subscription = Subscription[SystemEvent](
            handler,
            name=subscription_id,
            where=where,
            queue_size=queue_size,
            overflow=overflow,
            timeout=timeout,
            limiter=self._limiter,
            start=self._start,
            report=self._report,
        )
        self._subscriptions[subscription_id] = str(event_type), subscription
        self._route(str(event_type))
        return subscription_id

    async def unsubscribe(self, subscription_id: str) -> bool:
        """End a subscription and drop what it has queued; a call in progress goes on. False when there is none."""
        event_type, subscription = self._subscriptions.pop(subscription_id, (None, None))
        if event_type is None or subscription is None:
            return False
        self._route(event_type)
        subscription.retire()
        return True

    async def unsubscribe_handler(self, handler: EventHandler | Batched[SystemEvent]) -> int:
        """End every subscription of `handler`; return how many there were."""
        found = [key for key, (_, subscription) in self._subscriptions.items() if subscription.handler == handler]
        for subscription_id in found:
            await self.unsubscribe(subscription_id)
        return len(found)

    def get_subscriber_count(self, event_type: str | None = None) -> int:
        """How many subscribers there are, or would get an event of this type if their `where` holds."""
        return len(self._subscriptions) if event_type is None else len(self._routes.get(event_type, self._any))

    def wants(self, event_type: str) -> bool:
        """Whether anybody listens: ask before making an event."""
        return not self._closed and bool(self._routes.get(event_type, self._any))

    def stats(self, subscription_id: str) -> SubscriberStats:
        """What became of a subscriber's events. Raises `KeyError` for an id that is not subscribed."""
        return self._subscriptions[subscription_id][1].stats

    async def publish(self, event: SystemEvent) -> int:
        """Queue `event` for everybody who wants it; return how many that are.

        Never suspends, so it also works in a cancelled caller, unless a full "block" queue makes it wait; cancelled
        then, the event is dropped for those who had no room. Raises `RuntimeClosed` after `aclose`.
        """
        if self._closed:
            raise RuntimeClosed("this event bus is closed and takes no more events")
        receivers = 0
        turns: list[tuple[Subscription[SystemEvent], Turn[SystemEvent]]] | None = None
        for subscription in self._routes.get(event.event_type, self._any):
            if subscription.where is not None and not subscription.matches(event, subscription.where):
                continue
            receivers += 1
            if len(subscription.queue) < subscription.slow_at:
                subscription.queue.append(event)
            elif (turn := subscription.offer(event)) is not None:
                turns = [*(turns or ()), (subscription, turn)]
        if turns:
            await _wait_for(turns)
        return receivers

    async def drain(self) -> None:
        """Return when every event queued so far, and what handlers publish meanwhile, is handled.

        Batches are handed over at once. Raises `RuntimeError` inside a handler, which would wait for itself.
        """
        self._refuse_own_handlers()
        while busy := [subscription for subscription in self._all() if subscription.busy]:
            for subscription in busy:
                await subscription.rest()

    async def aclose(self) -> None:
        """Drain for at most `drain_timeout` seconds, also in a cancelled caller; then cancel handlers, drop the rest.

        Idempotent. Handlers may publish until the bus is drained, and may not close it (`RuntimeError`).
        """
        self._refuse_own_handlers()
        async with AsyncExitStack() as stack:  # each step is taken, whatever happens to those before it
            for background in (self._unparented, *(background for _, background in self._entered)):
                stack.push_async_callback(background.aclose)
            stack.callback(self._close)
            await self._drain_in_time()

    async def __aenter__(self) -> Self:
        if self._closed and self._entered:
            raise RuntimeClosed("this event bus was closed inside its lifespan; leave that before entering again")
        self._host.check_loop()
        background = Background()
        await background.__aenter__()
        self._entered.append((anyio.get_current_task().id, background))
        self._users += 1
        self._closed = False
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A task group is left by the task that entered it.
        task = anyio.get_current_task().id
        entry = next(entry for entry in reversed(self._entered) if entry[0] == task)
        background = entry[1]
        self._users -= 1
        try:
            if not self._users:
                await self.aclose()
            elif len(background):
                await self._drain_in_time()
        finally:
            self._entered.remove(entry)
            await background.__aexit__(None, None, None)
            for subscription in self._all():  # workers that ended here go on in another entry
                if subscription.queue:
                    subscription.wake()

    @property
    def _host(self) -> Background:
        return self._entered[0][1] if self._entered else self._unparented

    def _start(
        self, function: Callable[[], Awaitable[object]], *, name: str, on_end: Callable[[], None] | None = None
    ) -> None:
        self._host.start(function, name=name, on_end=on_end)

    def _close(self) -> None:
        self._closed = True
        self._unparented = Background()
        for subscription in self._all():
            subscription.discard()

    async def _drain_in_time(self) -> None:
        with anyio.move_on_after(self._drain_timeout, shield=True):
            await self.drain()

    def _refuse_own_handlers(self) -> None:
        if current_subscription() in self._all():
            raise RuntimeError("a handler cannot drain or close the bus that called it: it would wait for itself")

    def _all(self) -> list[Subscription[SystemEvent]]:
        return [subscription for _, subscription in self._subscriptions.values()]

    def _route(self, event_type: str) -> None:
        """Work out anew who gets events of this type, in the order of subscription."""
        entries = self._subscriptions.values()
        named = {kind for kind, _ in entries if kind != EventType.ANY}
        self._any = tuple(subscription for kind, subscription in entries if kind == EventType.ANY)
        changed = named if event_type == EventType.ANY else {event_type} & named
        self._routes = {kind: route for kind, route in self._routes.items() if kind in named} | {
            name: tuple(subscription for kind, subscription in entries if kind in (name, EventType.ANY))
            for name in changed
        }

    def _report(self, subscription_id: str, events: Sequence[SystemEvent], error: BaseException) -> None:
        kinds = ", ".join(sorted({event.event_type for event in events}))
        logger.error("subscriber %s failed on %d event(s) (%s): %s", subscription_id, len(events), kinds, type(error))
        if self._on_error is None:
            return
        for event in events:
            try:
                self._on_error(event, error)
            except Exception as failure:  # noqa: BLE001 - nobody is left to tell but the log
                logger.error("on_error failed: %s", type(failure))  # noqa: TRY400 - a traceback's text may hold content


async def _wait_for(turns: Sequence[tuple[Subscription[SystemEvent], Turn[SystemEvent]]]) -> None:
    try:
        for _, turn in turns:
            await turn.over.wait()
    finally:
        for subscription, turn in turns:
            subscription.withdraw(turn)


def _check(
    event_type: str,
    handler: EventHandler | Batched[SystemEvent],
    queue_size: int,
    overflow: str,
    timeout: float | None,
) -> None:
    if not event_type:
        raise ValueError("an event type is a non-empty string")
    if not isinstance(handler, Batched) and not callable(handler):
        raise TypeError(f"a handler is callable with one event, and {type(handler).__name__} is not")
    if overflow not in get_args(Overflow):
        raise ValueError(f"overflow is one of {', '.join(get_args(Overflow))}, not {overflow!r}")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; it must be above zero seconds")
    if queue_size < (handler.size if isinstance(handler, Batched) else 1):
        raise ValueError(f"queue_size is {queue_size}; it must hold at least one event, and one whole batch")
