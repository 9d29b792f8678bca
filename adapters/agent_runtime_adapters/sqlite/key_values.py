"""Values with a time in a SQLite file."""

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
from typing_extensions import Unpack

from agent_runtime import CorruptRecord, Owner, Refusal, StoredValue, check_entry
from agent_runtime_adapters.sqlite.database import DatabaseOptions, FilePath, SQLiteDatabase, SQLiteStore
from agent_runtime_adapters.sqlite.records import decode, encode
from agent_runtime_adapters.sqlite.session_rows import owner_key

T = TypeVar("T")

_FREE_AT_ONCE = 100


class SQLiteKeyValueStore(SQLiteStore):
    """A `KeyValueStore` in one file, for any number of processes of one host; `SQLiteDatabase` says what its options are.

    Nothing goes before its time. What has expired is removed by later writes, a hundred values by each. `clock` gives
    Unix seconds, and is called on the database's thread; processes that share the file must have the same.
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

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        check_entry(key)

        def job(rows: _Rows) -> StoredValue | None:
            row = rows.find(owner, key)
            if row is None:
                return None
            return StoredValue(value=row.value, version=row.version, expires_at=row.expires_at)

        return await self.database.read(self._at_once(job))

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        check_entry(key, value, ttl=ttl)
        return await self._write(lambda rows: rows.put(owner, key, value, ttl, None))

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        check_entry(key, value, ttl=ttl)

        def job(rows: _Rows) -> int | Refusal:
            row = rows.find(owner, key)
            if row is None:
                return rows.put(owner, key, value, ttl, operation)
            return row.version if row.operation == operation else Refusal.EXISTS

        return await self._write(job)

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        check_entry(key, value, ttl=ttl)

        def job(rows: _Rows) -> int | Refusal:
            row = rows.find(owner, key)
            if row is None:
                return Refusal.MISSING
            if row.operation == operation:
                return row.version
            if row.version != expected_version:
                return Refusal.CHANGED
            return rows.put(owner, key, value, ttl, operation)

        return await self._write(job)

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        check_entry(key)

        def job(rows: _Rows) -> bool:
            row = rows.find(owner, key)
            if row is None or expected_version not in (None, row.version):
                return False
            rows.delete(row)
            return True

        return await self._write(job)

    async def delete_all(self, owner: Owner) -> int:
        return await self._write(lambda rows: rows.delete_all(owner))

    async def _write(self, job: "Callable[[_Rows], T]") -> T:
        return await self.database.write(self._at_once(job))

    def _at_once(self, job: "Callable[[_Rows], T]") -> Callable[[sqlite3.Connection], T]:
        return lambda connection: job(_Rows(connection, self._clock()))


class _Row(msgspec.Struct, array_like=True, kw_only=True):
    """All of a value, and where it is. `operation` wrote it."""

    owner: bytes
    key: bytes
    value: bytes
    version: int
    operation: str | None
    expires_at: float


class _Rows:
    """Finds and keeps values, as they are for one job at one moment."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self._now = now

    def find(self, owner: Owner, key: str) -> _Row | None:
        place = (owner_key(owner), _bytes(key))
        found = self._connection.execute("SELECT record FROM key_values WHERE owner = ? AND key = ?", place).fetchone()
        if found is None:
            return None
        row = decode(found[0], _rows, "a value")
        if (row.owner, row.key) != place:
            raise CorruptRecord("a value is damaged: another one is in its place")
        return row if row.expires_at > self._now else None

    def put(self, owner: Owner, key: str, value: bytes, ttl: float, operation: str | None) -> int:
        self._free()
        row = _Row(
            owner=owner_key(owner),
            key=_bytes(key),
            value=value,
            version=self._next_version(),
            operation=operation,
            expires_at=self._now + ttl,
        )
        self._connection.execute(
            "REPLACE INTO key_values (owner, key, expires_at, record) VALUES (?, ?, ?, ?)",
            (row.owner, row.key, row.expires_at, encode(row)),
        )
        return row.version

    def delete(self, row: _Row) -> None:
        self._connection.execute("DELETE FROM key_values WHERE owner = ? AND key = ?", (row.owner, row.key))

    def delete_all(self, owner: Owner) -> int:
        return self._connection.execute(
            "DELETE FROM key_values WHERE owner = ? AND expires_at > ?", (owner_key(owner), self._now)
        ).rowcount

    def _next_version(self) -> int:
        """One count for all keys, so that no key has a version twice."""
        self._connection.execute("UPDATE key_value_numbers SET version = version + 1")
        [version] = self._connection.execute("SELECT version FROM key_value_numbers").fetchone()
        return int(version)

    def _free(self) -> None:
        self._connection.execute(
            "DELETE FROM key_values WHERE id IN (SELECT id FROM key_values WHERE expires_at <= ? LIMIT ?)",
            (self._now, _FREE_AT_ONCE),
        )


_rows = msgspec.msgpack.Decoder(_Row)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
