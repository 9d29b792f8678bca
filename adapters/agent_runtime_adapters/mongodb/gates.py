"""Limits on the number of sessions: who wants to begin one goes through a gate, one after another.

A session that waits has no name, so that nobody sees it. The gate names the one that may go in next; whoever comes to the
gate lets that one in before he counts, so that none is in between.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pymongo.errors import DuplicateKeyError

from agent_runtime import Refusal, SessionQuota, StoredSession
from agent_runtime_adapters.mongodb.database import Collections
from agent_runtime_adapters.mongodb.documents import SessionDocument, encoded
from agent_runtime_adapters.mongodb.moments import pause

_WAITS = {"wanted": {"$exists": True}}


def gate_of(quota: SessionQuota, owner: str) -> str | None:
    """The one gate of all where their number is limited, otherwise the owner's; `None` without limits."""
    if quota.max_sessions is not None:
        return "all"
    return None if quota.max_sessions_per_user is None else f"owner {owner}"


async def admit(
    collections: Collections,
    gate: str,
    quota: SessionQuota,
    document: SessionDocument,
    now: float,
    there: Callable[[], Awaitable[StoredSession | Refusal | None]],
) -> StoredSession | Refusal | None:
    """Have the session be there, or say what is there, or that there is no room."""
    sessions = collections["sessions"]
    waiting = encoded(document)
    wanted = {field: waiting.pop(field) for field in ("name", "expires_at")}
    await sessions.insert_one({**waiting, "wanted": wanted})
    attempt = 0
    while True:
        revision = await _let_in(collections, gate)
        refused = await there() or await _no_room(collections, quota, document.owner, now)
        if refused is not None:
            left = await sessions.delete_one({"_id": document.id, **_WAITS})
            return refused if left.deleted_count else None  # somebody has let it in meanwhile
        if await _name_next(collections, gate, revision, document) and await _enter(collections, document.id, wanted):
            return None
        await pause(attempt)
        attempt += 1


async def _let_in(collections: Collections, gate: str) -> int:
    """Let in who was named last, and return the gate's revision."""
    found = await collections["session_gates"].find_one({"_id": gate})
    if found is None:
        return 0
    named = await collections["sessions"].find_one({"_id": found["next"], **_WAITS}, {"wanted": 1})
    if named is not None:
        await _enter(collections, named["_id"], named["wanted"])
    return int(found["revision"])


async def _name_next(collections: Collections, gate: str, revision: int, document: SessionDocument) -> bool:
    """Whether nobody else has named his since."""
    change = {"revision": revision + 1, "next": document.id, "purge_at": document.purge_at}
    try:
        done = await collections["session_gates"].update_one(
            {"_id": gate, "revision": revision}, {"$set": change}, upsert=not revision
        )
    except DuplicateKeyError:
        return False
    return bool(done.matched_count or done.upserted_id)


async def _enter(collections: Collections, session: str, wanted: Mapping[str, Any]) -> bool:
    """Give the session its name, if it waits for it; false when another has that name."""
    try:
        await collections["sessions"].update_one({"_id": session, **_WAITS}, {"$set": wanted, "$unset": {"wanted": ""}})
    except DuplicateKeyError:
        return False
    return True


async def _no_room(collections: Collections, quota: SessionQuota, owner: str, now: float) -> Refusal | None:
    if await _is_reached(collections, quota.max_sessions, {"expires_at": {"$gt": now}}):
        return Refusal.FULL
    if await _is_reached(collections, quota.max_sessions_per_user, {"owner": owner, "expires_at": {"$gt": now}}):
        return Refusal.OWNER_FULL
    return None


async def _is_reached(collections: Collections, limit: int | None, which: Mapping[str, Any]) -> bool:
    if not limit:
        return limit is not None
    return await collections["sessions"].count_documents(which, limit=limit) >= limit
