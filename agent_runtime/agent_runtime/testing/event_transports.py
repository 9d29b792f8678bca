"""What every event transport promises."""

from abc import abstractmethod
from collections.abc import Sequence

import anyio
import pytest

from agent_runtime.event_transport import (
    NEVER_SETTLED,
    Delivery,
    EventMessage,
    EventTransport,
    TopicBounds,
    TopicMessage,
)
from agent_runtime.testing.session_samples import EVERY_BYTE, together


class EventTransportContract:
    """Subclass it with a name that starts with `Test`, implement `transport` and `advance`; pytest runs the promises below.

    What lies for `idle` seconds goes to others here: a transport with a clock that cannot be set takes a short time, in
    which some calls are done all the same, and `advance` sleeps. Needs anyio's pytest plugin with `anyio_mode = "auto"`.
    """

    idle: float = 10.0
    bounds = TopicBounds(max_messages=50, max_dead_letters=3, known_ids=20)
    slack: int = 0
    """How many messages more than `bounds.max_messages` a topic may keep."""

    @pytest.fixture
    @abstractmethod
    def transport(self) -> EventTransport:
        """A transport without topics, with these `bounds`; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the transport's clock."""

    async def reopen(self, transport: EventTransport) -> EventTransport:
        """Close it and return another on the same data, as after a restart; one that keeps nothing returns itself."""
        return transport

    # Without a group

    async def test_messages_come_back_in_order_as_they_were(self, transport: EventTransport) -> None:
        await transport.publish("t", [EventMessage(id="a", data=EVERY_BYTE), EventMessage(id="b", data=b"")])
        await transport.publish("t", [])
        transport = await self.reopen(transport)
        await transport.publish("t", [EventMessage(id="c", data=b"c")])
        page = await transport.read("t")
        assert [(message.id, message.data) for message in page.messages] == [("a", EVERY_BYTE), ("b", b""), ("c", b"c")]
        assert (page.gap, page.last) == (False, page.messages[-1].place)

    async def test_a_reader_goes_on_where_it_was(self, transport: EventTransport) -> None:
        await self._publish(transport, 10)
        for limit in (1, 3, 100):
            place, seen = "", list[str]()
            while (page := await transport.read("t", after=place, limit=limit)).messages:
                assert len(page.messages) <= limit
                seen += _ids(page.messages)
                place = page.last
            assert seen == [f"m{n}" for n in range(10)]
            assert page.last == place
            assert not page.gap

    async def test_topics_share_nothing(self, transport: EventTransport) -> None:
        for topic in ("t", "T", "t-", "_t", "t" * 128):
            assert (await transport.read(topic)).messages == ()
            await transport.publish(topic, [EventMessage(id="m", data=topic.encode())])
            await self._acknowledge(transport, await self._fetch(transport, "c", topic=topic), topic=topic)
        for topic in ("t", "T", "t-", "_t", "t" * 128):
            assert [message.data for message in (await transport.read(topic)).messages] == [topic.encode()]

    async def test_the_oldest_are_dropped_and_a_reader_is_told(self, transport: EventTransport) -> None:
        await self._publish(transport, 3)
        place = (await transport.read("t")).last
        for n in range(3, 400):
            await self._publish(transport, 1, n)
        page = await transport.read("t", after=place, limit=1_000)
        assert page.gap
        assert 50 <= len(page.messages) <= 50 + self.slack
        assert _ids(page.messages) == [f"m{n}" for n in range(400 - len(page.messages), 400)]
        assert not (await transport.read("t", after=page.messages[0].place)).gap

    async def test_who_waits_is_told_of_what_comes(self, transport: EventTransport) -> None:
        await self._publish(transport, 1)
        place = (await transport.read("t")).last
        with anyio.fail_after(5):
            await transport.wait("t", after="", timeout=60)
            async with anyio.create_task_group() as group:
                group.start_soon(_wait, transport, place)
                await anyio.wait_all_tasks_blocked()
                await self._publish(transport, 1)
            await transport.wait("t", after=(await transport.read("t")).last, timeout=0.01)
            await transport.wait("nothing", after="", timeout=0.01)

    # Groups

    async def test_every_group_gets_every_message_and_within_it_one_consumer_does(
        self, transport: EventTransport
    ) -> None:
        await self._publish(transport, 10)
        for name in ("g", "G", "h"):
            mine = await self._fetch(transport, "c1", group=name, limit=4)
            others = await self._fetch(transport, "c2", group=name)
            assert _ids(mine) == ["m0", "m1", "m2", "m3"]
            assert _ids(others) == [f"m{n}" for n in range(4, 10)]
            assert {delivery.attempt for delivery in (*mine, *others)} == {1}
            assert await self._fetch(transport, "c1", group=name) == ()

    async def test_of_many_that_fetch_at_once_each_gets_its_own(self, transport: EventTransport) -> None:
        await self._publish(transport, 40)
        answers = await together(20, lambda n: self._fetch(transport, f"c{n}", limit=2))
        assert sorted(_ids([one for answer in answers for one in answer])) == sorted(f"m{n}" for n in range(40))

    async def test_who_found_nothing_waits_for_what_comes(self, transport: EventTransport) -> None:
        await self._publish(transport, 3)
        await self._fetch(transport, "c1")
        fetched = await transport.fetch("t", "g", "c2", limit=9, idle=self.idle, max_attempts=3)
        assert fetched.deliveries == ()
        with anyio.fail_after(5):
            await transport.wait("t", after=fetched.last, timeout=0.01)
            await self._publish(transport, 1, 3)
            await transport.wait("t", after=fetched.last, timeout=60)
        assert _ids(await self._fetch(transport, "c2")) == ["m3"]

    async def test_what_is_handled_is_not_delivered_again(self, transport: EventTransport) -> None:
        await self._publish(transport, 3)
        await self._acknowledge(transport, await self._fetch(transport, "c1", limit=2))
        transport = await self.reopen(transport)
        await self.advance(self.idle * 1.2)
        assert _ids(await self._fetch(transport, "c2")) == ["m2"]

    async def test_a_duplicate_is_not_delivered_again_once_the_first_is_handled(
        self, transport: EventTransport
    ) -> None:
        await self._publish(transport, 3)
        await self._acknowledge(transport, await self._fetch(transport, "c1"))
        await self._publish(transport, 5)
        await self._publish(transport, 3)
        again = await self._fetch(transport, "c2", limit=2)
        assert _ids(again) == ["m3", "m4"]
        assert await self._fetch(transport, "c2") == ()
        assert len(await self._fetch(transport, "c", group="other")) == 11

    async def test_as_many_ids_are_known_as_it_was_told(self, transport: EventTransport) -> None:
        await self._publish(transport, 26)
        deliveries = await self._fetch(transport, "c")
        for delivery in (*deliveries[:25], deliveries[5], deliveries[25]):
            await self._acknowledge(transport, [delivery])
        await self._publish(transport, 26)
        assert _ids(await self._fetch(transport, "c")) == ["m0", "m1", "m2", "m3", "m4", "m6"]

    async def test_what_a_consumer_lets_lie_goes_to_others(self, transport: EventTransport) -> None:
        await self._publish(transport, 3)
        await self._fetch(transport, "killed", limit=2)
        await self.advance(self.idle * 0.4)
        mine = await self._fetch(transport, "c")
        assert _ids(mine) == ["m2"]
        await self._acknowledge(transport, mine)
        transport = await self.reopen(transport)
        await self.advance(self.idle * 0.8)
        [first, second] = await self._fetch(transport, "c")
        assert [(one.id, one.attempt) for one in (first, second)] == [("m0", 2), ("m1", 2)]

    async def test_what_a_consumer_renews_is_its_own(self, transport: EventTransport) -> None:
        await self._publish(transport, 2)
        [kept, left] = await self._fetch(transport, "alive")
        for _ in range(3):
            await self.advance(self.idle * 0.6)
            await transport.renew("t", "g", "alive", [kept.place])
            await transport.renew("t", "g", "other", [left.place])
        assert [delivery.place for delivery in await self._fetch(transport, "c")] == [left.place]
        await transport.renew("t", "g", "alive", [kept.place, left.place, kept.place])
        await self.advance(self.idle * 1.2)
        found = await self._fetch(transport, "c")
        assert {(delivery.id, delivery.attempt) for delivery in found} == {("m0", 2), ("m1", 3)}

    async def test_what_is_given_back_goes_to_others_at_once(self, transport: EventTransport) -> None:
        await self._publish(transport, 3)
        mine = await self._fetch(transport, "c1")
        await self._release(transport, "other", mine)
        assert await self._fetch(transport, "c2") == ()
        await self._release(transport, "c1", mine[:2])
        assert [(one.id, one.attempt) for one in await self._fetch(transport, "c2")] == [("m0", 1), ("m1", 1)]

    async def test_what_is_given_back_is_found_behind_what_others_have(self, transport: EventTransport) -> None:
        await self._publish(transport, 40)
        mine = await self._fetch(transport, "c1")
        await self._release(transport, "c1", mine[-1:])
        assert _ids(await self._fetch(transport, "c2", limit=1)) == ["m39"]

    async def test_what_failed_comes_again_when_its_delay_is_over(self, transport: EventTransport) -> None:
        await self._publish(transport, 2)
        mine = await self._fetch(transport, "c1", limit=1)
        await self._release(transport, "c1", mine, delay=self.idle * 0.6, tried=True)
        assert _ids(await self._fetch(transport, "c1")) == ["m1"]
        await self.advance(self.idle * 0.7)
        assert [(one.id, one.attempt) for one in await self._fetch(transport, "c1")] == [("m0", 2)]

    # Dead letters

    async def test_what_is_buried_is_a_dead_letter_with_its_reason(self, transport: EventTransport) -> None:
        await self._publish(transport, 2)
        [poison, good] = await self._fetch(transport, "c")
        for _ in range(2):
            await transport.bury("t", "g", poison, "why: ä")
        transport = await self.reopen(transport)
        [letter] = await transport.dead_letters("t", "g")
        assert (letter.id, letter.data, letter.attempt, letter.reason) == ("m0", poison.data, 1, "why: ä")
        assert await transport.dead_letters("t", "other") == ()
        await self.advance(self.idle * 1.2)
        assert [delivery.place for delivery in await self._fetch(transport, "c")] == [good.place]

    async def test_what_kills_its_consumers_is_buried_and_others_are_delivered(self, transport: EventTransport) -> None:
        await self._publish(transport, 1)
        for n in range(3):
            [delivery] = await self._fetch(transport, f"killed{n}")
            assert delivery.attempt == n + 1
            await self.advance(self.idle * 1.2)
        await self._publish(transport, 1, 1)
        assert _ids(await self._fetch(transport, "c")) == ["m1"]
        [letter] = await transport.dead_letters("t", "g")
        assert (letter.id, letter.reason) == ("m0", NEVER_SETTLED)

    async def test_dead_letters_are_bounded_and_delivered_again_when_published_again(
        self, transport: EventTransport
    ) -> None:
        await self._publish(transport, 5)
        for delivery in await self._fetch(transport, "c"):
            await transport.bury("t", "g", delivery, "why")
        letters = await transport.dead_letters("t", "g")
        assert _ids(letters) == ["m2", "m3", "m4"]
        assert _ids(await transport.dead_letters("t", "g", limit=2)) == ["m2", "m3"]
        await transport.publish("t", letters)
        assert _ids(await self._fetch(transport, "c")) == ["m2", "m3", "m4"]

    # Calls that come late, or twice

    async def test_what_another_has_now_can_be_acknowledged(self, transport: EventTransport) -> None:
        await self._publish(transport, 1)
        late = await self._fetch(transport, "slow")
        await self.advance(self.idle * 1.2)
        now = await self._fetch(transport, "c")
        for deliveries in (late, late, now):
            await self._acknowledge(transport, deliveries)
        await self._release(transport, "c", now)
        await transport.renew("t", "g", "c", [now[0].place])
        await transport.bury("t", "g", now[0], "why")
        assert await self._fetch(transport, "c") == ()
        assert await transport.dead_letters("t", "g") == ()

    async def test_what_a_consumer_that_left_has_goes_to_others(self, transport: EventTransport) -> None:
        await self._publish(transport, 2)
        await self._fetch(transport, "c1", limit=1)
        for consumer in ("c1", "c1", "nobody"):
            await transport.leave("t", "g", consumer)
        await self.advance(self.idle * 1.2)
        assert _ids(await self._fetch(transport, "c2")) == ["m0", "m1"]

    async def test_what_is_dropped_already_is_not_delivered(self, transport: EventTransport) -> None:
        await self._publish(transport, 1)
        mine = await self._fetch(transport, "c")
        for n in range(1, 400):
            await self._publish(transport, 1, n)
        await self.advance(self.idle * 1.2)
        found = await self._fetch(transport, "c", limit=1_000)
        assert 50 <= len(found) <= 50 + self.slack
        assert "m0" not in _ids(found)
        await self._acknowledge(transport, mine)

    async def _publish(self, transport: EventTransport, count: int, first: int = 0) -> None:
        messages = [EventMessage(id=f"m{n}", data=b"%d" % n) for n in range(first, first + count)]
        await transport.publish("t", messages)

    async def _fetch(
        self, transport: EventTransport, consumer: str, *, topic: str = "t", group: str = "g", limit: int = 100
    ) -> tuple[Delivery, ...]:
        fetched = await transport.fetch(topic, group, consumer, limit=limit, idle=self.idle, max_attempts=3)
        return fetched.deliveries

    async def _acknowledge(
        self, transport: EventTransport, deliveries: Sequence[Delivery], *, topic: str = "t"
    ) -> None:
        await transport.acknowledge(topic, "g", deliveries)

    async def _release(
        self,
        transport: EventTransport,
        consumer: str,
        deliveries: Sequence[Delivery],
        *,
        delay: float = 0.0,
        tried: bool = False,
    ) -> None:
        await transport.release("t", "g", consumer, deliveries, idle=self.idle, delay=delay, tried=tried)


def _ids(messages: Sequence[TopicMessage]) -> list[str]:
    return [message.id for message in messages]


async def _wait(transport: EventTransport, place: str) -> None:
    await transport.wait("t", after=place, timeout=60)
