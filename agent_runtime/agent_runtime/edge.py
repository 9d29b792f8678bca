"""Where a run's events leave the runtime: nowhere, into the caller's own sink, or into a bounded channel."""

from collections import deque
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import anyio

from agent_runtime.errors import AgentRuntimeError, ConfigurationError, ConsumerGone, RuntimeClosed
from agent_runtime.limits import Limits
from agent_runtime.stream import Emit, ReasoningDelta, Reset, StreamEvent, TextDelta, drop
from agent_runtime.wakeup import Wakeup, new_wakeup


class Watch(Protocol):
    """A clock that must stand still while the consumer is the slow one."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Edge:
    """The edge of a plain run: nobody listens, everything is dropped, everything may be produced again.

    Attributes:
        listening: Whether there is a consumer.
        spoke: Whether text was delivered that still stands.
        stalled: Whether the consumer's own sink is busy with an event, or was cut short in the last one.
        gone: Why the consumer takes no more.
    """

    listening = False
    spoke = False
    stalled = False
    gone: ConsumerGone | None = None
    emit: Emit = staticmethod(drop)

    def can_restart(self, step: int) -> bool:
        """Whether text of model step `step` and later may be produced again."""
        return True

    def watched_by(self, watch: Watch) -> AbstractContextManager[None]:
        """Inside, `watch` stands still while a full buffer waits for its consumer."""
        return nullcontext()

    def end_with(self, abort: Callable[[], None]) -> None:
        """Call `abort` when the consumer goes away; at once when it has gone."""

    def lose(self, gone: ConsumerGone) -> ConsumerGone:
        """The consumer went away: nothing more may start in the run, and every later emit gives `gone`."""
        return gone

    def close(self) -> None:
        """The run has ended, its last event is told: every later emit is refused."""


PLAIN = Edge()


class Delivery(Edge):
    """What the two edges with a consumer share: the sequence, and what has been delivered.

    A `Reset` is dropped when nothing of that step was delivered, delivered when `allow_reset`, and refused otherwise.
    `sequence` counts the admitted events from 1.
    """

    listening = True

    def __init__(self, *, allow_reset: bool) -> None:
        self._abort: Callable[[], None] = _nothing
        self._refusal: AgentRuntimeError | None = None
        self.sequence = 0
        self._allow_reset = allow_reset
        self._delivered_step: int = -1

    def can_restart(self, step: int) -> bool:
        return self._allow_reset or self._delivered_step < step

    def end_with(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        if self.gone is not None:
            abort()

    def lose(self, gone: ConsumerGone) -> ConsumerGone:
        if self.gone is None:
            self.gone = self._refusal = gone
            self._abort()
        return self.gone

    def close(self) -> None:
        self._refusal = self.gone or RuntimeClosed("the run has ended, and its stream takes no more events")

    def admit(self, event: StreamEvent) -> bool:
        """Note `event`; false when it is not to be delivered. Raises `ConsumerGone` once the consumer is gone."""
        if self._refusal is not None:
            raise self._refusal
        kind = type(event)
        if kind is TextDelta or kind is ReasoningDelta:
            step: int = event.step  # type: ignore[union-attr]  # a type() test is a third of the cost of isinstance()
            if step > self._delivered_step:
                self._delivered_step = step
            if kind is TextDelta:
                self.spoke = True
        elif kind is Reset and not self._reset(event):  # type: ignore[arg-type]  # the same
            return False
        self.sequence += 1
        return True

    def _reset(self, event: Reset) -> bool:
        if self._delivered_step < event.step:
            return False
        if not self._allow_reset:
            raise ConfigurationError(
                f"Reset(step={event.step}) after text of that step was delivered: ask can_restart() before a retry, "
                "or open the stream with allow_reset=True"
            )
        self._delivered_step = event.step - 1
        self.spoke = self._delivered_step >= 0
        return True


class Sink(Delivery):
    """Pushes into the caller's own `send`, one event at a time.

    A `send` that raises ends the run: it and every later emit give `ConsumerGone`, with that error as the cause.
    """

    def __init__(self, send: Emit, *, allow_reset: bool) -> None:
        super().__init__(allow_reset=allow_reset)
        self._send = send
        self._busy = False
        self._free: anyio.Event | None = None
        self.emit = self._emit

    async def _emit(self, event: StreamEvent) -> None:
        while self._busy:
            self._free = self._free or anyio.Event()
            await self._free.wait()
        if not self.admit(event):
            return
        self._busy = self.stalled = True
        try:
            await self._send(event)
            self.stalled = False
        except Exception as error:
            what = type(error).__name__
            raise self.lose(ConsumerGone(f"the stream's receiver failed with {what}; the run was ended")) from error
        finally:
            self._busy = False
            if self._free is not None:
                self._free.set()
                self._free = None


class Channel(Delivery):
    """Hands events to a consumer in another task: a bounded queue, and one wake-up each way.

    At most `limits.stream_events` events or `limits.stream_bytes` bytes of text wait; then the producer waits, until
    half of it is taken.
    """

    def __init__(self, limits: Limits, *, allow_reset: bool) -> None:
        super().__init__(allow_reset=allow_reset)
        self._max_events = limits.stream_events
        self._max_size = limits.stream_bytes
        self._events: deque[StreamEvent] = deque()
        self._size = 0
        self._item: Wakeup | anyio.Event | None = None
        self._space: anyio.Event | None = None
        self._ended = False
        self._watches: list[Watch] = []
        self.emit = self._emit

    @contextmanager
    def watched_by(self, watch: Watch) -> Generator[None]:
        self._watches.append(watch)
        try:
            yield
        finally:
            self._watches.remove(watch)

    async def _emit(self, event: StreamEvent) -> None:
        if not self.admit(event):
            return
        self._events.append(event)
        self._size += _weight(event)
        if self._item is not None:
            self._item.set()
            self._item = None
        if len(self._events) >= self._max_events or self._size >= self._max_size:
            await self._wait_for_space()

    async def _wait_for_space(self) -> None:
        self._space = self._space or anyio.Event()
        for watch in self._watches:
            watch.pause()
        try:
            await self._space.wait()
        finally:
            for watch in self._watches:
                watch.resume()
        if self.gone is not None:
            raise self.gone

    async def receive(self) -> StreamEvent | None:
        """The next event; `None` after the last. Cancelled while it waits, it has taken nothing."""
        while not self._events:
            if self._ended:
                return None
            self._item = new_wakeup()
            await self._item.wait()
        event = self._events.popleft()
        self._size -= _weight(event)
        if self._space is not None and len(self._events) <= self._max_events // 2 and self._size <= self._max_size // 2:
            self._space.set()
            self._space = None
        return event

    def end(self) -> None:
        """The producer is done: what waits can still be received."""
        self._ended = True
        if self._item is not None:
            self._item.set()

    def abandon(self) -> None:
        """The consumer is gone: the run is ended, what waits is thrown away, every later emit gives `ConsumerGone`."""
        if not self._ended:
            self.lose(ConsumerGone("the stream's consumer left before the end; the run was ended"))
        self._events.clear()
        self._size = 0
        if self._space is not None:
            self._space.set()
            self._space = None


def _nothing() -> None:
    pass


def _weight(event: StreamEvent) -> int:
    if type(event) is not TextDelta and type(event) is not ReasoningDelta:
        return 0
    return len(event.text) if event.text.isascii() else len(event.text.encode("utf-8", "surrogatepass"))
