"""Sessions whose time is up are removed and told of, each by one.

Who removes some claims them first, all in one document, so that nobody else does. One who dies in between leaves his claim
for a while; then they are another's.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError, PyMongoError

from agent_runtime import ExpiredSession, OutcomeUnknown, StoreUnavailable
from agent_runtime_adapters.mongodb.database import Collections, Document, MongoDatabase
from agent_runtime_adapters.mongodb.documents import owner_of
from agent_runtime_adapters.mongodb.moments import Moments, pause
from agent_runtime_adapters.mongodb.owners import remove_parts

_AT_ONCE = 1_000
_IN_ONE_CALL = 200
_ABANDONED = 60.0  # seconds
_CLAIMS = {"_id": "expired"}
_TOLD = {"owner": 1, "session_id": 1, "agent_id": 1, "message_count": 1, "checkpoints": 1, "runs_begun": 1}


async def expire(server: MongoDatabase, moments: Moments) -> Sequence[ExpiredSession]:
    """In several calls, so that each ends within the timeout. What is removed before one fails is told of."""
    told: list[ExpiredSession] = []
    while len(told) < _AT_ONCE:
        try:
            some = await server.do(lambda found: _some(found, moments))
        except (StoreUnavailable, OutcomeUnknown):
            if not told:
                raise
            break
        told += some
        if len(some) < _IN_ONE_CALL:
            break
    return told


async def _some(collections: Collections, moments: Moments) -> Sequence[ExpiredSession]:
    async with moments.turn("expired"):
        now = await moments.now(collections)
        claim = str(ObjectId())
        mine = await _claimed(collections, now, claim)
        if not mine:
            return ()
        await collections["sessions"].delete_many({"_id": {"$in": list(mine)}, "expires_at": {"$lte": now}})
        async for prolonged in collections["sessions"].find({"_id": {"$in": list(mine)}}, {"_id": 1}):
            del mine[prolonged["_id"]]  # by one who has seen it when it lived, in the same moment
    with suppress(PyMongoError):  # they are removed; what is left is for the server, in time
        over = {"$pull": {"claims": {"by": claim}}, "$inc": {"revision": 1}}  # who has read it does not write it again
        await collections["counters"].update_one(_CLAIMS, over)
    await remove_parts(collections, [session for session, document in mine.items() if _has_parts(document)])
    return [
        ExpiredSession(
            owner=owner_of(document["owner"]), session_id=document["session_id"], agent_id=document["agent_id"]
        )
        for document in mine.values()
    ]


async def _claimed(collections: Collections, now: float, claim: str) -> dict[str, Document]:
    """Some that nobody else has claimed, by their id."""
    attempt = 0
    while True:
        revision, others = await _claims(collections, now)
        taken = [session for other in others for session in other["sessions"]]
        which: Document = {"expires_at": {"$lte": now}, **({"_id": {"$nin": taken}} if taken else {})}
        found = await collections["sessions"].find(which, _TOLD).limit(_IN_ONE_CALL).to_list()
        mine = {document["_id"]: document for document in found}
        if not mine:
            return mine
        ours = {"by": claim, "until": now + _ABANDONED, "sessions": list(mine)}
        if await _claim(collections, revision, [*others, ours]):
            return mine
        await pause(attempt)
        attempt += 1


async def _claims(collections: Collections, now: float) -> tuple[int, list[Document]]:
    found = await collections["counters"].find_one(_CLAIMS)
    if found is None:
        return 0, []
    return int(found["revision"]), [claim for claim in found["claims"] if claim["until"] > now]


async def _claim(collections: Collections, revision: int, claims: Sequence[Mapping[str, Any]]) -> bool:
    """Whether nobody else has claimed any since."""
    change = {"$set": {"revision": revision + 1, "claims": claims}}
    try:
        done = await collections["counters"].update_one({**_CLAIMS, "revision": revision}, change, upsert=not revision)
    except DuplicateKeyError:
        return False
    return bool(done.matched_count or done.upserted_id)


def _has_parts(document: Document) -> bool:
    return bool(document["message_count"] or document["checkpoints"] or document["runs_begun"])
