"""Rate limits counted in MongoDB."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.read_concern import ReadConcern

from agent_runtime import (
    Charge,
    ConfigurationError,
    RateCell,
    RateKey,
    RateLimit,
    Settlement,
    Taken,
    admit,
    check_charges,
)
from agent_runtime_adapters.mongodb.database import Collections, Document, MongoStore
from agent_runtime_adapters.mongodb.steps import LONGEST, Expression, decoded, now

T = TypeVar("T")

_SOON = 60_000  # milliseconds that an empty cell is kept for the charge that it is made for
_SNAPSHOT = ReadConcern("snapshot")


class MongoRateLimitStore(MongoStore):
    """A `RateLimitStore` in MongoDB, for any number of processes; `MongoDatabase` says what the options are.

    `clock` gives Unix seconds in the place of the server's own time.

    - Each key is one document, and one charge is one step on it, refused or not; the first charge of a key takes three.
    - Several charges in one call are looked at first, and taken in a transaction if they fit: it needs a replica set or a
      sharded cluster. A standalone server has no transactions; there `take` and `settle` of several are a
      `ConfigurationError`.
    - A key whose burst is whole again is removed by the server itself, soon after.
    """

    async def take(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        if len(charges) == 1:
            taken = _Step(charges[0])
            cell = await self.server.do(lambda at: taken.made(at, now(self._clock)))
            return admit(charges, (cell,), cell.at)
        return await self.server.do(lambda at: self._take_together(at, charges))

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        return admit(charges, *await self.server.do(lambda at: self._cells(at, charges), writes=False))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        steps = [_Step(settlement.charge, settlement.used) for settlement in settlements]
        if len(steps) == 1:
            await self.server.do(lambda at: steps[0].made(at, now(self._clock)))
        else:
            await self.server.do(lambda at: self._settle_together(at, steps))

    async def _cells(self, at: Collections, charges: Sequence[Charge]) -> tuple[Sequence[RateCell], float]:
        """The cells as they are, and the time."""
        pipeline = [
            {"$match": {"_id": {"$in": [_place(charge.key) for charge in charges]}}},
            {"$project": {"level": True, "at": True, "now": now(self._clock)}},
        ]
        found = {
            document["_id"]: decoded(document, _Seen, "a rate limit")
            async for document in await at["rate_limits"].aggregate(pipeline)
        }
        time = next((seen.now for seen in found.values()), 0.0)
        new = _Seen(level=0.0, at=time, now=time)
        seen = [found.get(_place(charge.key), new) for charge in charges]
        return [RateCell(one.level, one.at) for one in seen], time

    async def _take_together(self, at: Collections, charges: Sequence[Charge]) -> Taken:
        cells, time = await self._cells(at, charges)
        is_ahead = any(cell.at > time for cell in cells)  # the clock stepped back, and this is to be kept
        taken = admit(charges, cells, time)
        if not charges or not (taken.allowed or is_ahead):
            return taken

        async def job(session: AsyncClientSession) -> Taken:
            time, cells = now(self._clock), dict[RateKey, RateCell]()
            for charge in sorted(charges, key=lambda charge: _place(charge.key)):
                cell = cells[charge.key] = await _Step(charge).made(at, time, session)
                time = cell.at  # one for all
            taken = admit(charges, [cells[charge.key] for charge in charges], time)
            if not taken.allowed:
                await session.abort_transaction()
            return taken

        return await _together(at, job)

    async def _settle_together(self, at: Collections, steps: Sequence["_Step"]) -> None:
        async def job(session: AsyncClientSession) -> None:
            time = now(self._clock)
            for step in sorted(steps, key=lambda step: step.place):
                time = (await step.made(at, time, session)).at

        if steps:
            await _together(at, job)


async def _together(at: Collections, job: Callable[[AsyncClientSession], Coroutine[Any, Any, T]]) -> T:
    """Have the job done in a transaction; again, where others wrote the same."""
    if at.read_concern.level is None:
        raise ConfigurationError(
            "a standalone MongoDB has no transactions, which several charges in one call need: make it a replica set (of one"
            " server, at least), or charge one limit in each call"
        )
    async with at.client.start_session() as session:
        return await session.with_transaction(job, read_concern=_SNAPSHOT, write_concern=at.write_concern)


async def _begin(at: Collections, place: bytes, time: Expression, session: AsyncClientSession | None) -> None:
    """Make an empty cell where there is none. Nobody is told by an upsert what it found where many make the same."""
    empty = {"level": {"$ifNull": ["$level", 0.0]}, "at": {"$ifNull": ["$at", time]}}
    soon = {"purge_at": {"$ifNull": ["$purge_at", {"$add": ["$$NOW", _SOON]}]}}
    await at["rate_limits"].update_one({"_id": place}, [{"$set": {**empty, **soon}}], upsert=True, session=session)


class _Step:
    """The change of one cell: its charge is taken if it fits, or settled to what was `used`."""

    def __init__(self, charge: Charge, used: float | None = None) -> None:
        self.place = _place(charge.key)
        self._charge = charge
        self._used = used

    async def made(self, at: Collections, time: Expression, session: AsyncClientSession | None = None) -> RateCell:
        """Make it; the cell as it was before, at the time of the step."""
        while (found := await self._found(at, time, session)) is None:
            await _begin(at, self.place, time, session)
        cell = decoded(found, _Before, "a rate limit")
        return RateCell(cell.before, cell.at)

    async def _found(self, at: Collections, time: Expression, session: AsyncClientSession | None) -> Document | None:
        limit = self._charge.limit
        found: Document | None = await at["rate_limits"].find_one_and_update(
            {"_id": self.place},
            [
                {"$set": {"before": _drained(limit, time), "at": time}},
                {"$set": {"level": self._level()}},
                {"$set": {"purge_at": _empty_at(limit)}},
            ],
            projection={"before": True, "at": True},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return found

    def _level(self) -> Expression:
        if self._used is not None:
            settled = {"$subtract": [{"$add": ["$before", float(self._used)]}, float(self._charge.cost)]}
            return {"$max": [0.0, settled]}
        level = {"$add": ["$before", float(self._charge.cost)]}
        return {"$cond": [{"$lte": [level, self._charge.limit.ceiling]}, level, "$before"]}


class _Seen(msgspec.Struct, kw_only=True):
    """A cell, and the time when it was seen."""

    level: float
    at: float
    now: float


class _Before(msgspec.Struct, kw_only=True):
    """A cell after a step: what it was before, at the time of the step."""

    before: float
    at: float


def _drained(limit: RateLimit, time: Expression) -> Expression:
    """What `RateCell.drain` makes of the level."""
    passed = {"$divide": [{"$multiply": [{"$subtract": [time, "$at"]}, float(limit.rate)]}, float(limit.period)]}
    left = {"$max": [0.0, {"$subtract": ["$level", passed]}]}
    return {"$cond": [{"$gt": [time, "$at"]}, left, "$level"]}


def _empty_at(limit: RateLimit) -> Expression:
    """When the server removes a cell: then its burst is whole, by the server's own time."""
    milliseconds = limit.seconds(limit.burst) * 1_000
    left = {"$ceil": {"$multiply": [{"$divide": ["$level", float(limit.burst)]}, milliseconds]}}
    return {"$add": ["$$NOW", {"$toLong": {"$min": [left, LONGEST]}}]}


def _place(key: RateKey) -> bytes:
    """One key's bytes, and no other's."""
    return msgspec.msgpack.encode([None if part is None else part.encode("utf-8", "surrogatepass") for part in key])
