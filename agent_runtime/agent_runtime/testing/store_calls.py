"""What the faults of a server are tried on: each write and each read of all stores, and what is seen of them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from agent_runtime.event_log import EventLog
from agent_runtime.ids import new_id
from agent_runtime.key_value_store import KeyValueStore
from agent_runtime.rate_limit_store import Charge, RateLimit, RateLimitStore, Settlement
from agent_runtime.stores import Stores, open_memory
from agent_runtime.testing.session_calls import OPERATIONS, SessionCalls, picture_of
from agent_runtime.testing.session_samples import HELLO
from agent_runtime.types import Owner, Value

TTL = 60.0
"""Seconds that everything lives here: longer than any test, for a server's clock cannot be set."""

Call: TypeAlias = Callable[[], Awaitable[object]]
Prepare: TypeAlias = Callable[[Stores, Owner], Awaitable[Call]]
"""Makes what the call needs, and gives the call, which is the same operation each time."""
Look: TypeAlias = Callable[[Stores, Owner], Awaitable[object]]
"""What there is of an owner, without times and versions, which no two backends have in common."""


class Write(Value, frozen=True, kw_only=True):
    """A write of a store: how it is prepared, what is seen of it, and whether it may be made again when it is in doubt."""

    prepare: Prepare
    look: Look
    repeatable: bool = True


async def before_and_after(write: Write) -> tuple[object, object]:
    """What is seen before the write and after it: what the memory stores have then."""
    stores, owner = open_memory("memory:"), new_owner()
    call = await write.prepare(stores, owner)
    before = await write.look(stores, owner)
    await call()
    return before, await write.look(stores, owner)


def new_owner() -> Owner:
    """Somebody who has nothing yet."""
    return Owner(tenant_id=None, user_id=new_id())


# Sessions


def _session(name: str) -> Write:
    async def prepare(stores: Stores, owner: Owner) -> Call:
        s = SessionCalls(store=stores.sessions, ttl=TTL, owner=owner)
        return partial(OPERATIONS[name], s, await s.furnish())

    return Write(prepare=prepare, look=lambda stores, owner: picture_of(stores.sessions, owner))


# Values

_KeyValueCall: TypeAlias = Callable[[KeyValueStore, Owner, int], Awaitable[object]]
_KEY_VALUES: dict[str, _KeyValueCall] = {
    "set": lambda store, owner, version: store.set(owner, "k", b"new", ttl=TTL),
    "add": lambda store, owner, version: store.add(owner, "added", b"new", ttl=TTL, operation="o"),
    "replace": lambda store, owner, version: store.replace(
        owner, "k", b"new", expected_version=version, ttl=TTL, operation="o"
    ),
    "delete": lambda store, owner, version: store.delete(owner, "k", expected_version=version),
    "delete_all": lambda store, owner, version: store.delete_all(owner),
}


def _key_value(call: _KeyValueCall) -> Write:
    async def prepare(stores: Stores, owner: Owner) -> Call:
        return partial(call, stores.key_values, owner, await stores.key_values.set(owner, "k", b"old", ttl=TTL))

    return Write(prepare=prepare, look=_values)


async def _values(stores: Stores, owner: Owner) -> object:
    found = [await stores.key_values.get(owner, key) for key in ("k", "added")]
    return [None if stored is None else stored.value for stored in found]


# Event logs

_LogCall: TypeAlias = Callable[[EventLog, Owner], Awaitable[object]]
_EVENT_LOGS: dict[str, _LogCall] = {
    "append": lambda log, owner: log.append(owner, "s", [b"c", b"d"], expected=2, ttl=TTL, operation="o2"),
    "close": lambda log, owner: log.append(owner, "s", [], expected=2, ttl=TTL, operation="o2", close=True),
    "begin": lambda log, owner: log.append(owner, "new", [b"a"], expected=0, ttl=TTL, operation="o2"),
    "delete": lambda log, owner: log.delete(owner, "s"),
    "delete_all": lambda log, owner: log.delete_all(owner),
}


def _event_log(call: _LogCall) -> Write:
    async def prepare(stores: Stores, owner: Owner) -> Call:
        await stores.event_log.append(owner, "s", [b"a", b"b"], expected=0, ttl=TTL, operation="o1")
        return partial(call, stores.event_log, owner)

    return Write(prepare=prepare, look=_pages)


async def _pages(stores: Stores, owner: Owner) -> object:
    return [await stores.event_log.read(owner, stream) for stream in ("s", "new")]


# Rate limits

_BURST = RateLimit(rate=1, period=TTL * 1_000, burst=10)
_RateCall: TypeAlias = Callable[[RateLimitStore, Charge], Awaitable[object]]
_RATE_LIMITS: dict[str, _RateCall] = {
    "take": lambda store, charge: store.take([charge]),
    "settle": lambda store, charge: store.settle([Settlement(charge=charge, used=0)]),
}


def _rate_limit(call: _RateCall) -> Write:
    async def prepare(stores: Stores, owner: Owner) -> Call:
        await stores.rate_limits.take([_charge(owner, 5)])
        return partial(call, stores.rate_limits, _charge(owner, 2))

    return Write(prepare=prepare, look=_remaining, repeatable=False)


def _charge(owner: Owner, cost: float) -> Charge:
    return Charge(key=(owner.tenant_id, owner.user_id), limit=_BURST, cost=cost)


async def _remaining(stores: Stores, owner: Owner) -> object:
    return round((await stores.rate_limits.peek([_charge(owner, 0)])).allowances[0].remaining)


WRITES: dict[str, Write] = {
    **{f"sessions.{name}": _session(name) for name in OPERATIONS},
    **{f"key_values.{name}": _key_value(call) for name, call in _KEY_VALUES.items()},
    **{f"event_log.{name}": _event_log(call) for name, call in _EVENT_LOGS.items()},
    **{f"rate_limits.{name}": _rate_limit(call) for name, call in _RATE_LIMITS.items()},
}

READS: dict[str, Look] = {
    "sessions.read": lambda stores, owner: stores.sessions.read(owner, "s"),
    "sessions.sessions": lambda stores, owner: stores.sessions.sessions(owner),
    "sessions.count": lambda stores, owner: stores.sessions.count(owner),
    "sessions.messages": lambda stores, owner: stores.sessions.messages(owner, "s"),
    "sessions.checkpoints": lambda stores, owner: stores.sessions.checkpoints(owner, "s"),
    "sessions.runs": lambda stores, owner: stores.sessions.runs(owner, "s"),
    "sessions.entries": lambda stores, owner: stores.sessions.entries(owner, "s", "r"),
    "key_values.get": lambda stores, owner: stores.key_values.get(owner, "k"),
    "event_log.read": lambda stores, owner: stores.event_log.read(owner, "s"),
    "rate_limits.peek": _remaining,
}


async def furnish(stores: Stores, owner: Owner) -> None:
    """Make something that each read finds."""
    s = SessionCalls(store=stores.sessions, ttl=TTL, owner=owner)
    await s.create()
    await s.append([HELLO])
    await s.put()
    await s.record(1, b"first", lease=await s.leased())
    await stores.key_values.set(owner, "k", b"old", ttl=TTL)
    await stores.event_log.append(owner, "s", [b"a"], expected=0, ttl=TTL, operation="o1")
    await stores.rate_limits.take([_charge(owner, 5)])
