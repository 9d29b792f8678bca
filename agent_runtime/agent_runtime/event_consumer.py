"""Handling the events of a topic, as one consumer of a group."""

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from agent_runtime.background import Background, cancel_requested
from agent_runtime.errors import ConfigurationError, CorruptRecord, safe_text
from agent_runtime.event_transport import Delivery, EventTransport, event_of
from agent_runtime.events import SystemEvent
from agent_runtime.ids import new_id
from agent_runtime.payload import check_id
from agent_runtime.transport_outage import OUTAGES, TransportOutage
from agent_runtime.types import Value

logger = logging.getLogger(__name__)

_LAST_WORDS = 2.0  # seconds to give back what was not handled
_LONGEST_WAIT = 1.0  # seconds until it looks again for what others let lie
_REMEMBERED = 1_000  # ids of handled events whose acknowledgement failed


class ConsumerStats(Value, frozen=True, kw_only=True):
    """What one consumer has done. `failed` counts attempts, `failures` calls of the transport."""

    handled: int
    failed: int
    buried: int
    failures: int


class EventConsumer:
    """Has `handler(event)` called for the events of a topic that no other consumer of the group has handled.

    Each at least once, one after the other. One that fails, takes longer than `timeout`, or is no event, is tried again
    after `retry_delay` seconds, twice as many each time (`idle` at most), while others are handled; after `max_attempts` it
    is a dead letter, with the reason. What a consumer has fetched is its own while it is alive, however long it takes;
    when it was killed, others get it after `idle` seconds. A handler that was called twice can tell by the `event_id`.

    While the transport fails, it is tried again; the log has one warning for each outage.

    Args:
        handler: As an `EventBus`'s `publish`, which makes the events of this topic those of a bus.
        group: Every group gets every event; within it, each goes to one consumer.
        batch: How many are fetched at once.
        idle: Seconds; the same for all consumers of the group.
    """

    def __init__(
        self,
        transport: EventTransport,
        handler: Callable[[SystemEvent], Awaitable[object]],
        *,
        topic: str,
        group: str,
        batch: int = 16,
        idle: float = 30.0,
        max_attempts: int = 5,
        retry_delay: float = 1.0,
        timeout: float = math.inf,
    ) -> None:
        check_id(topic, "topic")
        check_id(group, "group")
        if (
            batch < 1
            or max_attempts < 1
            or not 0 < idle < math.inf
            or not 0 <= retry_delay < math.inf
            or not timeout > 0
        ):
            raise ConfigurationError(
                f"batch={batch}, max_attempts={max_attempts}, idle={idle} and timeout={timeout} must be above 0, and "
                f"retry_delay={retry_delay} not below"
            )
        self.name = new_id()
        self._transport = transport
        self._handler = handler
        self._topic, self._group = topic, group
        self._batch = batch
        self._idle = idle
        self._max_attempts = max_attempts
        self._retry_delay = retry_delay
        self._timeout = timeout
        self._outage = TransportOutage(f"a consumer of topic {topic!r} in group {group!r}")
        self._held: dict[str, Delivery] = {}
        self._handled_ids: OrderedDict[str, None] = OrderedDict()
        self._handled_of_batch: set[str] = set()  # one that was sent twice may be fetched twice at once
        self._pause = anyio.CancelScope()
        self._stopped = False
        self._handled = self._failed = self._buried = 0

    @property
    def stats(self) -> ConsumerStats:
        return ConsumerStats(
            handled=self._handled, failed=self._failed, buried=self._buried, failures=self._outage.failures
        )

    async def run(self) -> None:
        """Handle events until it is cancelled, or stopped.

        Cancelled, the handler is cancelled too. What was fetched and not handled is given back to the others, at once.
        """
        async with Background() as background:
            background.start(self._keep)
            try:
                while not self._stopped:
                    await self._round()
            finally:
                with anyio.move_on_after(_LAST_WORDS, shield=True), suppress(*OUTAGES):
                    await self._leave()

    def stop(self) -> None:
        """Fetch nothing more: `run` returns after the event that is being handled."""
        self._stopped = True
        self._pause.cancel()

    async def _round(self) -> None:
        try:
            fetched = await self._transport.fetch(
                self._topic,
                self._group,
                self.name,
                limit=self._batch,
                idle=self._idle,
                max_attempts=self._max_attempts,
            )
            self._outage.answered()
            if not fetched.deliveries:
                seconds = min(_LONGEST_WAIT, self._idle / 2)
                await self._rest(self._transport.wait(self._topic, after=fetched.last, timeout=seconds))
        except OUTAGES as error:
            self._outage.failed(error)
            await self._rest(anyio.sleep(self._outage.delay))
            return
        self._held = {delivery.place: delivery for delivery in fetched.deliveries}
        self._handled_of_batch.clear()
        for delivery in fetched.deliveries:
            if self._stopped:
                break
            await self._handle(delivery)

    async def _rest(self, wait: Awaitable[None]) -> None:
        """Wait, until it is stopped."""
        with anyio.CancelScope() as self._pause:
            if self._stopped:
                self._pause.cancel()
            await wait

    async def _handle(self, delivery: Delivery) -> None:
        if delivery.id in self._handled_of_batch or delivery.id in self._handled_ids:
            await self._acknowledge(delivery)
            return
        try:
            event = event_of(delivery)
        except CorruptRecord as error:
            await self._fail(delivery, safe_text(error), again=False)
            return
        try:
            with anyio.fail_after(self._timeout):
                await self._handler(event)
        except anyio.get_cancelled_exc_class() as error:
            if cancel_requested():
                raise
            await self._fail(delivery, safe_text(error))
        except Exception as error:  # noqa: BLE001 - the edge that keeps a handler's bug from the other events
            await self._fail(delivery, safe_text(error))
        else:
            self._handled += 1
            self._handled_of_batch.add(delivery.id)
            await self._acknowledge(delivery)

    async def _acknowledge(self, delivery: Delivery) -> None:
        if await self._settled(delivery, self._transport.acknowledge(self._topic, self._group, [delivery])):
            return
        self._handled_ids[delivery.id] = None  # it comes again, and its handler is not called again
        while len(self._handled_ids) > _REMEMBERED:
            self._handled_ids.popitem(last=False)

    async def _fail(self, delivery: Delivery, reason: str, *, again: bool = True) -> None:
        self._failed += 1
        logger.error(
            "group %r of topic %r failed on event %s, attempt %d: %s",
            self._group,
            self._topic,
            delivery.id,
            delivery.attempt,
            reason,
        )
        if again and delivery.attempt < self._max_attempts:
            delay = min(self._idle, self._retry_delay * 2 ** (delivery.attempt - 1))
            call = self._transport.release(
                self._topic, self._group, self.name, [delivery], idle=self._idle, delay=delay, tried=True
            )
            await self._settled(delivery, call)
        elif await self._settled(delivery, self._transport.bury(self._topic, self._group, delivery, reason)):
            self._buried += 1

    async def _settled(self, delivery: Delivery, call: Awaitable[None]) -> bool:
        """Make the call that ends a delivery. When it fails, the message is delivered again, for nobody renews it."""
        del self._held[delivery.place]
        try:
            await call
        except OUTAGES as error:
            self._outage.failed(error)
            return False
        return True

    async def _keep(self) -> None:
        """Tell again and again that this consumer lives."""
        while True:
            await anyio.sleep(self._idle / 3)
            if self._held:
                try:
                    await self._transport.renew(self._topic, self._group, self.name, tuple(self._held))
                except OUTAGES as error:
                    self._outage.failed(error)

    async def _leave(self) -> None:
        held, self._held = list(self._held.values()), {}
        if held:
            await self._transport.release(self._topic, self._group, self.name, held, idle=self._idle, tried=False)
        await self._transport.leave(self._topic, self._group, self.name)
