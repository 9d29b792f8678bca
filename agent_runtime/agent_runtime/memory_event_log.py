"""Event logs in this process's memory."""

import itertools
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from agent_runtime.errors import ConfigurationError
from agent_runtime.event_log import LogBounds, LoggedEvent, LogPage
from agent_runtime.expiry import ExpiryQueue
from agent_runtime.session_store import Refusal
from agent_runtime.types import Owner


class MemoryEventLog:
    """An `EventLog` that is gone when the process ends. `clock` gives Unix seconds. For one event loop at a time.

    It keeps at most `max_logs`, and `total_bytes` of events in all. What comes above that takes the place of what has
    expired, and then of the logs that were appended to longest ago. No operation suspends, so each is atomic.
    """

    def __init__(
        self,
        *,
        bounds: LogBounds | None = None,
        max_logs: int = 10_000,
        total_bytes: int = 256 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bounds = bounds or LogBounds()
        if max_logs < 1 or total_bytes < self._bounds.max_bytes:
            raise ConfigurationError(
                f"max_logs={max_logs} must be above zero, and total_bytes={total_bytes} at least one log's max_bytes"
            )
        self._max_logs = max_logs
        self._total_bytes = total_bytes
        self._clock = clock
        self._owners: dict[Owner, dict[str, _Log]] = {}
        self._recent: OrderedDict[_Log, None] = OrderedDict()
        self._expiry: ExpiryQueue[_Log] = ExpiryQueue()
        self._bytes = 0

    async def append(
        self,
        owner: Owner,
        stream: str,
        events: Sequence[bytes],
        *,
        expected: int,
        ttl: float,
        operation: str,
        close: bool = False,
    ) -> int | Refusal:
        self._bounds.check(events)
        now = self._now()
        log = self._find(owner, stream, now)
        if log is None:
            if expected:
                return Refusal.MISSING
            log = self._add(owner, stream)
        elif log.operation == operation:
            return log.last
        elif log.closed or log.last != expected:
            return Refusal.CLOSED if log.closed else Refusal.CHANGED
        self._bytes += log.append(events, self._bounds)
        log.operation, log.closed = operation, close
        self._expiry.set(log, now + ttl)
        self._recent.move_to_end(log)
        self._make_room(now)
        return log.last

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        log = self._find(owner, stream, self._now())
        return None if log is None else log.page(after, limit)

    async def delete(self, owner: Owner, stream: str) -> bool:
        log = self._find(owner, stream, self._now())
        if log is None:
            return False
        self._remove(log)
        return True

    async def delete_all(self, owner: Owner) -> int:
        now = self._now()
        logs = list(self._owners.get(owner, {}).values())
        for log in logs:
            self._remove(log)
        return sum(log.expires_at > now for log in logs)

    def _now(self) -> float:
        """The time, when some of what it has made expire is out of the way."""
        now = self._clock()
        for log in self._expiry.due(now):
            self._forget(log)
        return now

    def _find(self, owner: Owner, stream: str, now: float) -> "_Log | None":
        logs = self._owners.get(owner)
        log = None if logs is None else logs.get(stream)
        return log if log is not None and log.expires_at > now else None

    def _add(self, owner: Owner, stream: str) -> "_Log":
        if (old := self._owners.get(owner, {}).get(stream)) is not None:
            self._remove(old)  # its time is up, and nobody has come to free it yet
        log = self._owners.setdefault(owner, {})[stream] = _Log(owner, stream)
        self._recent[log] = None
        return log

    def _make_room(self, now: float) -> None:
        while len(self._recent) > self._max_logs or self._bytes > self._total_bytes:
            if (log := self._expiry.pop(now)) is not None:
                self._forget(log)
            else:
                self._remove(next(iter(self._recent)))

    def _remove(self, log: "_Log") -> None:
        self._expiry.remove(log)
        self._forget(log)

    def _forget(self, log: "_Log") -> None:
        """Let go of a log that the queue has no more, or only as a shell."""
        logs = self._owners[log.owner]
        del logs[log.stream]
        if not logs:
            del self._owners[log.owner]
        del self._recent[log]
        self._bytes -= log.size
        log.events.clear()


class _Log:
    """A log and where it is."""

    __slots__ = ("closed", "due", "events", "expires_at", "last", "operation", "owner", "size", "stream")

    def __init__(self, owner: Owner, stream: str) -> None:
        self.owner = owner
        self.stream = stream
        self.events: deque[bytes] = deque()
        self.last = self.size = 0
        self.operation = ""
        self.closed = False
        self.expires_at = self.due = math.inf

    def append(self, events: Sequence[bytes], bounds: LogBounds) -> int:
        """Add the events and drop what is too old; by how many bytes the log has grown."""
        before = self.size
        self.events.extend(events)
        self.last += len(events)
        self.size += sum(map(len, events))
        while len(self.events) > bounds.max_events or self.size > bounds.max_bytes:
            self.size -= len(self.events.popleft())
        return self.size - before

    def page(self, after: int, limit: int) -> LogPage:
        first = self.last - len(self.events) + 1
        start = max(0, after + 1 - first)
        found = itertools.islice(self.events, start, start + limit)
        return LogPage(
            events=tuple(LoggedEvent(sequence=n, data=data) for n, data in enumerate(found, first + start)),
            missed=max(0, first - after - 1),
            first=first,
            last=self.last,
            closed=self.closed,
        )
