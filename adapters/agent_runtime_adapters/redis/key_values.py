"""Values with a time in Redis."""

import hashlib
import struct
import zlib

from agent_runtime import CorruptRecord, Owner, Refusal, StoredValue, check_entry
from agent_runtime_adapters.redis.keys import owner_part
from agent_runtime_adapters.redis.lua import Argument, script
from agent_runtime_adapters.redis.server import RedisStore

_GET = script("value_get", "clock")
_PUT = script("value_put", "clock", "indexed", "values")
_DELETE = script("value_delete", "clock", "values")
_DELETE_ALL = script("value_delete_all", "clock", "indexed")

_HEAD = struct.Struct(">dd16s4s")  # values.lua: version, expires_at, operation; and the checksum of the value
_NO_OPERATION = bytes(16)


class RedisKeyValueStore(RedisStore):
    """A `KeyValueStore` in a Redis, for any number of processes; `RedisServer` says what its options are.

    Nothing goes before its time where the server is durable, and what has expired is Redis's to remove. `clock` gives Unix
    seconds; without one it is the server's. An owner's values, and the names of its keys, are in one hash slot.
    """

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        check_entry(key)
        found: bytes | None = await self.server.run(_GET, [_Place(self, owner, key).value], [self.now()], writes=False)
        return None if found is None else _stored(found)

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        version = await self._put(owner, key, value, ttl, b"any", _NO_OPERATION)
        assert not isinstance(version, Refusal)
        return version

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        return await self._put(owner, key, value, ttl, b"none", _digest(operation))

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        return await self._put(owner, key, value, ttl, b"%d" % expected_version, _digest(operation))

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        check_entry(key)
        place = _Place(self, owner, key)
        expected = b"" if expected_version is None else b"%d" % expected_version
        arguments = [self.now(), place.member, expected]
        return bool(await self.server.run(_DELETE, [place.value, place.index], arguments))

    async def delete_all(self, owner: Owner) -> int:
        place = _Place(self, owner, "")
        return int(await self.server.run(_DELETE_ALL, [place.index], [self.now(), place.value]))

    async def _put(
        self, owner: Owner, key: str, value: bytes, ttl: float, condition: bytes, operation: bytes
    ) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        place = _Place(self, owner, key)
        body = zlib.crc32(value).to_bytes(4) + value
        arguments: list[Argument] = [self.now(), ttl, place.member, condition, operation, body]
        keys = [place.value, place.index, place.versions]
        repeatable = operation != _NO_OPERATION
        answer: int | bytes = await self.server.run(_PUT, keys, arguments, repeatable=repeatable)
        return Refusal(answer.decode()) if isinstance(answer, bytes) else answer


class _Place:
    """Where a value is, and what leads to it."""

    __slots__ = ("index", "member", "value", "versions")

    def __init__(self, store: RedisKeyValueStore, owner: Owner, key: str) -> None:
        whose = owner_part(owner)
        tag = store.server.tag(whose)
        self.member = key.encode("utf-8", "surrogatepass")
        self.value = tag + b"kv:" + whose + self.member
        self.index = tag + b"ki:" + whose
        self.versions = tag + b"kn"


def _stored(found: bytes) -> StoredValue:
    if len(found) < _HEAD.size:
        raise CorruptRecord(f"a value is damaged: {len(found)} bytes are none")
    version, expires_at, _, checksum = _HEAD.unpack_from(found)
    value = found[_HEAD.size :]
    if zlib.crc32(value).to_bytes(4) != checksum:
        raise CorruptRecord("a value is damaged: its checksum is wrong")
    if not version.is_integer():  # nor is what is infinite, or no number
        raise CorruptRecord("a value is damaged: its version is no number")
    return StoredValue(value=value, version=int(version), expires_at=expires_at)


def _digest(operation: str) -> bytes:
    """As long as any other's."""
    return hashlib.blake2b(operation.encode("utf-8", "surrogatepass"), digest_size=16).digest()
