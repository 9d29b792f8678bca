"""Values in this process's memory."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from agent_runtime.errors import ConfigurationError, LimitExceeded
from agent_runtime.expiry import ExpiryQueue
from agent_runtime.key_value_store import StoredValue, check_entry
from agent_runtime.session_store import Refusal
from agent_runtime.types import Owner


class MemoryKeyValueStore:
    """A `KeyValueStore` that is gone when the process ends. `clock` gives Unix seconds. For one event loop at a time.

    It keeps at most `max_entries` values, and `max_bytes` of values and keys. What comes above that takes the place of
    what has expired, and then of what was read or written longest ago: a value that was added as a lock can go so too.
    A single value above `max_bytes` is a `LimitExceeded`.
    No operation suspends, so each is atomic.
    """

    def __init__(
        self, *, max_entries: int = 10_000, max_bytes: int = 64 << 20, clock: Callable[[], float] = time.time
    ) -> None:
        if max_entries < 1 or max_bytes < 1:
            raise ConfigurationError(f"max_entries={max_entries} and max_bytes={max_bytes} must be above zero")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._owners: dict[Owner, dict[str, _Entry]] = {}
        self._recent: OrderedDict[_Entry, None] = OrderedDict()
        self._expiry: ExpiryQueue[_Entry] = ExpiryQueue()
        self._bytes = 0
        self._version = 0  # one count for all keys, so that no key has a version twice

    async def get(self, owner: Owner, key: str) -> StoredValue | None:
        check_entry(key)
        entry = self._find(owner, key, self._now())
        if entry is None:
            return None
        self._recent.move_to_end(entry)
        return StoredValue(value=entry.value, version=entry.version, expires_at=entry.expires_at)

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        check_entry(key, value, ttl=ttl)
        return self._put(owner, key, value, None, self._now(), ttl)

    async def add(self, owner: Owner, key: str, value: bytes, *, ttl: float, operation: str) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        now = self._now()
        entry = self._find(owner, key, now)
        if entry is None:
            return self._put(owner, key, value, operation, now, ttl)
        return entry.version if entry.operation == operation else Refusal.EXISTS

    async def replace(
        self, owner: Owner, key: str, value: bytes, *, expected_version: int, ttl: float, operation: str
    ) -> int | Refusal:
        check_entry(key, value, ttl=ttl)
        now = self._now()
        entry = self._find(owner, key, now)
        if entry is None:
            return Refusal.MISSING
        if entry.operation == operation:
            return entry.version
        if entry.version != expected_version:
            return Refusal.CHANGED
        return self._put(owner, key, value, operation, now, ttl)

    async def delete(self, owner: Owner, key: str, *, expected_version: int | None = None) -> bool:
        check_entry(key)
        entry = self._find(owner, key, self._now())
        if entry is None or expected_version not in (None, entry.version):
            return False
        self._remove(entry)
        return True

    async def delete_all(self, owner: Owner) -> int:
        now = self._now()
        entries = list(self._owners.get(owner, {}).values())
        for entry in entries:
            self._remove(entry)
        return sum(entry.expires_at > now for entry in entries)

    def _now(self) -> float:
        """The time, when some of what it has made expire is out of the way."""
        now = self._clock()
        for entry in self._expiry.due(now):
            self._forget(entry)
        return now

    def _find(self, owner: Owner, key: str, now: float) -> "_Entry | None":
        entries = self._owners.get(owner)
        entry = None if entries is None else entries.get(key)
        return entry if entry is not None and entry.expires_at > now else None

    def _put(self, owner: Owner, key: str, value: bytes, operation: str | None, now: float, ttl: float) -> int:
        size = len(key) + len(value)
        if size > self._max_bytes:
            raise LimitExceeded(
                f"a key and value of {size} bytes are larger than max_bytes={self._max_bytes}, all that this store keeps",
                details={"limit": self._max_bytes, "found": size},
            )
        entries = self._owners.setdefault(owner, {})
        if (entry := entries.get(key)) is None:
            entry = entries[key] = _Entry(owner, key)
        self._version += 1
        self._bytes += size - entry.size
        entry.value, entry.version, entry.operation, entry.size = value, self._version, operation, size
        self._expiry.set(entry, now + ttl)
        self._recent[entry] = None
        self._recent.move_to_end(entry)
        self._make_room(now)
        return entry.version

    def _make_room(self, now: float) -> None:
        while len(self._recent) > self._max_entries or self._bytes > self._max_bytes:
            if (entry := self._expiry.pop(now)) is not None:
                self._forget(entry)
            else:
                self._remove(next(iter(self._recent)))

    def _remove(self, entry: "_Entry") -> None:
        self._expiry.remove(entry)
        self._forget(entry)

    def _forget(self, entry: "_Entry") -> None:
        """Let go of an entry that the queue has no more, or only as a shell."""
        entries = self._owners[entry.owner]
        del entries[entry.key]
        if not entries:
            del self._owners[entry.owner]
        del self._recent[entry]
        self._bytes -= entry.size
        entry.value = b""


class _Entry:
    """A value and where it is."""

    __slots__ = ("due", "expires_at", "key", "operation", "owner", "size", "value", "version")

    def __init__(self, owner: Owner, key: str) -> None:
        self.owner = owner
        self.key = key
        self.value = b""
        self.version = self.size = 0
        self.operation: str | None = None
        self.expires_at = self.due = math.inf
