"""A session as it is for one operation at one moment, and the one step in which the operation is done."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from pymongo.errors import DuplicateKeyError, PyMongoError

from agent_runtime import CorruptRecord
from agent_runtime_adapters.mongodb.database import Clock, Collections
from agent_runtime_adapters.mongodb.documents import (
    DAY,
    GRACE,
    Part,
    SessionDocument,
    date,
    encoded,
    part_of,
    session_of,
)

T = TypeVar("T")

_PAUSE = 0.002  # seconds, doubled with each attempt that came too late
_LONGEST_PAUSE = 0.05
_FAR = 1 << 62

SERVER_TIME = {"$toLong": "$$NOW"}
"""An expression for the server's time, in Unix milliseconds."""


class Moment:
    """A session, `None` when there is none that lives, and the time. What is done to it is there when it is saved.

    `known` are the places of the parts with the key that was asked for. `name` is also that of one whose time is up.
    """

    def __init__(self, collections: Collections, found: dict[str, Any] | None, now: float, known: list[str]) -> None:
        self.collections = collections
        self.now = now
        self.known = known
        self.there = None if found is None else session_of(found)
        self.session = self.there if self.there is not None and self.there.expires_at > now else None
        self._found = found or {}
        self._obsolete: list[tuple[str, str]] = []
        self._changed = False

    async def complete(self, key: str, *, is_settled: bool) -> None:
        """Put the last part in its place where it is not, and know it by its key."""
        pending = None if self.session is None else self.session.pending
        if pending is None:
            return
        if not is_settled:
            await put(self.collections, pending)
        if key and pending.key == pending.session + key and pending.place not in self.known:
            self.known.append(pending.place)

    def is_as(self, other: "Moment") -> bool:
        """Whether nobody has changed the session in between."""
        mine, its = self.session, other.session
        return mine is not None and its is not None and (mine.id, mine.revision) == (its.id, its.revision)

    def save(self, part: Part | None = None) -> None:
        """Have the session be as it is now, and with a new part."""
        assert self.session is not None
        self.session.pending = part
        self._changed = True

    def forget(self, begin: str, end: str) -> None:
        """Remove the parts from one place to another, which nobody sees any more when the session is saved."""
        self._obsolete.append((begin, end))

    async def part(self, place: str) -> Part:
        """The part that the session has in this place."""
        assert self.session is not None
        found = await self.collections["session_parts"].find_one({"_id": self.session.id + place})
        if found is None:
            raise CorruptRecord("a session is damaged: a part of it is missing")
        return part_of(found)

    async def settle(self) -> bool:
        """Do what is to be saved in one step; false, and nothing is done, when somebody else was quicker."""
        if not self._changed:
            return True
        assert self.session is not None
        await self._keep_parts(self.session)
        document = {**encoded(self.session), "revision": self.session.revision + 1}
        changes = {field: value for field, value in document.items() if self._found.get(field) != value}
        done = await self.collections["sessions"].update_one(
            {"_id": self.session.id, "revision": self.session.revision}, {"$set": changes}
        )
        if not done.matched_count:
            return False
        with suppress(PyMongoError):  # it is done; the rest is done by who comes next, or by the server in time
            await self._tidy(self.session)
        return True

    async def _keep_parts(self, session: SessionDocument) -> None:
        """Have nothing be removed before its time. This concerns all parts, and so looks at least a day ahead."""
        left = max(session.expires_at - self.now, 0) * 1_000
        due = self._found["server_time"] + left + GRACE
        session.purge_at = date(due)
        if due <= session.parts_until:
            return
        session.parts_until = kept_until(due, left)
        if session.pending is not None:
            session.pending.purge_at = date(session.parts_until)
        await self.collections["session_parts"].update_many(
            {"session": session.id}, {"$set": {"purge_at": date(session.parts_until)}}
        )

    async def _tidy(self, session: SessionDocument) -> None:
        if session.pending is not None:
            await put(self.collections, session.pending)
        for begin, end in self._obsolete:
            await self.collections["session_parts"].delete_many(
                {"session": session.id, "place": {"$gte": begin, "$lte": end}}
            )


class Moments:
    """The sessions of a database, for one store. `clock` gives the time in the place of the server's."""

    def __init__(self, clock: Clock | None) -> None:
        self.clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def now(self, collections: Collections) -> float:
        """The time, in Unix seconds."""
        if self.clock is not None:
            return self.clock()
        hello = await collections.client.admin.command("hello")
        moment: datetime = hello["localTime"]
        return moment.timestamp()

    def time(self, server_time: int) -> float:
        return server_time / 1_000 if self.clock is None else self.clock()

    async def look(self, collections: Collections, name: str, key: str = "") -> Moment:
        """The session as it is, all of it in its place, with the parts whose key is `key` and the session's id.

        The key is looked for after the session was read: what was added in between has changed the session.
        """
        pipeline: list[dict[str, Any]] = [
            {"$match": {"name": name}},
            {"$set": {"server_time": SERVER_TIME, "key": {"$concat": ["$_id", key]}}},
            _found_by("pending._id", "_id", "settled"),
        ]
        if key:
            pipeline.append(_found_by("key", "key", "known"))
        found = [document async for document in await collections["sessions"].aggregate(pipeline)]
        if not found:
            return Moment(collections, None, 0.0, [])
        [document] = found
        known = [part["place"] for part in document.get("known", ())]
        moment = Moment(collections, document, self.time(document["server_time"]), known)
        await moment.complete(key, is_settled=bool(document["settled"]))
        return moment

    async def do(self, collections: Collections, name: str, job: Callable[[Moment], Awaitable[T]], key: str = "") -> T:
        """Have `job(moment)` done as one step; it is done again when somebody else has changed the session meanwhile.

        A job that only reads saves nothing. It may find a part missing that was there a moment before.
        """
        moment = await self.look(collections, name, key)
        for attempt in itertools.count():
            try:
                outcome = await job(moment)
                if await moment.settle():
                    return outcome
            except CorruptRecord:
                last, moment = moment, await self.look(collections, name, key)
                if moment.is_as(last):
                    raise
                continue
            await pause(attempt)
            moment = await self.look(collections, name, key)
        raise AssertionError("counting ends")

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncGenerator[None]:
        """Those of this process take turns, so that only other processes come in between."""
        lock = self._turns.setdefault(name, asyncio.Lock())
        async with lock:
            yield


async def pause(attempt: int) -> None:
    """For a moment, and longer for each attempt that came too late. The timeout of the call is around them all."""
    await anyio.sleep(random.uniform(0, min(_PAUSE * 2 ** min(attempt, 10), _LONGEST_PAUSE)))


async def put(collections: Collections, part: Part) -> None:
    """Have the part be in its place. It may be there already, or have been and be gone."""
    with suppress(DuplicateKeyError):
        await collections["session_parts"].insert_one(encoded(part))


def kept_until(due: float, left: float) -> int:
    """Until when parts are kept that are needed until `due`, all in milliseconds: so that it is seldom set again."""
    return int(min(due + max(left, DAY), _FAR))


def _found_by(local: str, foreign: str, name: str) -> dict[str, Any]:
    """A stage that adds the places of the parts in which this field is equal."""
    return {
        "$lookup": {
            "from": "session_parts",
            "localField": local,
            "foreignField": foreign,
            "pipeline": [{"$project": {"place": 1}}],
            "as": name,
        }
    }
