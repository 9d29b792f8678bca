"""The checkpoints of a session."""

import msgspec

from agent_runtime import CorruptRecord, StoredCheckpoint
from agent_runtime_adapters.sqlite.records import decode, encode
from agent_runtime_adapters.sqlite.session_rows import SessionRow, SessionRows


class CheckpointRow(msgspec.Struct, array_like=True, kw_only=True):
    session: int
    checkpoint_id: str
    sequence: int
    message_count: int
    created_at: float
    data: bytes

    def stored(self) -> StoredCheckpoint:
        return StoredCheckpoint(
            checkpoint_id=self.checkpoint_id,
            data=self.data,
            sequence=self.sequence,
            message_count=self.message_count,
            created_at=self.created_at,
        )


def put(
    rows: SessionRows, session: SessionRow, checkpoint_id: str, data: bytes, message_count: int
) -> StoredCheckpoint:
    """Add a checkpoint, of which there is none with this id."""
    session.checkpoints += 1
    row = CheckpointRow(
        session=session.id,
        checkpoint_id=checkpoint_id,
        sequence=session.checkpoints,
        message_count=message_count,
        created_at=rows.now,
        data=data,
    )
    rows.connection.execute(
        "INSERT INTO checkpoints (session, sequence, checkpoint_id, record) VALUES (?, ?, ?, ?)",
        (session.id, row.sequence, checkpoint_id, encode(row)),
    )
    return row.stored()


def find(rows: SessionRows, session: SessionRow, checkpoint_id: str) -> StoredCheckpoint | None:
    found = rows.connection.execute(
        "SELECT record FROM checkpoints WHERE session = ? AND checkpoint_id = ?", (session.id, checkpoint_id)
    ).fetchone()
    if found is None:
        return None
    row = _row(session, found[0])
    if row.checkpoint_id != checkpoint_id:
        raise CorruptRecord("a checkpoint is damaged: another one is in its place")
    return row.stored()


def load(rows: SessionRows, session: SessionRow, last: int | None) -> list[StoredCheckpoint]:
    """All, or the last so many, the last first."""
    found = rows.connection.execute(
        "SELECT record FROM checkpoints WHERE session = ? ORDER BY sequence DESC LIMIT ?",
        (session.id, session.checkpoints if last is None else min(last, session.checkpoints)),
    ).fetchall()
    return [_row(session, record).stored() for (record,) in found]


def delete(rows: SessionRows, session: SessionRow, checkpoint_id: str | None) -> int:
    """Remove all, or this one; how many there were."""
    return rows.connection.execute(
        "DELETE FROM checkpoints WHERE session = ? AND checkpoint_id = ifnull(?, checkpoint_id)",
        (session.id, checkpoint_id),
    ).rowcount


_rows = msgspec.msgpack.Decoder(CheckpointRow)


def _row(session: SessionRow, record: object) -> CheckpointRow:
    row = decode(record, _rows, "a checkpoint")
    if row.session != session.id:
        raise CorruptRecord("a checkpoint is damaged: one of another session is in its place")
    return row
