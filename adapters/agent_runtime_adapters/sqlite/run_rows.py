"""The unfinished runs of a session and their entries."""

import msgspec

from agent_runtime import RUNS_KEPT, CorruptRecord, Refusal, StoredRun
from agent_runtime_adapters.sqlite.records import decode, encode
from agent_runtime_adapters.sqlite.session_rows import SessionRow, SessionRows


class RunRow(msgspec.Struct, array_like=True, kw_only=True):
    id: int
    session: int
    run_id: str
    sequence: int
    entry_count: int = 0
    message_count: int
    created_at: float
    updated_at: float

    def stored(self) -> StoredRun:
        return StoredRun(
            run_id=self.run_id,
            sequence=self.sequence,
            entry_count=self.entry_count,
            message_count=self.message_count,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


class EntryRow(msgspec.Struct, array_like=True, kw_only=True):
    run: int
    number: int
    data: bytes


def find(rows: SessionRows, session: SessionRow, run_id: str) -> RunRow | None:
    found = rows.connection.execute(
        "SELECT record FROM runs WHERE session = ? AND run_id = ?", (session.id, run_id)
    ).fetchone()
    if found is None:
        return None
    row = _row(session, found[0])
    if row.run_id != run_id:
        raise CorruptRecord("a run is damaged: another one is in its place")
    return row


def all_of(rows: SessionRows, session: SessionRow) -> list[RunRow]:
    """The last first."""
    found = rows.connection.execute("SELECT record FROM runs WHERE session = ?", (session.id,)).fetchall()
    return sorted((_row(session, record) for (record,) in found), key=lambda row: -row.sequence)


def is_recorded(rows: SessionRows, run: RunRow | None, number: int, entry: bytes) -> bool:
    """Whether this is the run's entry of that number."""
    if run is None or not 0 < number <= run.entry_count:
        return False
    found = rows.connection.execute(
        "SELECT record FROM entries WHERE run = ? AND number = ?", (run.id, number)
    ).fetchone()
    return _entry(run, number, found) == entry


def refusal(session: SessionRow, run: RunRow | None, number: int) -> Refusal | None:
    """Why the run's next entry cannot have this number."""
    if run is None and number > 1:
        return Refusal.MISSING
    if number == 1 and session.closed:
        return Refusal.CLOSED
    following = 1 if run is None else run.entry_count + 1
    return None if number == following else Refusal.CHANGED


def begin(rows: SessionRows, session: SessionRow, run_id: str) -> RunRow:
    """A run without entries, in the place of the oldest where there are too many."""
    for row in all_of(rows, session)[RUNS_KEPT - 1 :]:
        delete(rows, session, row.run_id)
    session.runs += 1
    [last] = rows.connection.execute("SELECT max(id) FROM runs").fetchone()
    row = RunRow(
        id=(last or 0) + 1,
        session=session.id,
        run_id=run_id,
        sequence=session.runs,
        message_count=session.message_count,
        created_at=rows.now,
        updated_at=rows.now,
    )
    rows.connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (row.id, session.id, run_id, encode(row)))
    return row


def record(rows: SessionRows, run: RunRow, entry: bytes) -> None:
    """Add the run's next entry."""
    run.entry_count += 1
    run.updated_at = rows.now
    row = EntryRow(run=run.id, number=run.entry_count, data=entry)
    rows.connection.execute(
        "INSERT INTO entries (run, number, record) VALUES (?, ?, ?)", (run.id, row.number, encode(row))
    )
    rows.connection.execute("UPDATE runs SET record = ? WHERE id = ?", (encode(run), run.id))


def entries(rows: SessionRows, run: RunRow) -> list[bytes]:
    found = rows.connection.execute("SELECT record FROM entries WHERE run = ? ORDER BY number", (run.id,)).fetchall()
    if len(found) != run.entry_count:
        raise CorruptRecord("a run is damaged: it has more or fewer entries than it had")
    return [_entry(run, number, row) for number, row in enumerate(found, 1)]


def delete(rows: SessionRows, session: SessionRow, run_id: str) -> bool:
    """Remove the run with its entries; whether there was one."""
    found = rows.connection.execute("DELETE FROM runs WHERE session = ? AND run_id = ?", (session.id, run_id))
    return found.rowcount > 0


_rows = msgspec.msgpack.Decoder(RunRow)
_entries = msgspec.msgpack.Decoder(EntryRow)


def _row(session: SessionRow, data: object) -> RunRow:
    row = decode(data, _rows, "a run")
    if row.session != session.id:
        raise CorruptRecord("a run is damaged: one of another session is in its place")
    return row


def _entry(run: RunRow, number: int, found: tuple[object] | None) -> bytes:
    row = decode(None if found is None else found[0], _entries, "an entry of a run")
    if (row.run, row.number) != (run.id, number):
        raise CorruptRecord("an entry of a run is damaged: another one is in its place")
    return row.data
