"""Rate limits counted in Redis."""

import struct
from collections.abc import Sequence

from agent_runtime import Allowance, Charge, CorruptRecord, RateCell, RateKey, Settlement, Taken, admit, check_charges
from agent_runtime_adapters.redis.lua import script
from agent_runtime_adapters.redis.server import RedisStore

_TAKE = script("rate_take", "clock", "rates")
_PEEK = script("rate_peek", "clock")
_SETTLE = script("rate_settle", "clock", "rates")

_CELL = struct.Struct(">dd")  # rates.lua: level, at
_ALLOWANCE = struct.Struct(">ddd")


class RedisRateLimitStore(RedisStore):
    """A `RateLimitStore` in a Redis, for any number of processes; `RedisServer` says what its options are.

    Every key counts apart, and expires when its burst is whole again. What is refused is not written. All keys are in the
    hash slot of shard 0, so that one call may charge limits of an owner, a tenant and everybody together: in a cluster, one
    node counts them all. `clock` gives Unix seconds; without one it is the server's.
    """

    async def take(self, charges: Sequence[Charge]) -> Taken:
        if not charges:
            return _NOTHING
        check_charges(charges)
        numbers = [number for charge in charges for number in _asked(charge)]
        arguments = [self.now(), _doubles(numbers)]
        answer: bytes = await self.server.run(_TAKE, [self._place(charge.key) for charge in charges], arguments)
        allowances = tuple(
            Allowance(remaining=remaining, retry_after=retry_after, reset_after=reset_after)
            for remaining, retry_after, reset_after in _ALLOWANCE.iter_unpack(answer)
        )
        retry_after = max(allowance.retry_after for allowance in allowances)
        return Taken(allowed=not retry_after, retry_after=retry_after, allowances=allowances)

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        if not charges:
            return _NOTHING
        keys = [self._place(charge.key) for charge in charges]
        time, found = await self.server.run(_PEEK, keys, [self.now()], writes=False)
        now = float(time)
        return admit(charges, [RateCell(0.0, now) if cell is None else _cell(cell) for cell in found], now)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if not settlements:
            return
        numbers = [number for settlement in settlements for number in _used(settlement)]
        keys = [self._place(settlement.charge.key) for settlement in settlements]
        await self.server.run(_SETTLE, keys, [self.now(), _doubles(numbers)])

    def _place(self, key: RateKey) -> bytes:
        return self.server.shard(0) + b"rl:" + b"".join(map(_part, key))


_NOTHING = Taken(allowed=True, retry_after=0.0, allowances=())


def _cell(found: bytes) -> RateCell:
    if len(found) != _CELL.size:
        raise CorruptRecord(f"a rate limit is damaged: {len(found)} bytes are none")
    return RateCell(*_CELL.unpack(found))


def _part(part: str | None) -> bytes:
    """Its bytes, which no other part has, nor begins with."""
    if part is None:
        return b"-"
    data = part.encode("utf-8", "surrogatepass")
    return b"%d:%s" % (len(data), data)


def _asked(charge: Charge) -> tuple[float, ...]:
    limit = charge.limit
    return limit.rate, limit.period, limit.burst, limit.ceiling, charge.cost


def _used(settlement: Settlement) -> tuple[float, ...]:
    limit = settlement.charge.limit
    return limit.rate, limit.period, settlement.used, settlement.charge.cost


def _doubles(numbers: Sequence[float]) -> bytes:
    return struct.pack(f">{len(numbers)}d", *numbers)
