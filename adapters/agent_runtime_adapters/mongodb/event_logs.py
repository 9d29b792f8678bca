"""Event logs in MongoDB."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from typing_extensions import Unpack

from agent_runtime import ConfigurationError, LogBounds, LoggedEvent, LogPage, Owner, Refusal
from agent_runtime_adapters.mongodb.database import (
    Clock,
    Collections,
    DatabaseOptions,
    Document,
    MongoDatabase,
    MongoStore,
)
from agent_runtime_adapters.mongodb.documents import owner_key
from agent_runtime_adapters.mongodb.steps import Expression, changed, decoded, lives, now, until

_ROOM = 15 << 20  # bytes of a document, which has 16 MiB at most
_EVENT = 16  # bytes that an event takes besides its own
_HIGHEST = (1 << 63) - 1
_MOST = (1 << 31) - 1


class MongoEventLog(MongoStore):
    """An `EventLog` in MongoDB, for any number of processes, which have the same `bounds`; `MongoDatabase` says the options.

    `clock` gives Unix seconds in the place of the server's own time.

    - Each log is one document, and each operation one step on it. `delete_all` removes one log after another.
    - An append takes the server time in proportion to what the log keeps. `bounds` above what fits into a document (15 MiB,
      with 16 bytes more for each event) are a `ConfigurationError`.
    - No log goes before its time. What has expired is removed by the server itself, soon after.
    """

    def __init__(
        self,
        database: str | MongoDatabase,
        /,
        *,
        bounds: LogBounds | None = None,
        clock: Clock | None = None,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        super().__init__(database, clock=clock, **options)
        self._bounds = bounds or LogBounds()
        if self._bounds.max_bytes + _EVENT * self._bounds.max_events > _ROOM:
            raise ConfigurationError(
                f"{self._bounds} is more than a document of MongoDB holds: max_bytes and {_EVENT} for each of max_events"
                f" may be {_ROOM} together"
            )

    async def append(
        self,
        owner: Owner,
        stream: str,
        events: Sequence[bytes],
        *,
        expected: int,
        ttl: float,
        operation: str,
        close: bool = False,
    ) -> int | Refusal:
        self._bounds.check(events)
        time = now(self._clock)
        wanted: Document = {"_id": _place(owner, stream)}
        steps = [_appended(self._bounds, events, min(expected, _HIGHEST), operation, close, until(time, ttl))]
        if expected:
            wanted["$expr"] = lives(time)
        else:
            steps.insert(0, {"$replaceWith": {"$cond": [lives(time), "$$ROOT", _NEW]}})

        steps += _bounded(self._bounds)
        found = await self.server.do(
            lambda at: changed(at["event_logs"], wanted, steps, "last", "closed", "operation", upsert=not expected),
            repeatable=True,
        )
        return Refusal.MISSING if found is None else decoded(found, _Log, "an event log").answer(operation)

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        pipeline = [
            {"$match": {"_id": _place(owner, stream), "$expr": lives(now(self._clock))}},
            {"$set": {"count": {"$size": "$events"}}},
            {"$set": {"passed": {"$max": [0, {"$add": ["$count", {"$subtract": [min(after, _HIGHEST), "$last"]}]}]}}},
            {
                "$project": {
                    "last": True,
                    "closed": True,
                    "count": True,
                    "events": _part("$events", {"$min": ["$passed", "$count"]}, min(limit, _MOST)),
                }
            },
        ]

        async def call(at: Collections) -> list[Document]:
            return await (await at["event_logs"].aggregate(pipeline)).to_list()

        found = await self.server.do(call, writes=False)
        return decoded(found[0], _Page, "an event log").page(after) if found else None

    async def delete(self, owner: Owner, stream: str) -> bool:
        return await self._delete({"_id": _place(owner, stream)}) > 0

    async def delete_all(self, owner: Owner) -> int:
        return await self._delete({"_id.owner": owner_key(owner)})

    async def _delete(self, wanted: Document) -> int:
        living = {**wanted, "$expr": lives(now(self._clock))}
        deleted = await self.server.do(lambda at: at["event_logs"].delete_many(living))
        return deleted.deleted_count


class _Log(msgspec.Struct, kw_only=True):
    """How a log stands after an append."""

    last: int
    closed: bool
    operation: str

    def answer(self, operation: str) -> int | Refusal:
        if self.operation == operation:
            return self.last
        return Refusal.CLOSED if self.closed else Refusal.CHANGED


class _Page(msgspec.Struct, kw_only=True):
    """How a log stands, and the events that were asked for."""

    last: int
    closed: bool
    count: int
    events: list[bytes]

    def page(self, after: int) -> LogPage:
        first = self.last - self.count + 1
        begin = max(first, after + 1)
        return LogPage(
            events=tuple(LoggedEvent(sequence=number, data=data) for number, data in enumerate(self.events, begin)),
            missed=max(0, first - after - 1),
            first=first,
            last=self.last,
            closed=self.closed,
        )


_NEW: Mapping[str, Expression] = {
    "_id": "$_id",
    "last": 0,
    "size": 0,
    "events": [],
    "closed": {"$literal": False},
    "operation": "",
}


def _appended(
    bounds: LogBounds,
    events: Sequence[bytes],
    expected: int,
    operation: str,
    close: bool,
    life: Mapping[str, Expression],
) -> Document:
    """The step that adds events where the log is as expected."""
    kept = list(bounds.newest(events))
    size = sum(map(len, kept))
    is_whole = len(kept) == len(events)  # otherwise nothing of what was there is kept
    grown = {
        "_id": "$_id",
        "last": {"$add": ["$last", len(events)]},
        "size": {"$add": ["$size", size]} if is_whole else size,
        "events": {"$concatArrays": ["$events", kept]} if is_whole else kept,
        "closed": {"$literal": close},
        "operation": {"$literal": operation},
        **life,
    }
    is_next = {
        "$and": [{"$eq": ["$last", expected]}, {"$not": "$closed"}, {"$ne": ["$operation", {"$literal": operation}]}]
    }
    return {"$replaceWith": {"$cond": [is_next, grown, "$$ROOT"]}}


def _bounded(bounds: LogBounds) -> Sequence[Document]:
    """The steps that drop the oldest events until the others are within the bounds."""
    left = {"count": {"$size": "$events"}, "size": "$size"}

    def is_above(count: Expression, size: Expression) -> Expression:
        return {"$or": [{"$gt": [count, bounds.max_events]}, {"$gt": [size, bounds.max_bytes]}]}

    dropped = {
        "count": {"$subtract": ["$$value.count", 1]},
        "size": {"$subtract": ["$$value.size", {"$binarySize": "$$this"}]},
    }
    less = {"$cond": [is_above("$$value.count", "$$value.size"), dropped, "$$value"]}
    reduced = {"$reduce": {"input": "$events", "initialValue": left, "in": less}}
    return (
        {"$set": {"left": {"$cond": [is_above({"$size": "$events"}, "$size"), reduced, left]}}},
        {"$set": {"size": "$left.size", "events": {"$slice": ["$events", {"$subtract": [0, "$left.count"]}]}}},
        {"$unset": "left"},
    )


def _part(array: str, begin: Expression, count: int) -> Expression:
    """So many items; `$slice` takes no 0."""
    return {"$slice": [array, begin, count]} if count else {"$literal": []}


def _place(owner: Owner, stream: str) -> Mapping[str, Any]:
    return {"owner": owner_key(owner), "stream": stream}
