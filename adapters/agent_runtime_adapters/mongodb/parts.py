"""The parts of a session: its conversation, its checkpoints, the entries of its runs."""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from agent_runtime import CorruptRecord, Message, MessageBatch, StoredCheckpoint
from agent_runtime_adapters.mongodb.database import Collections
from agent_runtime_adapters.mongodb.documents import (
    Part,
    RunDocument,
    SessionDocument,
    checkpoint_place,
    entry_place,
    message_count_at,
    message_place,
    part_of,
)
from agent_runtime_adapters.mongodb.moments import Moment

_LIVING = {"gone": {"$exists": False}}


async def conversation(moment: Moment, session: SessionDocument, last: int | None) -> Sequence[Message]:
    """All messages, or the last so many, of which only the batches that they are in are read."""
    begin = 0 if last is None else max(0, session.message_count - last)
    messages: list[Message] = []
    for part in await batches(moment.collections, session, begin, session.message_count):
        messages += MessageBatch.stored(part.data)
    there = session.message_count - len(messages)
    if not 0 <= there <= begin:
        raise CorruptRecord("a conversation is damaged: it is shorter or longer than it was")
    return messages[begin - there :]


async def batches(collections: Collections, session: SessionDocument, begin: int, end: int) -> Sequence[Part]:
    """Those in which the messages after `begin` are, up to `end`."""
    if begin == end:
        return ()
    places = {"$gt": message_place(begin), "$lte": message_place(session.message_count)}
    found: list[Part] = []
    there = begin
    async for document in collections["session_parts"].find(_at(session, places)).sort("place", ASCENDING):
        part = part_of(document)
        first = message_count_at(part.place) - part.count
        if first > there or (found and first < there):
            break
        found.append(part)
        there = message_count_at(part.place)
        if there >= end:
            return found
    raise CorruptRecord("a conversation is damaged: a part is missing")


async def find_checkpoint(moment: Moment, session: SessionDocument) -> Part | None:
    """The one that was looked for by its key."""
    places = [place for place in moment.known if place > checkpoint_place(session.cleared)]
    part = await moment.part(max(places)) if places else None
    return None if part is None or part.gone else part


async def load_checkpoints(moment: Moment, session: SessionDocument, last: int | None) -> Sequence[StoredCheckpoint]:
    """All, or the last so many, the last first."""
    if last == 0:
        return ()
    parts = moment.collections["session_parts"]
    found = parts.find(_checkpoints(session)).sort("place", DESCENDING).limit(last or 0)
    return [part_of(document).checkpoint() async for document in found]


async def delete_checkpoint(moment: Moment, session: SessionDocument) -> int:
    """Remove the one that was looked for. Its place stays taken: who was late to put it there comes too late."""
    part = await find_checkpoint(moment, session)
    if part is None:
        return 0
    done = await moment.collections["session_parts"].update_one(
        {"_id": part.id, **_LIVING}, {"$set": {"gone": True}, "$unset": {"key": "", "data": ""}}
    )
    return done.modified_count


async def clear_checkpoints(moment: Moment, session: SessionDocument) -> int:
    """Remove all: none is seen any more that was there when the session is saved."""
    count = await moment.collections["session_parts"].count_documents(_checkpoints(session))
    if count:
        moment.forget(checkpoint_place(session.cleared + 1), checkpoint_place(session.checkpoints))
        session.cleared = session.checkpoints
        moment.save()
    return count


async def load_entries(moment: Moment, session: SessionDocument, run: RunDocument) -> Sequence[bytes]:
    places = {"$gte": entry_place(run.sequence, 1), "$lte": entry_place(run.sequence, run.entry_count)}
    found = moment.collections["session_parts"].find(_at(session, places)).sort("place", ASCENDING)
    entries = [part_of(document).data async for document in found]
    if len(entries) != run.entry_count:
        raise CorruptRecord("a run is damaged: it has fewer entries than it had")
    return entries


def _checkpoints(session: SessionDocument) -> dict[str, Any]:
    places = {"$gt": checkpoint_place(session.cleared), "$lte": checkpoint_place(session.checkpoints)}
    return {**_at(session, places), **_LIVING}


def _at(session: SessionDocument, places: dict[str, str]) -> dict[str, Any]:
    return {"session": session.id, "place": places}
