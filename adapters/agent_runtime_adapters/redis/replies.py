"""What the scripts of sessions return, as the store gives it."""

import struct
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from agent_runtime import (
    CorruptRecord,
    ExpiredSession,
    LeaseToken,
    Message,
    MessageBatch,
    Refusal,
    SessionFields,
    StoredCheckpoint,
    StoredLease,
    StoredRun,
    StoredSession,
)
from agent_runtime_adapters.redis.keys import owner_of

_PART = struct.Struct(">QI")  # of a conversation: the place of its first message, and how many it has
_CHECKPOINT = struct.Struct(">QQd")  # sequence, message count, time
_runs = msgspec.json.Decoder(tuple[int, int, int, float, float], strict=False)


def number(reply: int | bytes) -> int | Refusal:
    return Refusal(reply.decode()) if isinstance(reply, bytes) else reply


def session(reply: bytes | list[Any]) -> StoredSession | Refusal:
    return Refusal(reply.decode()) if isinstance(reply, bytes) else stored(reply)


def stored(reply: list[Any]) -> StoredSession:
    *fields, _ = reply
    if None in fields:
        raise CorruptRecord("a session is damaged: one of its fields is not there")
    try:
        name, agent, data, closed, version, count, created, updated, expires, holder = reply
        return StoredSession(
            session_id=name.decode(),
            fields=SessionFields(agent_id=agent.decode(), data=data, closed=closed == b"1"),
            version=int(version),
            message_count=int(count),
            created_at=float(created),
            updated_at=float(updated),
            expires_at=float(expires),
            holder=None if holder is None else holder.decode(),
        )
    except ValueError as error:
        raise CorruptRecord("a session is damaged: one of its fields is something else") from error


def lease(reply: bytes | list[Any], holder: str) -> StoredLease | Refusal:
    if isinstance(reply, bytes):
        return Refusal(reply.decode())
    fence, session = reply
    return StoredLease(token=LeaseToken(holder=holder, fence=fence), session=stored(session))


def messages(count: int, parts: Sequence[bytes], last: int | None) -> Sequence[Message] | None:
    """Of a conversation of `count`, all messages, or the last so many. `None` where they are not in these parts of its end."""
    begin = 0 if last is None else max(0, count - last)
    found: list[Message] = []
    there = following = count
    for (first, size), part in zip(_places(parts), parts, strict=True):
        if first + size <= begin or first >= count:
            continue
        if not found:
            there = following = first
        if first != following:
            return None
        batch = MessageBatch.stored(part[_PART.size :])
        found += batch if len(batch) == size else batch[:size]
        following = first + size
    if there > begin or following != count or there + len(found) != count:
        return None
    return found[begin - there :]


def _places(parts: Sequence[bytes]) -> Sequence[tuple[int, int]]:
    try:
        return cast("list[tuple[int, int]]", list(map(_PART.unpack_from, parts)))
    except struct.error as error:
        raise CorruptRecord("a conversation is damaged: a part is shorter than it was") from error


def checkpoint(name: str, item: bytes) -> StoredCheckpoint:
    try:
        sequence, count, created_at = _CHECKPOINT.unpack_from(item)
    except struct.error as error:
        raise CorruptRecord("a checkpoint is damaged: it is shorter than it was") from error
    return StoredCheckpoint(
        checkpoint_id=name,
        data=item[_CHECKPOINT.size :],
        sequence=sequence,
        message_count=count,
        created_at=created_at,
    )


def run(name: bytes, item: bytes) -> StoredRun:
    try:
        sequence, entry_count, count, created_at, updated_at = _runs.decode(item)
    except (msgspec.DecodeError, TypeError) as error:
        raise CorruptRecord("a run is damaged: it cannot be read") from error
    return StoredRun(
        run_id=name.decode(),
        sequence=sequence,
        entry_count=entry_count,
        message_count=count,
        created_at=created_at,
        updated_at=updated_at,
    )


def entries(reply: list[bytes | None]) -> Sequence[bytes]:
    there = [entry for entry in reply if entry is not None]
    if len(there) != len(reply):
        raise CorruptRecord("a run is damaged: it has fewer entries than it had")
    return there


def expired(item: bytes) -> ExpiredSession:
    """`member` of `session.lua`: number, length of the agent, length of the owner; agent, owner, session id."""
    _, agent, _, rest = item.split(b":", 3)
    owner, session_id = owner_of(rest[int(agent) :])
    return ExpiredSession(owner=owner, session_id=session_id.decode(), agent_id=rest[: int(agent)].decode())
