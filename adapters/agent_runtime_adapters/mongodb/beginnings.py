"""How a session begins: empty, with content, or as a fork of another."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from agent_runtime import (
    MessageBatch,
    Owner,
    Refusal,
    SessionContent,
    SessionFields,
    SessionQuota,
    StoredSession,
)
from agent_runtime_adapters.mongodb.database import Collections
from agent_runtime_adapters.mongodb.documents import (
    GRACE,
    Part,
    SessionDocument,
    date,
    encoded,
    owner_key,
    session_name,
)
from agent_runtime_adapters.mongodb.gates import admit, gate_of
from agent_runtime_adapters.mongodb.moments import SERVER_TIME, Moment, Moments, kept_until, pause
from agent_runtime_adapters.mongodb.owners import remove_parts
from agent_runtime_adapters.mongodb.parts import batches, find_checkpoint

_FENCES = 1 << 24  # that a session may give before those of the next one begin; so there may be 2 ** 39 sessions
_LARGEST = 8 << 20  # bytes of messages in a document, which may have 16 MB with what belongs to it


class Beginning:
    """A session that somebody asks for. What belongs to it is written first, which nobody sees; then its document."""

    def __init__(
        self,
        collections: Collections,
        moments: Moments,
        owner: Owner,
        session_id: str,
        quota: SessionQuota,
        operation: str,
    ) -> None:
        self.collections = collections
        self.moments = moments
        self.owner = owner
        self.session_id = session_id
        self.name = session_name(owner, session_id)
        self.quota = quota
        self.operation = operation

    async def there(self) -> StoredSession | Refusal | None:
        """What is under the name: the session where this operation has made it. One whose time is up makes way."""
        moment = await self.moments.look(self.collections, self.name)
        if moment.session is not None:
            is_ours = moment.session.operation == self.operation
            return moment.session.stored(moment.now) if is_ours else Refusal.EXISTS
        if moment.there is not None:
            await self.collections["sessions"].update_one(
                {"_id": moment.there.id, "revision": moment.there.revision},
                {"$unset": {"name": ""}, "$inc": {"revision": 1}},
            )
        return None

    async def _count(self) -> Mapping[str, Any]:
        """How many sessions were ever begun, this one included, and the time."""
        counters = self.collections["counters"]
        change = [{"$set": {"value": {"$add": ["$value", 1]}, "server_time": SERVER_TIME}}]
        while True:
            counter = await counters.find_one_and_update(
                {"_id": "sessions"}, change, return_document=ReturnDocument.AFTER
            )
            if counter is not None:
                return counter
            with suppress(DuplicateKeyError):
                await counters.insert_one({"_id": "sessions", "value": 0})

    async def document(self, fields: SessionFields) -> tuple[SessionDocument, float]:
        """A new one, and the time. Its fences are larger than those of any before."""
        counter = await self._count()
        now = self.moments.time(counter["server_time"])
        left = self.quota.ttl * 1_000
        due = counter["server_time"] + left + GRACE
        document = SessionDocument(
            id=str(ObjectId()),
            name=self.name,
            owner=owner_key(self.owner),
            session_id=self.session_id,
            agent_id=fields.agent_id,
            data=fields.data,
            closed=fields.closed,
            operation=self.operation,
            created_at=now,
            updated_at=now,
            expires_at=now + self.quota.ttl,
            fence=counter["value"] * _FENCES,
            parts_until=kept_until(due, left),
            purge_at=date(due),
        )
        return document, now

    async def begin(self, document: SessionDocument, parts: Sequence[Part], now: float) -> StoredSession | Refusal:
        """Have it be there with its parts, which are of no use where it cannot be."""
        if parts:
            await self.collections["session_parts"].insert_many(map(encoded, parts), ordered=False)
        gate = gate_of(self.quota, document.owner)
        if gate is None:
            done = await self._insert(document)
        else:
            async with self.moments.turn(gate):
                done = await admit(self.collections, gate, self.quota, document, now, self.there)
        if done is None:
            return document.stored(now)
        if parts:
            await remove_parts(self.collections, [document.id])
        return done

    async def _insert(self, document: SessionDocument) -> StoredSession | Refusal | None:
        """`None` when it is there now; otherwise what was there."""
        new, attempt = encoded(document), 0
        while True:
            try:
                await self.collections["sessions"].insert_one(new)
            except DuplicateKeyError:
                there = await self.there()
            else:
                return None
            if there is not None:
                return there
            await pause(attempt)
            attempt += 1


async def create(beginning: Beginning, fields: SessionFields, content: SessionContent) -> StoredSession | Refusal:
    document, now = await beginning.document(fields)
    said = () if content.messages is None or not content.messages.messages else _in_parts(content.messages)
    parts = [document.batch(batch.data, len(batch.messages)) for batch in said]
    parts += [
        document.checkpoint(checkpoint.checkpoint_id, checkpoint.data, checkpoint.message_count, now)
        for checkpoint in content.checkpoints
    ]
    return await beginning.begin(document, parts, now)


def _in_parts(batch: MessageBatch) -> Sequence[MessageBatch]:
    """A conversation in batches of which each is a document; it is one, unless it comes from another store and is very long."""
    if len(batch.payload) <= _LARGEST or len(batch.messages) == 1:
        return (batch,)
    half = len(batch.messages) // 2
    halves = (MessageBatch.of(messages) for messages in (batch.messages[:half], batch.messages[half:]))
    return [part for each in halves for part in _in_parts(each)]


async def fork(beginning: Beginning, session_id: str, checkpoint_id: str) -> StoredSession | Refusal:
    there = await beginning.there()
    if isinstance(there, StoredSession):
        return there
    name = session_name(beginning.owner, session_id)
    source = await beginning.moments.do(beginning.collections, name, _source, f"c{checkpoint_id}")
    if source is None:
        return Refusal.MISSING
    if there is not None:
        return there
    fields, checkpoint, conversation = source
    document, now = await beginning.document(fields)
    parts = [document.batch(data, count) for data, count in conversation]
    parts.append(document.checkpoint(checkpoint_id, checkpoint.data, checkpoint.count, now))
    return await beginning.begin(document, parts, now)


async def _source(moment: Moment) -> tuple[SessionFields, Part, Sequence[tuple[bytes, int]]] | None:
    """What a fork begins with: the fields, the checkpoint, and batches with how many messages are in each."""
    session = moment.session
    checkpoint = None if session is None else await find_checkpoint(moment, session)
    if session is None or checkpoint is None:
        return None
    fields = SessionFields(agent_id=session.agent_id, data=session.data)
    room = min(checkpoint.count, session.message_count)
    found: list[tuple[bytes, int]] = []
    for part in await batches(moment.collections, session, 0, room):
        # A checkpoint that was made elsewhere may be in the middle of a batch.
        whole = part.count <= room
        data = part.data if whole else MessageBatch.of(MessageBatch.stored(part.data)[:room]).data
        found.append((data, min(part.count, room)))
        room -= part.count
    return fields, checkpoint, found
