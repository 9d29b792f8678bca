"""The cells of rate limits: one document each, looked at, and changed as `RateCell` changes."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.read_concern import ReadConcern

from agent_runtime import Charge, ConfigurationError, RateCell, RateKey, RateLimit, Settlement
from agent_runtime_adapters.mongodb.database import Collections, Document
from agent_runtime_adapters.mongodb.steps import LONGEST, Expression, decoded

T = TypeVar("T")

_SNAPSHOT = ReadConcern("snapshot")
_SOON = 60_000  # milliseconds that an empty cell is kept for the charge that it is made for


class _Seen(msgspec.Struct, kw_only=True):
    """A cell, and the time when it was seen."""

    level: float
    at: float
    now: float


class _Before(msgspec.Struct, kw_only=True):
    """A cell after a step: what it was before, at the time of the step."""

    before: float
    at: float


class Step:
    """A change of one cell, whose limit is `limit`."""

    def __init__(self, key: RateKey, limit: RateLimit, level: Expression) -> None:
        self.place = place_of(key)
        self._limit = limit
        self._level = level

    async def made(self, at: Collections, time: Expression, session: AsyncClientSession | None = None) -> RateCell:
        """Make it; the cell as it was before, at the time of the step."""
        while (found := await self._found(at, time, session)) is None:
            await _begin(at, self.place, time, session)
        cell = decoded(found, _Before, "a rate limit")
        return RateCell(cell.before, cell.at)

    async def _found(self, at: Collections, time: Expression, session: AsyncClientSession | None) -> Document | None:
        found: Document | None = await at["rate_limits"].find_one_and_update(
            {"_id": self.place},
            [
                {"$set": {"before": _drained(self._limit, time), "at": time}},
                {"$set": {"level": self._level}},
                {"$set": {"purge_at": _empty_at(self._limit)}},
            ],
            projection={"before": True, "at": True},
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        return found


def taking(charges: Sequence[Charge]) -> Step:
    """Takes charges of one key and limit, one after the other, each if it fits."""
    limit = charges[0].limit
    sum_ = {"$add": ["$$value", "$$this"]}
    fitting = {"$cond": [{"$lte": [sum_, limit.ceiling]}, sum_, "$$value"]}
    costs = [float(charge.cost) for charge in charges]
    return Step(charges[0].key, limit, {"$reduce": {"input": costs, "initialValue": "$before", "in": fitting}})


def settling(settlement: Settlement) -> Step:
    charge = settlement.charge
    level = {"$subtract": [{"$add": ["$before", float(settlement.used)]}, float(charge.cost)]}
    return Step(charge.key, charge.limit, {"$max": [0.0, level]})


async def seen(at: Collections, charges: Sequence[Charge], time: Expression) -> tuple[Sequence[RateCell], float]:
    """The cells as they are, and the time."""
    places = [place_of(charge.key) for charge in charges]
    pipeline = [
        {"$match": {"_id": {"$in": places}}},
        {"$project": {"level": True, "at": True, "now": time}},
    ]
    found = {
        document["_id"]: decoded(document, _Seen, "a rate limit")
        async for document in await at["rate_limits"].aggregate(pipeline)
    }
    now = next((cell.now for cell in found.values()), 0.0)
    new = _Seen(level=0.0, at=now, now=now)
    cells = [found.get(place, new) for place in places]
    return [RateCell(cell.level, cell.at) for cell in cells], now


async def together(at: Collections, job: Callable[[AsyncClientSession], Coroutine[Any, Any, T]]) -> T:
    """Have the job done in a transaction; again, where others wrote the same. Raises `ConfigurationError` without any."""
    if at.read_concern.level is None:
        raise ConfigurationError(
            "a standalone MongoDB has no transactions, which several charges in one call need: make it a replica set (of one"
            " server, at least), or charge one limit in each call"
        )
    async with at.client.start_session() as session:
        return await session.with_transaction(job, read_concern=_SNAPSHOT, write_concern=at.write_concern)


def place_of(key: RateKey) -> bytes:
    """One key's bytes, and no other's."""
    return msgspec.msgpack.encode([None if part is None else part.encode("utf-8", "surrogatepass") for part in key])


async def _begin(at: Collections, place: bytes, time: Expression, session: AsyncClientSession | None) -> None:
    """Make an empty cell where there is none: an upsert would not tell everybody what it found, where many make the same."""
    empty = {"level": {"$ifNull": ["$level", 0.0]}, "at": {"$ifNull": ["$at", time]}}
    soon = {"purge_at": {"$ifNull": ["$purge_at", {"$add": ["$$NOW", _SOON]}]}}
    await at["rate_limits"].update_one({"_id": place}, [{"$set": {**empty, **soon}}], upsert=True, session=session)


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
