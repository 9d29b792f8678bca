"""Whose time is up, for what is kept in memory."""

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Expiring(Protocol):
    """What has a time. The queue alone sets both; they are `math.inf` before."""

    expires_at: float
    due: float


_AT_ONCE = 100

E = TypeVar("E", bound=Expiring)


class ExpiryQueue(Generic[E]):
    """Entries by their time. One that is prolonged costs nothing now: it is looked at again when its old time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, E]] = []  # each entry that waits is in it at its `due`
        self._tickets = itertools.count()
        self._waiting = 0

    def set(self, entry: E, expires_at: float) -> None:
        """Give the entry, new or not, this time."""
        entry.expires_at = expires_at
        if expires_at >= entry.due:
            return
        self._waiting += entry.due == math.inf
        entry.due = expires_at
        heapq.heappush(self._heap, (expires_at, next(self._tickets), entry))
        self._sweep()

    def remove(self, entry: E) -> None:
        """Forget the entry, which waits here. The queue may hold a reference to it for a while."""
        entry.due = math.inf
        self._waiting -= 1
        self._sweep()

    def pop(self, now: float) -> E | None:
        """Remove and return an entry whose time is up."""
        while self._heap and self._heap[0][0] <= now:
            due, _, entry = heapq.heappop(self._heap)
            if due != entry.due:
                continue  # removed since, or its time set to an earlier one
            self._waiting -= 1
            entry.due = math.inf
            if entry.expires_at <= now:
                return entry
            self.set(entry, entry.expires_at)
        return None

    def due(self, now: float) -> Sequence[E]:
        """Remove and return some entries whose time is up: more than come, and not so many that others have to wait."""
        if not self._heap or self._heap[0][0] > now:
            return ()
        found: list[E] = []
        while len(found) < _AT_ONCE and (entry := self.pop(now)) is not None:
            found.append(entry)
        return found

    def _sweep(self) -> None:
        while self._heap and self._heap[0][0] != self._heap[0][2].due:  # often: the oldest is removed to make room
            heapq.heappop(self._heap)
        if len(self._heap) > 2 * self._waiting + 64:
            self._heap = [item for item in self._heap if item[0] == item[2].due]
            heapq.heapify(self._heap)
