"""The messages of a session: one row for each append, whose id says where its first message is."""

from collections.abc import Sequence

from agent_runtime import CorruptRecord, Message, MessageBatch
from agent_runtime_adapters.sqlite.records import parts, place_of
from agent_runtime_adapters.sqlite.session_rows import SessionRow, SessionRows


def count_of(rows: SessionRows, session: SessionRow, operation: str) -> int | None:
    """How many messages there were when `operation` had added its own; `None` when it has not."""
    found = rows.connection.execute(
        "SELECT id, data FROM messages WHERE session = ? AND operation = ?", (session.id, operation)
    ).fetchone()
    if found is None:
        return None
    number, data = found
    return place_of(number) + len(_batch(data))


def add(rows: SessionRows, session: SessionRow, batch: MessageBatch, operation: str | None) -> int:
    """Add the batch, which is not empty, and return the new message count."""
    rows.connection.execute(
        "INSERT INTO messages VALUES (?, ?, ?, ?)",
        (parts(session.id).start + session.message_count, session.id, operation, batch.data),
    )
    session.message_count += len(batch.messages)
    return session.message_count


def load(rows: SessionRows, session: SessionRow, last: int | None) -> Sequence[Message]:
    """All messages, or the last so many, of which only the batches that they are in are read."""
    wanted = session.message_count if last is None else min(last, session.message_count)
    if wanted == 0:
        return ()
    begin = session.message_count - wanted
    ids = parts(session.id)
    found = rows.connection.execute(
        "SELECT id, data FROM messages WHERE id >= (SELECT max(id) FROM messages WHERE id <= ?) AND id < ? ORDER BY id",
        (ids.start + begin, ids.stop),
    ).fetchall()
    first = place_of(found[0][0]) if found else 0
    messages: list[Message] = []
    for number, data in found:
        if number != ids.start + first + len(messages):
            raise CorruptRecord("a conversation is damaged: a part is missing")
        messages += _batch(data)
    if first > begin or first + len(messages) != session.message_count:
        raise CorruptRecord("a conversation is damaged: it is shorter or longer than it was")
    return messages[begin - first :]


def copy(rows: SessionRows, source: SessionRow, target: SessionRow, count: int) -> None:
    """Give `target`, which has none, the first `count` messages of `source`."""
    old, new = parts(source.id), parts(target.id)
    target.message_count = min(count, source.message_count)
    end = old.start + target.message_count
    rows.connection.execute(
        "INSERT INTO messages (id, session, data)"
        " SELECT id - ?1 + ?2, ?3, data FROM messages WHERE id >= ?1 AND id < ?4 ORDER BY id",
        (old.start, new.start, target.id, end),
    )
    _cut(rows, new.start + target.message_count, new)


def _cut(rows: SessionRows, end: int, ids: range) -> None:
    """Have the last batch of a session end there: a checkpoint that came from elsewhere may be in the middle of one."""
    last = rows.connection.execute(
        "SELECT id, data FROM messages WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT 1", (ids.start, end)
    ).fetchone()
    if last is None:
        return
    number, data = last
    messages = _batch(data)
    if number + len(messages) > end:
        cut = MessageBatch.of(messages[: end - number])
        rows.connection.execute("UPDATE messages SET data = ? WHERE id = ?", (cut.data, number))


def _batch(data: object) -> tuple[Message, ...]:
    if not isinstance(data, bytes):
        raise CorruptRecord("a part of the conversation is damaged: what is in its place is no record")
    return MessageBatch.stored(data)
