"""Rate limits counted in a SQLite file."""

import sqlite3
import time
from collections.abc import Callable, Sequence

import msgspec
from typing_extensions import Unpack

from agent_runtime import Charge, CorruptRecord, RateCell, RateKey, RateLimit, Settlement, Taken, admit
from agent_runtime_adapters.sqlite.database import DatabaseOptions, FilePath, SQLiteDatabase, SQLiteStore
from agent_runtime_adapters.sqlite.records import decode, encode

_FREE_AT_ONCE = 100


class SQLiteRateLimitStore(SQLiteStore):
    """A `RateLimitStore` in one file, for any number of processes of one host; `SQLiteDatabase` says what its options are.

    Every key counts apart; those whose burst is whole again are removed by later calls, a hundred by each. What is refused
    is not written to the disk. `clock` gives Unix seconds, and is called on the database's thread; processes that share
    the file must have the same.
    """

    def __init__(
        self,
        database: FilePath | SQLiteDatabase,
        *,
        clock: Callable[[], float] = time.time,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        super().__init__(database, **options)
        self._clock = clock

    async def take(self, charges: Sequence[Charge]) -> Taken:
        def job(connection: sqlite3.Connection) -> Taken:
            now = self._clock()
            cells = [_find(connection, charge.key, now) for charge in charges]
            ahead = [cell.at > now for cell in cells]  # the clock stepped back, and time counts on from here
            taken = admit(charges, cells, now)
            for charge, cell, was_ahead in zip(charges, cells, ahead, strict=True):
                if taken.allowed or was_ahead:
                    _save(connection, charge.key, cell, charge.limit)
            if taken.allowed:
                _free(connection, now)
            return taken

        return await self.database.write(job)

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        def job(connection: sqlite3.Connection) -> Taken:
            now = self._clock()
            return admit(charges, [_find(connection, charge.key, now) for charge in charges], now)

        return await self.database.read(job)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        def job(connection: sqlite3.Connection) -> None:
            now = self._clock()
            for settlement in settlements:
                charge = settlement.charge
                cell = _find(connection, charge.key, now)
                cell.settle(settlement, now)
                _save(connection, charge.key, cell, charge.limit)
            _free(connection, now)

        await self.database.write(job)


class _Row(msgspec.Struct, array_like=True, kw_only=True):
    """All of a cell, and where it is."""

    key: bytes
    level: float
    at: float


_rows = msgspec.msgpack.Decoder(_Row)


def _find(connection: sqlite3.Connection, key: RateKey, now: float) -> RateCell:
    place = _bytes(key)
    found = connection.execute("SELECT record FROM rate_cells WHERE key = ?", (place,)).fetchone()
    if found is None:
        return RateCell(0.0, now)
    row = decode(found[0], _rows, "a rate limit")
    if row.key != place:
        raise CorruptRecord("a rate limit is damaged: another one is in its place")
    return RateCell(row.level, row.at)


def _save(connection: sqlite3.Connection, key: RateKey, cell: RateCell, limit: RateLimit) -> None:
    row = _Row(key=_bytes(key), level=cell.level, at=cell.at)
    empty_at = cell.at + limit.seconds(cell.level)
    connection.execute("REPLACE INTO rate_cells VALUES (?, ?, ?)", (row.key, empty_at, encode(row)))


def _free(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        "DELETE FROM rate_cells WHERE key IN (SELECT key FROM rate_cells WHERE empty_at <= ? LIMIT ?)",
        (now, _FREE_AT_ONCE),
    )


def _bytes(key: RateKey) -> bytes:
    """One key's bytes, and no other's."""
    return msgspec.msgpack.encode([None if part is None else part.encode("utf-8", "surrogatepass") for part in key])
