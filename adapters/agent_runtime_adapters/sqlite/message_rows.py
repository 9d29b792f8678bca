"""The messages of a session: one row for each append, with the place of its first message."""

from collections.abc import Sequence

from agent_runtime import CorruptRecord, Message, MessageBatch
from agent_runtime_adapters.sqlite.session_rows import SessionRow, SessionRows


def count_of(rows: SessionRows, session: SessionRow, operation: str) -> int | None:
    """How many messages there were when `operation` had added its own; `None` when it has not."""
    found = rows.connection.execute(
        "SELECT first, data FROM messages WHERE session = ? AND operation = ?", (session.id, operation)
    ).fetchone()
    if found is None:
        return None
    first, data = found
    return _place(first) + len(_batch(data))


def add(rows: SessionRows, session: SessionRow, batch: MessageBatch, operation: str | None) -> int:
    """Add the batch, which is not empty, and return the new message count."""
    rows.connection.execute(
        "INSERT INTO messages (session, first, operation, data) VALUES (?, ?, ?, ?)",
        (session.id, session.message_count, operation, batch.data),
    )
    session.message_count += len(batch.messages)
    return session.message_count


def load(rows: SessionRows, session: SessionRow, last: int | None) -> Sequence[Message]:
    """All messages, or the last so many, of which only the batches that they are in are read."""
    begin = 0 if last is None else max(0, session.message_count - last)
    if begin == session.message_count:
        return ()
    found = rows.connection.execute(
        "SELECT first, data FROM messages WHERE session = ? AND first >= ("
        "SELECT max(first) FROM messages WHERE session = ? AND first <= ?"
        ") ORDER BY first",
        (session.id, session.id, begin),
    ).fetchall()
    there = _place(found[0][0]) if found else 0
    messages: list[Message] = []
    for first, data in found:
        if first != there + len(messages):
            raise CorruptRecord("a conversation is damaged: a part is missing")
        messages += _batch(data)
    if there > begin or there + len(messages) != session.message_count:
        raise CorruptRecord("a conversation is damaged: it is shorter or longer than it was")
    return messages[begin - there :]


def copy(rows: SessionRows, source: SessionRow, target: SessionRow, count: int) -> None:
    """Give `target`, which has none, the first `count` messages of `source`."""
    target.message_count = min(count, source.message_count)
    rows.connection.execute(
        "INSERT INTO messages (session, first, data)"
        " SELECT ?, first, data FROM messages WHERE session = ? AND first < ? ORDER BY first",
        (target.id, source.id, target.message_count),
    )
    _cut(rows, target)


def _cut(rows: SessionRows, session: SessionRow) -> None:
    """Have the last batch end where the session does: a checkpoint made elsewhere may be in the middle of one."""
    found = rows.connection.execute(
        "SELECT id, first, data FROM messages WHERE session = ? ORDER BY first DESC LIMIT 1", (session.id,)
    ).fetchone()
    if found is None:
        return
    number, first, data = found
    messages, room = _batch(data), session.message_count - _place(first)
    if len(messages) > room:
        kept = MessageBatch.of(messages[:room])
        rows.connection.execute("UPDATE messages SET data = ? WHERE id = ?", (kept.data, number))


def _place(first: object) -> int:
    if not isinstance(first, int):
        raise CorruptRecord("a conversation is damaged: the place of a part is no number")
    return first


def _batch(data: object) -> tuple[Message, ...]:
    if not isinstance(data, bytes):
        raise CorruptRecord("a part of the conversation is damaged: what is in its place is no record")
    return MessageBatch.stored(data)
