"""What the driver alone needs on a PostgreSQL: the same bytes, without owners, leases, checks and errors."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import msgspec

from benchmarks import bare

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple[bare.Turn, ...]).decode

_TABLE = "CREATE TABLE bare_turns (session text, number bigserial, data bytea NOT NULL, PRIMARY KEY (session, number))"


class Store:
    """Turns in a table."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self.pool = pool

    async def append(self, name: str, turn: tuple[bare.Turn, ...]) -> object:
        return await self.pool.execute("INSERT INTO bare_turns (session, data) VALUES ($1, $2)", name, encode(turn))

    async def load(self, name: str, last: int = 1_000_000) -> list[bare.Turn]:
        found = await self.pool.fetch(
            "SELECT data FROM bare_turns WHERE session = $1 ORDER BY number DESC LIMIT $2", name, last
        )
        return [turn for row in reversed(found) for turn in decode(row["data"])]


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Store]:
    async with asyncpg.create_pool(url, min_size=1, max_size=10) as pool:
        await pool.execute(_TABLE)
        yield Store(pool)
        await pool.execute("DROP TABLE bare_turns")
