"""Values with a time in MongoDB."""

from collections.abc import Mapping
from typing import Any

import msgspec
from bson import ObjectId

from agent_runtime import Owner, Refusal, StoredValue, check_entry
from agent_runtime_adapters.mongodb.database import Document, MongoStore
from agent_runtime_adapters.mongodb.documents import owner_key
from agent_runtime_adapters.mongodb.steps import Expression, changed, decoded, lives, now, until

_NEVER = bytes(12)


class MongoKeyValueStore(MongoStore):
    """A `KeyValueStore` in MongoDB, for any number of processes; `MongoDatabase` says what the options are.

    `clock` gives Unix seconds in the place of the server's own time.

    - Each value is one document, and each operation one step on it. `delete_all` removes one value after another.
    - Nothing goes before its time. What has expired is removed by the server itself, soon after.
    - Versions are object ids, as numbers: 96 bits.
    """

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        check_entry(key)
        wanted = {"_id": _place(owner, key), "$expr": lives(now(self._clock))}
        found = await self.server.do(lambda at: at["key_values"].find_one(wanted), writes=False)
        if found is None:
            return None
        entry = decoded(found, _Entry, "a value")
        return StoredValue(value=entry.value, version=_number(entry.version), expires_at=entry.expires_at)

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        check_entry(key, value, ttl=ttl)
        version = ObjectId()
        step = [{"$replaceWith": _entry(value, version, None, now(self._clock), ttl)}]
        await self.server.do(
            lambda at: at["key_values"].update_one({"_id": _place(owner, key)}, step, upsert=True), repeatable=True
        )
        return _number(version)

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        time, known = now(self._clock), _bytes(operation)
        entry = _entry(value, ObjectId(), known, time, ttl)
        step = {"$replaceWith": {"$cond": [lives(time), "$$ROOT", entry]}}
        there = await self._changed({"_id": _place(owner, key)}, step, upsert=True)
        assert there is not None
        return _number(there.version) if there.operation == known else Refusal.EXISTS

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        time, known = now(self._clock), _bytes(operation)
        entry = _entry(value, ObjectId(), known, time, ttl)
        is_next = {"$and": [{"$eq": ["$version", _object_id(expected_version)]}, {"$ne": ["$operation", known]}]}
        step = {"$replaceWith": {"$cond": [is_next, entry, "$$ROOT"]}}
        there = await self._changed({"_id": _place(owner, key), "$expr": lives(time)}, step)
        if there is None:
            return Refusal.MISSING
        return _number(there.version) if there.operation == known else Refusal.CHANGED

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        check_entry(key)
        wanted: Document = {"_id": _place(owner, key), "$expr": lives(now(self._clock))}
        if expected_version is not None:
            wanted["version"] = _object_id(expected_version)
        deleted = await self.server.do(lambda at: at["key_values"].delete_one(wanted))
        return deleted.deleted_count > 0

    async def delete_all(self, owner: Owner) -> int:
        wanted = {"_id.owner": owner_key(owner), "$expr": lives(now(self._clock))}
        deleted = await self.server.do(lambda at: at["key_values"].delete_many(wanted))
        return deleted.deleted_count

    async def _changed(self, wanted: Document, step: Document, *, upsert: bool = False) -> "_Written | None":
        """Who has written the value that is there after the step."""

        found = await self.server.do(
            lambda at: changed(at["key_values"], wanted, [step], "version", "operation", upsert=upsert), repeatable=True
        )
        return None if found is None else decoded(found, _Written, "a value")


class _Written(msgspec.Struct, kw_only=True):
    """Who has written a value, if it was not `set`."""

    version: ObjectId
    operation: bytes | None


class _Entry(msgspec.Struct, kw_only=True):
    """A value as it is read."""

    value: bytes
    version: ObjectId
    expires_at: float


def _entry(value: bytes, version: ObjectId, operation: bytes | None, time: Expression, ttl: float) -> Mapping[str, Any]:
    return {"_id": "$_id", "value": value, "version": version, "operation": operation, **until(time, ttl)}


def _place(owner: Owner, key: str) -> Mapping[str, Any]:
    return {"owner": owner_key(owner), "key": _bytes(key)}


def _bytes(text: str) -> bytes:
    """Of any text: MongoDB's own knows no half characters."""
    return text.encode("utf-8", "surrogatepass")


def _number(version: ObjectId) -> int:
    return int.from_bytes(version.binary)


def _object_id(number: int) -> ObjectId:
    """The version with this number; one that no value has, for a number that is none."""
    return ObjectId(number.to_bytes(12) if 0 < number < 1 << 96 else _NEVER)
