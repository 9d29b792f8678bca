"""Topics in Redis Streams."""

import math
from collections.abc import Sequence

import anyio
from typing_extensions import Unpack

from agent_runtime import (
    NEVER_SETTLED,
    CorruptRecord,
    DeadLetter,
    Delivery,
    EventMessage,
    Fetched,
    TopicBounds,
    TopicMessage,
    TopicPage,
)
from agent_runtime_adapters.redis.lua import Argument, script
from agent_runtime_adapters.redis.server import RedisServer, RedisStore, ServerOptions

_PUBLISH = script("topic_publish", "topics")
_READ = script("topic_read", "topics")
_NEWER = script("topic_newer")
_FETCH = script("topic_fetch", "topics")
_RENEW = script("topic_renew", "topics")
_RELEASE = script("topic_release", "topics")
_ACKNOWLEDGE = script("topic_acknowledge")
_BURY = script("topic_bury", "topics")
_LEAVE = script("topic_leave")
_DEAD_LETTERS = script("topic_dead_letters")

_NO_MESSAGE = b"", b""  # an entry of somebody else: no event either
_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.05  # seconds until who waits looks again


class RedisEventTransport(RedisStore):
    """An `EventTransport` on Redis Streams, for any number of processes; `RedisServer` says what its options are.

    A topic keeps up to a hundred messages more than `max_messages`. Time is the server's. All of a topic is in one hash slot.
    Processes that share the server must have the same `bounds`.

    A topic, its groups and their dead letters stay until their keys are deleted; a group that nobody fetches for costs
    nothing more than that.
    """

    def __init__(
        self, server: str | RedisServer, *, bounds: TopicBounds | None = None, **options: Unpack[ServerOptions]
    ) -> None:
        super().__init__(server, **options)
        self._bounds = bounds or TopicBounds()

    async def publish(self, topic: str, messages: Sequence[EventMessage]) -> None:
        if messages:
            flat: list[Argument] = [part for message in messages for part in (message.id, message.data)]
            arguments = [self._bounds.max_messages, *flat]
            await self.server.run(_PUBLISH, [_Place(self, topic).topic], arguments, repeatable=True)

    async def read(self, topic: str, *, after: str = "", limit: int = 100) -> TopicPage:
        arguments: list[Argument] = [after or 0, limit]
        first, entries = await self.server.run(_READ, [_Place(self, topic).topic], arguments, writes=False)
        messages = tuple(_message(entry) for entry in entries)
        last = messages[-1].place if messages else after
        return TopicPage(messages=messages, gap=int(after or 0) + 1 < first, last=last)

    async def wait(self, topic: str, *, after: str, timeout: float) -> None:  # noqa: ASYNC109 - of the protocol
        keys, pause = [_Place(self, topic).topic], _FIRST_LOOK
        with anyio.move_on_after(timeout):
            while not await self.server.run(_NEWER, keys, [after or 0], writes=False):
                await anyio.sleep(pause)
                pause = min(pause * 2, _LONGEST_LOOK)

    async def fetch(
        self, topic: str, group: str, consumer: str, *, limit: int, idle: float, max_attempts: int
    ) -> Fetched:
        place = _Place(self, topic, group)
        limits: list[Argument] = [limit, _milliseconds(idle), max_attempts, self._bounds.max_dead_letters]
        arguments = [group, consumer, *limits, NEVER_SETTLED]
        entries, last = await self.server.run(_FETCH, [place.topic, place.known, place.dead], arguments)
        return Fetched(deliveries=tuple(_delivery(entry) for entry in entries), last=str(last))

    async def renew(self, topic: str, group: str, consumer: str, places: Sequence[str]) -> None:
        arguments = [group, consumer, *places]
        await self.server.run(_RENEW, [_Place(self, topic).topic], arguments, repeatable=True)

    async def acknowledge(self, topic: str, group: str, messages: Sequence[TopicMessage]) -> None:
        place = _Place(self, topic, group)
        flat = [part for message in messages for part in (message.place, message.id)]
        arguments: list[Argument] = [group, self._bounds.known_ids, *flat]
        await self.server.run(_ACKNOWLEDGE, [place.topic, place.known], arguments, repeatable=True)

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
        lain = max(0, _milliseconds(idle) - math.floor(delay * 1000))
        arguments: list[Argument] = [group, consumer, lain, int(tried), *(one.place for one in deliveries)]
        await self.server.run(_RELEASE, [_Place(self, topic).topic], arguments, repeatable=True)

    async def bury(self, topic: str, group: str, delivery: Delivery, reason: str) -> None:
        place = _Place(self, topic, group)
        letter: list[Argument] = [delivery.place, delivery.id, delivery.data, delivery.attempt, reason]
        arguments = [group, self._bounds.max_dead_letters, *letter]
        await self.server.run(_BURY, [place.topic, place.dead], arguments, repeatable=True)

    async def leave(self, topic: str, group: str, consumer: str) -> None:
        await self.server.run(_LEAVE, [_Place(self, topic).topic], [group, consumer], repeatable=True)

    async def dead_letters(self, topic: str, group: str, *, limit: int = 100) -> Sequence[DeadLetter]:
        found = await self.server.run(_DEAD_LETTERS, [_Place(self, topic, group).dead], [limit], writes=False)
        return tuple(_letter(entry) for entry in found)


class _Place:
    """Where a topic is, and what a group of it knows."""

    __slots__ = ("dead", "known", "topic")

    def __init__(self, transport: RedisEventTransport, topic: str, group: str = "") -> None:
        tag = transport.server.tag(topic.encode())
        self.topic = tag + b"et:" + topic.encode()
        self.known = tag + b"ek:" + f"{topic}:{group}".encode()
        self.dead = tag + b"ed:" + f"{topic}:{group}".encode()


def _message(entry: tuple[bytes, Sequence[bytes]]) -> TopicMessage:
    place, fields = entry
    identity, data = fields[1::2] if len(fields) == 4 else _NO_MESSAGE
    return TopicMessage(place=_number(place), id=_id(identity), data=data)


def _delivery(found: tuple[bytes, bytes, bytes, int]) -> Delivery:
    place, identity, data, attempt = found
    return Delivery(place=_number(place), id=_id(identity), data=data, attempt=attempt)


def _letter(entry: Sequence[object]) -> DeadLetter:
    match entry:
        case [
            bytes(),
            [
                b"p",
                bytes() as place,
                b"i",
                bytes() as identity,
                b"d",
                bytes() as data,
                b"n",
                bytes() as attempt,
                b"r",
                bytes() as reason,
            ],
        ]:
            return DeadLetter(
                place=_number(place),
                id=_id(identity),
                data=data,
                attempt=int(attempt),
                reason=reason.decode(),
            )
        case _:
            raise CorruptRecord("the dead letters of a group are damaged: an entry is none")


def _id(identity: bytes) -> str:
    """What is no text was written by somebody else, and need not come back as it was."""
    return identity.decode("utf-8", "replace")


def _number(place: bytes) -> str:
    """Of an entry's id, what is ours."""
    return place.partition(b"-")[0].decode()


def _milliseconds(seconds: float) -> int:
    return max(1, math.ceil(seconds * 1000))
