"""What a backend implements to keep a stream's events for who reads it again: a numbered log, each operation one step."""

from collections.abc import Sequence
from typing import Protocol

from agent_runtime.errors import ConfigurationError, LimitExceeded
from agent_runtime.session_store import Refusal
from agent_runtime.types import Owner, Value


class LogBounds(Value, frozen=True, kw_only=True):
    """How much of each log is kept: so many events, and so many bytes of them. Both are at least 1."""

    max_events: int = 10_000
    max_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if self.max_events < 1 or self.max_bytes < 1:
            raise ConfigurationError(f"{self}: both must be above zero")

    def check(self, events: Sequence[bytes]) -> None:
        """Raise `LimitExceeded` when an event alone is larger than what is kept."""
        largest = max(map(len, events), default=0)
        if largest > self.max_bytes:
            raise LimitExceeded(
                f"an event of {largest} bytes is larger than the log, which keeps {self.max_bytes}; raise its max_bytes",
                details={"limit": self.max_bytes, "found": largest},
            )

    def newest(self, events: Sequence[bytes]) -> Sequence[bytes]:
        """The last of the events, as many as are kept."""
        size, begin = 0, len(events)
        for place in range(len(events) - 1, max(-1, len(events) - 1 - self.max_events), -1):
            size += len(events[place])
            if size > self.max_bytes:
                break
            begin = place
        return events[begin:]


class LoggedEvent(Value, frozen=True, kw_only=True):
    """An event of a log: `sequence` counts from 1, without a hole."""

    sequence: int
    data: bytes

    def __repr__(self) -> str:
        return f"LoggedEvent(sequence={self.sequence}, {len(self.data)} bytes)"


class LogPage(Value, frozen=True, kw_only=True):
    """Events of a log in order, and how the log stands.

    Attributes:
        events: At most as many as asked for.
        missed: How many events the reader wanted that are dropped already: those between `after` and `first`.
        first: The lowest sequence that is kept; `last + 1` when none is.
        last: The highest sequence there was, 0 in a log without events. A reader that names a higher one reads another log.
        closed: Nothing comes after `last`.
    """

    events: tuple[LoggedEvent, ...]
    missed: int
    first: int
    last: int
    closed: bool


class EventLog(Protocol):
    """Logs of events, each with one writer at a time, and with readers that come and go.

    - A log is named by owner *and* stream, both compared exactly: nobody sees or changes another owner's. Bytes come back
      as they were.
    - Each method is one atomic step and one await. Cancelled or failing, it is done as a whole or not at all.
    - Events are numbered from 1 by compare-and-set, never by a clock: a writer says which number it has seen last, and one
      that another has overtaken is refused.
    - A log keeps the newest events, within its `LogBounds`; the oldest are dropped as new ones come. A reader that was
      behind is told how many it missed. A store with bounded memory may let go of a whole log before its time.
    - A log lives until `ttl` seconds (above 0) after its last append, by the store's clock; from that moment on it is gone
      as a whole. Reading does not prolong.
    - Any call can be repeated: the `operation` of the log's last append again changes nothing and answers like the first.
      An earlier one is refused, for it does not fit any more.
    - Callers have checked all arguments: streams and operations are `[A-Za-z0-9_-]{1,128}`, numbers are from
      0 to 2**53 - 1.
    - `StoreUnavailable` when the backend cannot be reached, `OutcomeUnknown` when a write was sent and no answer came. An
      outage never looks like an absent log.
    """

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
        """Add events after the one numbered `expected`, and return the number of the last; 0 begins the log.

        With `close` the log ends with them; `events` may be empty. What is more than the log keeps drops the oldest of
        them too. Refuses `MISSING` when `expected` is above 0 and there is no log, `CHANGED` when the last event has
        another number, `CLOSED`. Raises `LimitExceeded` for an event that alone is larger than the log.
        """
        ...

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        """Up to `limit` events that come after the one numbered `after`; `None` without the log."""
        ...

    async def delete(self, owner: Owner, stream: str) -> bool:
        """Remove the log; whether there was one."""
        ...

    async def delete_all(self, owner: Owner) -> int:
        """Remove all logs of the owner; how many there were."""
        ...
