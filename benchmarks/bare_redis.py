"""What the driver alone needs on a Redis: the same bytes, without owners, leases, checks and errors."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks import bare

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple[bare.Turn, ...]).decode

GCRA = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local due = tonumber(redis.call('GET', KEYS[1]) or now)
if due < now then due = now end
due = due + ARGV[1]
if due - now > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], string.format('%.17g', due), 'PX', 60000)
return 1
"""


class Store:
    """Turns in a list, the session in a hash."""

    def __init__(self, client: Redis) -> None:
        self.client: Any = client  # whose annotations know clients that answer at once, too

    async def append(self, name: str, turn: tuple[bare.Turn, ...]) -> int:
        """One round trip of three commands."""
        counts = await self._pipeline([name], turn)
        return counts[0]

    async def append_to_each(self, names: Sequence[str], turn: tuple[bare.Turn, ...]) -> list[int]:
        """The same for many sessions, still one round trip."""
        return await self._pipeline(names, turn)

    async def _pipeline(self, names: Sequence[str], turn: tuple[bare.Turn, ...]) -> list[int]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.rpush(f"{name}:turns", encode(turn))
                pipeline.hincrby(name, "count", 2)
                pipeline.pexpire(name, 3_600_000)
            answers = await pipeline.execute()
        return [int(count) for count in answers[::3]]

    async def load(self, name: str, last: int = 0) -> list[bare.Turn]:
        found = await self.client.lrange(f"{name}:turns", -last, -1)
        return [turn for data in found for turn in decode(data)]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Store]:
    client = Redis.from_url(url, retry=None)
    try:
        yield Store(client)
    finally:
        await client.aclose()
