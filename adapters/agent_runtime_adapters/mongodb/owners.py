"""What concerns all sessions of an owner, and how one is removed."""

import itertools
from collections.abc import Sequence
from contextlib import suppress

from pymongo.errors import PyMongoError

from agent_runtime import Owner, StoredSession
from agent_runtime_adapters.mongodb.database import Collections, Document
from agent_runtime_adapters.mongodb.documents import owner_key, session_name, session_of
from agent_runtime_adapters.mongodb.moments import Moments, pause

_SHOWN = {"pending": 0, "runs": 0, "writes": 0}  # what a list of sessions is without


async def sessions(collections: Collections, moments: Moments, owner: Owner) -> Sequence[StoredSession]:
    """As they were at one moment."""
    now = await moments.now(collections)
    has_snapshots = collections.read_concern.level == "majority"
    found = await (_in_a_snapshot if has_snapshots else _twice_alike)(collections, _living(owner, now))
    return [session_of(document).stored(now) for document in found]


async def _in_a_snapshot(collections: Collections, which: Document) -> list[Document]:
    async with collections.client.start_session(snapshot=True) as session:
        return await collections["sessions"].find(which, _SHOWN, session=session).to_list()


async def _twice_alike(collections: Collections, which: Document) -> list[Document]:
    """They are read until two readings are alike: then it was so at a moment in between."""
    seen: dict[str, int] | None = None
    for attempt in itertools.count():
        found = await collections["sessions"].find(which, _SHOWN).to_list()
        last, seen = seen, {document["_id"]: document["revision"] for document in found}
        if seen == last or len(seen) < 2:
            return found
        if last is not None:
            await pause(attempt)
    raise AssertionError("counting ends")


async def count(collections: Collections, moments: Moments, owner: Owner) -> int:
    now = await moments.now(collections)
    return await collections["sessions"].count_documents(_living(owner, now))


async def delete(collections: Collections, moments: Moments, owner: Owner, session_id: str) -> bool:
    """The document first, which is all that anybody sees."""
    name = session_name(owner, session_id)
    async with moments.turn(name):
        await _remove(collections, {**_waiting(owner), "wanted.name": name})
        attempt = 0
        while (session := (await moments.look(collections, name)).session) is not None:
            done = await collections["sessions"].delete_one({"_id": session.id, "revision": session.revision})
            if done.deleted_count:
                await remove_parts(collections, [session.id])
                return True
            await pause(attempt)
            attempt += 1
    return False


async def delete_all(collections: Collections, moments: Moments, owner: Owner, agent_id: str | None) -> int:
    now = await moments.now(collections)
    agent = {} if agent_id is None else {"agent_id": agent_id}
    await _remove(collections, {**_waiting(owner), **agent})
    return await _remove(collections, {**_living(owner, now), **agent})


async def _remove(collections: Collections, which: Document) -> int:
    """These, with their parts; one that is another's meanwhile keeps its own."""
    sessions = collections["sessions"]
    found = await sessions.distinct("_id", which)
    if not found:
        return 0
    done = await sessions.delete_many({**which, "_id": {"$in": found}})
    with suppress(PyMongoError):
        left = set(await sessions.distinct("_id", {"_id": {"$in": found}}))
        await remove_parts(collections, [session for session in found if session not in left])
    return done.deleted_count


def _waiting(owner: Owner) -> Document:
    """Those that have not gone through the gate; of one who died there, somebody else might let it in later."""
    return {"owner": owner_key(owner), "expires_at": None, "wanted": {"$exists": True}}


def _living(owner: Owner, now: float) -> Document:
    return {"owner": owner_key(owner), "expires_at": {"$gt": now}}


async def remove_parts(collections: Collections, sessions: Sequence[str]) -> None:
    """Of sessions that are gone. What is left of them in an outage, the server removes in time."""
    if not sessions:
        return
    with suppress(PyMongoError):
        await collections["session_parts"].delete_many({"session": {"$in": sessions}})
