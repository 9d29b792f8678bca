"""Rate limits counted in a PostgreSQL schema."""

import hashlib
from collections.abc import Sequence

import msgspec

from agent_runtime import Charge, RateCell, RateKey, Settlement, Taken, admit, check_charges
from agent_runtime_adapters.postgres.store import PostgresStore


class PostgresRateLimitStore(PostgresStore):
    """A `RateLimitStore` for any number of processes; `PostgresDatabase` says what its options are.

    Every key counts apart, and is kept as its SHA-256; those whose burst is whole again are removed by later calls, a hundred
    by each. What is refused is not written to the disk. `clock` gives Unix seconds; by default the server's clock counts.
    """

    async def take(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        if not charges:
            return admit((), (), 0.0)
        [[levels]] = await self.server.call("rate_take", *_columns(charges), self.now(), _spans(charges))
        return _taken(charges, levels)

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        if not charges:
            return admit((), (), 0.0)
        [[levels]] = await self.server.call("rate_peek", *_columns(charges), self.now(), writes=False)
        return _taken(charges, levels)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        charges = [settlement.charge for settlement in settlements]
        used = [settlement.used for settlement in settlements]
        if charges:
            await self.server.call("rate_settle", *_columns(charges), self.now(), _spans(charges), used)


def _columns(charges: Sequence[Charge]) -> tuple[Sequence[object], ...]:
    """The keys, costs, speeds and ceilings."""
    limits = [charge.limit for charge in charges]
    return (
        [_digest(charge.key) for charge in charges],
        [charge.cost for charge in charges],
        [limit.rate / limit.period for limit in limits],
        [limit.ceiling for limit in limits],
    )


def _spans(charges: Sequence[Charge]) -> Sequence[float]:
    return [charge.limit.seconds(charge.limit.burst) for charge in charges]


def _digest(key: RateKey) -> bytes:
    parts = [None if part is None else part.encode("utf-8", "surrogatepass") for part in key]
    return hashlib.sha256(msgspec.msgpack.encode(parts)).digest()


def _taken(charges: Sequence[Charge], levels: Sequence[float]) -> Taken:
    """What the schema's function has decided at these levels: it counts as `admit` does."""
    return admit(charges, [RateCell(level, 0.0) for level in levels], 0.0)
