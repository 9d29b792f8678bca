"""Values with a time in a PostgreSQL schema."""

import hashlib

from agent_runtime import Owner, Refusal, StoredValue, check_entry
from agent_runtime_adapters.postgres.store import PostgresStore, answered, in_range, owner_columns


class PostgresKeyValueStore(PostgresStore):
    """A `KeyValueStore` for any number of processes; `PostgresDatabase` says what its options are.

    Nothing goes before its time. What has expired is removed by later writes, a hundred values by each. What is refused is
    not written to the disk. Keys are kept as their SHA-256. `clock` gives Unix seconds; by default the server's clock counts.
    """

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        check_entry(key)
        rows = await self.server.call("key_value_get", *self._place(owner, key), writes=False)
        if not rows:
            return None
        value, version, expires_at = rows[0]
        return StoredValue(value=value, version=version, expires_at=expires_at)

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        check_entry(key, value, ttl=ttl)
        [row] = await self.server.call("key_value_set", *self._place(owner, key), value, ttl, repeatable=True)
        return int(row[0])

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        written = (value, ttl, _bytes(operation))
        [row] = await self.server.call("key_value_add", *self._place(owner, key), *written, repeatable=True)
        return answered(row)

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        written = (value, ttl, _bytes(operation), in_range(expected_version))
        [row] = await self.server.call("key_value_replace", *self._place(owner, key), *written, repeatable=True)
        return answered(row)

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        check_entry(key)
        expected = None if expected_version is None else in_range(expected_version)
        [row] = await self.server.call("key_value_delete", *self._place(owner, key), expected)
        return bool(row[0])

    async def delete_all(self, owner: Owner) -> int:
        [row] = await self.server.call("key_value_delete_all", *owner_columns(owner), self.now())
        return int(row[0])

    def _place(self, owner: Owner, key: str) -> tuple[object, ...]:
        return (*owner_columns(owner), hashlib.sha256(_bytes(key)).digest(), self.now())


def _bytes(text: str) -> bytes:
    """Of any text: PostgreSQL's own knows neither "\\0" nor half characters."""
    return text.encode("utf-8", "surrogatepass")
