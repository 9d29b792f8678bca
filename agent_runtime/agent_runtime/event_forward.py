"""From an event bus into a topic, without a delay for whoever publishes."""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from agent_runtime.errors import InvalidInput, LimitExceeded, safe_text
from agent_runtime.event_transport import ArrivedEvent, EventMessage, EventTransport, message_of
from agent_runtime.events import EventBus, EventType, SystemEvent, batched
from agent_runtime.payload import check_id
from agent_runtime.transport_outage import OUTAGES, TransportOutage
from agent_runtime.types import Value

logger = logging.getLogger(__name__)

_BATCH = 100  # events sent at once
_INTERVAL = 0.02  # seconds that an event waits for others


class ForwardStats(Value, frozen=True, kw_only=True):
    """What became of the events that a `Forwarding` took from its bus.

    Attributes:
        sent: They are in the topic.
        refused: They cannot be sent: too large, or more than data.
        lost: The transport did not answer until the block ended.
        dropped: The queue was full, because the transport was too slow or failed for too long.
        failures: How many calls of the transport failed, each of which was repeated.
    """

    sent: int
    refused: int
    lost: int
    dropped: int
    failures: int


class Forwarding:
    """What `forward` does; `stats` says how it goes."""

    def __init__(self, bus: EventBus, transport: EventTransport, topic: str) -> None:
        self._bus = bus
        self._transport = transport
        self._topic = topic
        self._outage = TransportOutage(f"forwarding to topic {topic!r}")
        self._leaving = anyio.Event()
        self._subscription = ""
        self._sent = self._refused = self._lost = self._dropped = 0

    @property
    def stats(self) -> ForwardStats:
        return ForwardStats(
            sent=self._sent,
            refused=self._refused,
            lost=self._lost,
            dropped=self._dropped + self._queue_drops(),
            failures=self._outage.failures,
        )

    async def begin(self, event_type: str, where: Callable[[SystemEvent], bool] | None, queue_size: int) -> None:
        """Subscribe."""
        self._subscription = await self._bus.subscribe(
            event_type,
            batched(self._send, size=min(_BATCH, queue_size), every=_INTERVAL),
            where=lambda event: not isinstance(event, ArrivedEvent) and (where is None or where(event)),
            queue_size=queue_size,
        )

    async def end(self, grace: float) -> None:
        """Send what is queued, for `grace` seconds at most, and unsubscribe."""
        with anyio.move_on_after(grace, shield=True):
            await self._bus.drain()
        self._leaving.set()
        stats = self._bus.stats(self._subscription)
        await self._bus.unsubscribe(self._subscription)
        self._subscription = ""
        self._dropped, self._lost = stats.dropped, self._lost + stats.queued

    async def _send(self, events: Sequence[SystemEvent]) -> None:
        messages = self._encoded(events)
        while messages:
            try:
                await self._transport.publish(self._topic, messages)
            except OUTAGES as error:
                self._outage.failed(error)
            else:
                self._outage.answered()
                self._sent += len(messages)
                return
            if self._leaving.is_set():
                self._lost += len(messages)
                return
            with anyio.move_on_after(self._outage.delay):
                await self._leaving.wait()

    def _encoded(self, events: Sequence[SystemEvent]) -> list[EventMessage]:
        messages: list[EventMessage] = []
        for event in events:
            try:
                messages.append(message_of(event))
            except (InvalidInput, LimitExceeded) as error:
                self._refused += 1
                logger.error("topic %r does not get everything: %s", self._topic, safe_text(error))  # noqa: TRY400 - a traceback's text may hold content
        return messages

    def _queue_drops(self) -> int:
        return self._bus.stats(self._subscription).dropped if self._subscription else 0


@asynccontextmanager
async def forward(
    bus: EventBus,
    transport: EventTransport,
    *,
    topic: str,
    event_type: str = EventType.ANY,
    where: Callable[[SystemEvent], bool] | None = None,
    queue_size: int = 1000,
    grace: float = 5.0,
) -> AsyncGenerator[Forwarding]:
    """Inside, what the bus publishes goes to the topic too: in order, and at least once.

    Nobody waits for it. While the transport fails, it is tried again and `queue_size` events wait, of which the oldest are
    dropped and counted; the log has one warning for each outage. At the end what is queued is sent, for `grace` seconds at
    most, also in a cancelled caller. What came from a transport itself is not sent.
    """
    check_id(topic, "topic")
    forwarding = Forwarding(bus, transport, topic)
    await forwarding.begin(event_type, where, queue_size)
    try:
        yield forwarding
    finally:
        await forwarding.end(grace)
