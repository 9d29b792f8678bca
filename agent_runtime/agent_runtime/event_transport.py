"""What a backend implements to carry events between processes: topics that keep messages, and groups that share them out.

`forward` puts what a bus tells into a topic, and an `EventConsumer` has it handled somewhere else:

    async with forward(bus, transport, topic="runs"):
        await executor.execute(context)

    await EventConsumer(transport, charge_for_it, topic="runs", group="billing").run()

A handler that is an `EventBus`'s `publish` makes the events of one process those of another.
"""

from collections.abc import Sequence
from typing import Protocol

from agent_runtime.errors import ConfigurationError, CorruptRecord, InvalidInput, LimitExceeded
from agent_runtime.events import SystemEvent
from agent_runtime.payload import check_id
from agent_runtime.records import decode_record, decoder_of, encode_record
from agent_runtime.types import Value

MAX_EVENT_BYTES = 256 << 10
"""The largest event that is sent."""
NEVER_SETTLED = "no consumer that had it has said what became of it"
"""The reason of what the next fetch has buried."""


class TopicBounds(Value, frozen=True, kw_only=True):
    """How much a topic keeps, and how much of it each group remembers. All are at least 1.

    Attributes:
        max_messages: The oldest go as new ones come, handled or not. A backend may keep somewhat more.
        max_dead_letters: Of each group; the oldest go.
        known_ids: How many ids of handled events each group knows duplicates by.
    """

    max_messages: int = 100_000
    max_dead_letters: int = 1_000
    known_ids: int = 10_000

    def __post_init__(self) -> None:
        if min(self.max_messages, self.max_dead_letters, self.known_ids) < 1:
            raise ConfigurationError(f"{self}: all must be above zero")


class EventMessage(Value, frozen=True, kw_only=True):
    """What is sent: bytes, and the id that a duplicate is known by."""

    id: str
    data: bytes

    def __repr__(self) -> str:
        return f"EventMessage({self.id!r}, {len(self.data)} bytes)"


class TopicMessage(EventMessage, frozen=True, kw_only=True):
    """A message where it is kept: `place` is its own, and those of later messages come after it."""

    place: str


class Delivery(TopicMessage, frozen=True, kw_only=True):
    """A message that one consumer of a group has to handle; it is its `attempt`-th delivery, from 1."""

    attempt: int


class DeadLetter(Delivery, frozen=True, kw_only=True):
    """A message that its group has given up, and why: our own words, without its content."""

    reason: str


class TopicPage(Value, frozen=True, kw_only=True):
    """Messages of a topic in order.

    Attributes:
        gap: Messages after the place that was asked for are dropped already.
        last: Where to read on: the last message's place, or the one that was asked for.
    """

    messages: tuple[TopicMessage, ...]
    gap: bool
    last: str


class Fetched(Value, frozen=True, kw_only=True):
    """What a consumer has to handle now. When it is nothing, `wait` for what comes after `last`."""

    deliveries: tuple[Delivery, ...]
    last: str


class EventTransport(Protocol):
    """Topics that keep messages for readers, and for groups of consumers, each at least once.

    - A group begins with the oldest message that is kept, when it is first fetched for. Every group gets every message;
      within a group one consumer at a time has it, until it acknowledges, buries or releases it.
    - What a consumer has and does not `renew` for `idle` seconds goes to the next that fetches: who was killed holds
      nothing. All consumers of a group use the same `idle`.
    - A message whose id the group has acknowledged, among the last `TopicBounds.known_ids`, is not delivered again.
    - A message that was delivered `max_attempts` times, and not settled, is buried by the next fetch: one that kills its
      consumers goes to the dead letters, and others are delivered meanwhile.
    - Each method is one await, and all but `wait` one atomic step. Cancelled or failing, it is done as a whole or not at
      all; a fetch that was cancelled may have delivered, and what it delivered goes to others after `idle` seconds.
    - Any call may be repeated. A message that was published twice is kept twice, and known by its id.
    - Callers have checked all arguments: topics, groups, consumers and ids of messages are `[A-Za-z0-9_-]{1,128}`.
      `idle`, `timeout` and `delay` are seconds. The empty place is before all messages.
    - `StoreUnavailable` when the backend cannot be reached, `OutcomeUnknown` when a write was sent and no answer came.
    """

    async def publish(self, topic: str, messages: Sequence[EventMessage]) -> None:
        """Add the messages to the topic, in order."""
        ...

    async def read(self, topic: str, *, after: str = "", limit: int = 100) -> TopicPage:
        """Up to `limit` (at least 1) messages that come after the place, for who reads without a group."""
        ...

    async def wait(self, topic: str, *, after: str, timeout: float) -> None:  # noqa: ASYNC109 - a part of the promise
        """Return when there is a message after the place, or soon after so many seconds at most."""
        ...

    async def fetch(
        self, topic: str, group: str, consumer: str, *, limit: int, idle: float, max_attempts: int
    ) -> Fetched:
        """Have up to `limit` messages delivered to this consumer: those that others let lie first, then new ones."""
        ...

    async def renew(self, topic: str, group: str, consumer: str, places: Sequence[str]) -> None:
        """Keep for another `idle` seconds what this consumer still has of these."""
        ...

    async def acknowledge(self, topic: str, group: str, messages: Sequence[TopicMessage]) -> None:
        """These are handled: the group gets them no more, nor others with their ids."""
        ...

    async def release(
        self,
        topic: str,
        group: str,
        consumer: str,
        deliveries: Sequence[Delivery],
        *,
        idle: float,
        delay: float = 0.0,
        tried: bool,
    ) -> None:
        """Give back what this consumer still has of these: in `delay` seconds, at most `idle`, they are delivered again.

        What was not `tried` has had no attempt.
        """
        ...

    async def bury(self, topic: str, group: str, delivery: Delivery, reason: str) -> None:
        """Put it to the dead letters of the group, which gets it no more. One that is settled already is left alone."""
        ...

    async def leave(self, topic: str, group: str, consumer: str) -> None:
        """Forget the consumer. What it still has, others get as from one that was killed."""
        ...

    async def dead_letters(self, topic: str, group: str, *, limit: int = 100) -> Sequence[DeadLetter]:
        """The oldest dead letters of the group. One that is published again is delivered again, to every group."""
        ...


class ArrivedEvent(SystemEvent, frozen=True, kw_only=True, eq=False):
    """An event that came from a transport: `forward` does not send it again, so that two buses can be joined both ways."""


_events = decoder_of(ArrivedEvent)


def message_of(event: SystemEvent) -> EventMessage:
    """The event as it is sent, under its own id.

    Raises `InvalidInput` for one whose metadata hold what is no data, as an exception or a secret, or whose id is none;
    and `LimitExceeded` above 256 KiB.
    """
    check_id(event.event_id, "event_id")
    try:
        data = encode_record(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"event {event.event_id!r} cannot be sent: it holds more than data") from error
    if len(data) > MAX_EVENT_BYTES:
        raise LimitExceeded(
            f"event {event.event_id!r} has {len(data)} bytes, more than {MAX_EVENT_BYTES}, the limit; send less with it",
            details={"limit": MAX_EVENT_BYTES, "found": len(data)},
        )
    return EventMessage(id=event.event_id, data=data)


def event_of(message: EventMessage) -> SystemEvent:
    """The event that was sent. Raises `CorruptRecord` for what is none."""
    event: SystemEvent = decode_record(message.data, _events, f"event {message.id!r}")
    if event.event_id != message.id:
        raise CorruptRecord(f"event {message.id!r} is damaged: another one is in its place")
    return event
