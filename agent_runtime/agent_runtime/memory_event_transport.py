"""Topics in this process's memory."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import anyio
import msgspec

from agent_runtime.event_transport import (
    NEVER_SETTLED,
    DeadLetter,
    Delivery,
    EventMessage,
    Fetched,
    TopicBounds,
    TopicMessage,
    TopicPage,
)


class MemoryEventTransport:
    """An `EventTransport` that is gone when the process ends, for tests and for one process. For one event loop at a time.

    `clock` gives seconds. It keeps at most `max_topics`; one more takes the place of the one that was used longest ago.
    """

    def __init__(
        self,
        *,
        bounds: TopicBounds | None = None,
        max_topics: int = 1_000,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._bounds = bounds or TopicBounds()
        self._max_topics = max_topics
        self._clock = clock
        self._topics: OrderedDict[str, _Topic] = OrderedDict()

    async def publish(self, topic: str, messages: Sequence[EventMessage]) -> None:
        self._topic(topic).add(messages, self._bounds)

    async def read(self, topic: str, *, after: str = "", limit: int = 100) -> TopicPage:
        return self._topic(topic).page(after, limit)

    async def wait(self, topic: str, *, after: str, timeout: float) -> None:  # noqa: ASYNC109 - of the protocol
        with anyio.move_on_after(timeout):
            while self._topic(topic).last <= _number(after):
                await self._topic(topic).grown.wait()

    async def fetch(
        self, topic: str, group: str, consumer: str, *, limit: int, idle: float, max_attempts: int
    ) -> Fetched:
        return self._group(topic, group).fetch(consumer, limit, self._clock() - idle, self._clock(), max_attempts)

    async def renew(self, topic: str, group: str, consumer: str, places: Sequence[str]) -> None:
        for pending in self._group(topic, group).held(consumer, places):
            pending.since = self._clock()

    async def acknowledge(self, topic: str, group: str, messages: Sequence[TopicMessage]) -> None:
        self._group(topic, group).acknowledge(messages)

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
        for pending in self._group(topic, group).held(consumer, [delivery.place for delivery in deliveries]):
            pending.consumer, pending.since = "", self._clock() - idle + delay
            pending.attempt -= not tried

    async def bury(self, topic: str, group: str, delivery: Delivery, reason: str) -> None:
        self._group(topic, group).bury(delivery, reason)

    async def leave(self, topic: str, group: str, consumer: str) -> None:
        pass  # a consumer is nothing but a name

    async def dead_letters(self, topic: str, group: str, *, limit: int = 100) -> Sequence[DeadLetter]:
        return tuple(islice(self._group(topic, group).dead, limit))

    def _topic(self, name: str) -> "_Topic":
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic()
        self._topics.move_to_end(name)
        while len(self._topics) > self._max_topics:
            self._topics.popitem(last=False)
        return topic

    def _group(self, topic: str, name: str) -> "_Group":
        found = self._topic(topic)
        if name not in found.groups:
            found.groups[name] = _Group(found, self._bounds)
        return found.groups[name]


class _Pending:
    """A message that a consumer has had since then."""

    __slots__ = ("attempt", "consumer", "message", "since")

    def __init__(self, message: TopicMessage) -> None:
        self.message = message
        self.consumer = ""
        self.since = 0.0
        self.attempt = 0

    def deliver(self, consumer: str, now: float) -> Delivery:
        self.consumer, self.since = consumer, now
        self.attempt += 1
        return Delivery(**msgspec.structs.asdict(self.message), attempt=self.attempt)


class _Topic:
    """Messages, numbered from 1."""

    def __init__(self) -> None:
        self.messages: deque[TopicMessage] = deque()
        self.groups: dict[str, _Group] = {}
        self.last = 0
        self.grown = anyio.Event()

    @property
    def first(self) -> int:
        return self.last - len(self.messages) + 1

    def add(self, messages: Sequence[EventMessage], bounds: TopicBounds) -> None:
        for message in messages:
            self.last += 1
            self.messages.append(TopicMessage(id=message.id, data=message.data, place=str(self.last)))
        while len(self.messages) > bounds.max_messages:
            self.messages.popleft()
        self.grown.set()
        self.grown = anyio.Event()

    def after(self, number: int) -> list[TopicMessage]:
        return list(islice(self.messages, max(0, number + 1 - self.first), None))

    def page(self, after: str, limit: int) -> TopicPage:
        number = _number(after)
        messages = tuple(self.after(number)[:limit])
        return TopicPage(messages=messages, gap=number + 1 < self.first, last=messages[-1].place if messages else after)


class _Group:
    """What its consumers have, and what they know."""

    def __init__(self, topic: _Topic, bounds: TopicBounds) -> None:
        self._topic = topic
        self._bounds = bounds
        self._last = 0
        self._pending: dict[str, _Pending] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self.dead: deque[DeadLetter] = deque(maxlen=bounds.max_dead_letters)

    def held(self, consumer: str, places: Sequence[str]) -> list[_Pending]:
        found = (self._pending.get(place) for place in places)
        return [pending for pending in found if pending is not None and pending.consumer == consumer]

    def fetch(self, consumer: str, limit: int, lying_since: float, now: float, max_attempts: int) -> Fetched:
        deliveries: list[Delivery] = []
        for pending in self._due(lying_since):
            if self._is_over(pending.message):
                self._pending.pop(pending.message.place, None)
                continue
            delivery = pending.deliver(consumer, now)
            self._pending[delivery.place] = pending
            if delivery.attempt > max_attempts:
                self.bury(delivery, NEVER_SETTLED)
                continue
            deliveries.append(delivery)
            if len(deliveries) == limit:
                break
        return Fetched(deliveries=tuple(deliveries), last=str(self._last))

    def _due(self, lying_since: float) -> Iterator[_Pending]:
        yield from [pending for pending in self._pending.values() if pending.since <= lying_since]
        for message in self._topic.after(self._last):
            self._last = int(message.place)
            yield _Pending(message)

    def _is_over(self, message: TopicMessage) -> bool:
        return message.id in self._known or int(message.place) < self._topic.first

    def acknowledge(self, messages: Sequence[TopicMessage]) -> None:
        for message in messages:
            self._pending.pop(message.place, None)
            self._known[message.id] = None
            self._known.move_to_end(message.id)
        while len(self._known) > self._bounds.known_ids:
            self._known.popitem(last=False)

    def bury(self, delivery: Delivery, reason: str) -> None:
        if self._pending.pop(delivery.place, None) is not None:
            self.dead.append(DeadLetter(**msgspec.structs.asdict(delivery), reason=reason))


def _number(place: str) -> int:
    return int(place or 0)
