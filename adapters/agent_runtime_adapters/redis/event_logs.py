"""Event logs in Redis."""

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence

from typing_extensions import Unpack

from agent_runtime import CorruptRecord, LogBounds, LoggedEvent, LogPage, Owner, Refusal
from agent_runtime_adapters.redis.keys import owner_part
from agent_runtime_adapters.redis.lua import Argument, script
from agent_runtime_adapters.redis.server import RedisServer, RedisStore, ServerOptions

_APPEND = script("log_append", "clock", "indexed", "logs")
_READ = script("log_read", "clock", "logs")
_DELETE = script("log_delete", "clock", "logs")
_DELETE_ALL = script("log_delete_all", "clock", "indexed")

_OPTIONS = struct.Struct(">Bddd")  # log_append.lua
_SEAL = 4  # bytes in front of an event, the CRC-32 of the others


class RedisEventLog(RedisStore):
    """An `EventLog` in a Redis, for any number of processes; `RedisServer` says what its options are.

    No log goes before its time where the server is durable, and what has expired is Redis's to remove. Processes that share
    the server must have the same `bounds`. `clock` gives Unix seconds; without one it is the server's.
    """

    def __init__(
        self,
        server: str | RedisServer,
        *,
        bounds: LogBounds | None = None,
        clock: Callable[[], float] | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        super().__init__(server, clock=clock, **options)
        self._bounds = bounds or LogBounds()

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
        place = _Place(self, owner, stream)
        kept = _newest(events, self._bounds)
        options = _OPTIONS.pack(close, len(events) - len(kept), self._bounds.max_events, self._bounds.max_bytes)
        digest = hashlib.blake2b(operation.encode(), digest_size=16).digest()
        begin: list[Argument] = [self.now(), ttl, stream, expected, digest, options]
        answer: int | bytes = await self.server.run(
            _APPEND, [place.log, place.events, place.index], [*begin, *map(_sealed, kept)], repeatable=True
        )
        return Refusal(answer.decode()) if isinstance(answer, bytes) else answer

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        place = _Place(self, owner, stream)
        found = await self.server.run(_READ, [place.log, place.events], [self.now(), after, limit], writes=False)
        if found is None:
            return None
        first, last, closed, events = found
        begin = max(after + 1, first)
        if len(events) != max(0, min(limit, last - begin + 1)):
            raise CorruptRecord("an event log is damaged: an event is missing")
        return LogPage(
            events=tuple(
                LoggedEvent(sequence=number, data=_unsealed(data)) for number, data in enumerate(events, begin)
            ),
            missed=max(0, first - after - 1),
            first=first,
            last=last,
            closed=bool(closed),
        )

    async def delete(self, owner: Owner, stream: str) -> bool:
        place = _Place(self, owner, stream)
        keys = [place.log, place.events, place.index]
        return bool(await self.server.run(_DELETE, keys, [self.now(), stream]))

    async def delete_all(self, owner: Owner) -> int:
        place = _Place(self, owner, "")
        return int(await self.server.run(_DELETE_ALL, [place.index], [self.now(), place.log, place.events]))


class _Place:
    """Where a log is, and what leads to it."""

    __slots__ = ("events", "index", "log")

    def __init__(self, store: RedisEventLog, owner: Owner, stream: str) -> None:
        whose = owner_part(owner)
        tag = store.server.tag(whose)
        self.log = tag + b"el:" + whose + stream.encode()
        self.events = tag + b"ee:" + whose + stream.encode()
        self.index = tag + b"ei:" + whose


def _newest(events: Sequence[bytes], bounds: LogBounds) -> Sequence[bytes]:
    """Those that the log keeps, if it has no others."""
    size, begin = 0, len(events)
    while begin > 0 and len(events) - begin < bounds.max_events:
        size += len(events[begin - 1])
        if size > bounds.max_bytes:
            break
        begin -= 1
    return events[begin:]


def _sealed(event: bytes) -> bytes:
    return zlib.crc32(event).to_bytes(_SEAL) + event


def _unsealed(data: bytes) -> bytes:
    event = data[_SEAL:]
    if zlib.crc32(event).to_bytes(_SEAL) != data[:_SEAL]:
        raise CorruptRecord("an event log is damaged: the checksum of an event is wrong")
    return event
