"""Event logs in a SQLite file."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from typing_extensions import Unpack

from agent_runtime import CorruptRecord, LogBounds, LoggedEvent, LogPage, Owner, Refusal
from agent_runtime_adapters.sqlite.database import DatabaseOptions, FilePath, SQLiteDatabase, SQLiteStore
from agent_runtime_adapters.sqlite.records import decode, encode, parts
from agent_runtime_adapters.sqlite.session_rows import owner_key

T = TypeVar("T")

_FREE_AT_ONCE = 10


class SQLiteEventLog(SQLiteStore):
    """An `EventLog` in one file, for any number of processes of one host; `SQLiteDatabase` says what its options are.

    No log goes before its time; those that have expired are removed by later appends, ten by each. `clock` gives Unix
    seconds, and is called on the database's thread; processes that share the file must have the same, and `bounds` too.
    """

    def __init__(
        self,
        database: FilePath | SQLiteDatabase,
        *,
        bounds: LogBounds | None = None,
        clock: Callable[[], float] = time.time,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        super().__init__(database, **options)
        self._bounds = bounds or LogBounds()
        self._clock = clock

    async def append(
        self,
        owner: Owner,
        stream: str,
        events: Sequence[bytes],
        *,
        expected: int,
        ttl: float,
        operation: str,
        close: bool = False,
    ) -> int | Refusal:
        self._bounds.check(events)

        def job(logs: _Logs) -> int | Refusal:
            log = logs.find(owner, stream)
            if log is None:
                if expected:
                    return Refusal.MISSING
                log = logs.add(owner, stream)
            elif log.operation == operation:
                return log.last
            elif log.closed or log.last != expected:
                return Refusal.CLOSED if log.closed else Refusal.CHANGED
            log.operation, log.closed, log.expires_at = operation, close, logs.now + ttl
            logs.append(log, events, self._bounds)
            logs.free()
            return log.last

        return await self.database.write(self._at_once(job))

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        def job(logs: _Logs) -> LogPage | None:
            log = logs.find(owner, stream)
            return None if log is None else logs.page(log, after, limit)

        return await self.database.read(self._at_once(job))

    async def delete(self, owner: Owner, stream: str) -> bool:
        return await self.database.write(self._at_once(lambda logs: logs.delete(owner, stream)))

    async def delete_all(self, owner: Owner) -> int:
        return await self.database.write(self._at_once(lambda logs: logs.delete_all(owner)))

    def _at_once(self, job: "Callable[[_Logs], T]") -> Callable[[sqlite3.Connection], T]:
        return lambda connection: job(_Logs(connection, self._clock()))


class _Log(msgspec.Struct, array_like=True, kw_only=True):
    """All of a log but its events, which are found by its `id`: those from `first` to `last`, `size` bytes of them."""

    id: int
    owner: bytes
    stream: str
    first: int = 1
    last: int = 0
    size: int = 0
    operation: str = ""
    closed: bool = False
    expires_at: float = 0.0


class _Event(msgspec.Struct, array_like=True):
    """An event, and where it is."""

    log: int
    sequence: int
    data: bytes


class _Logs:
    """Finds and keeps logs, as they are for one job at one moment."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self.now = now

    def find(self, owner: Owner, stream: str) -> _Log | None:
        place = (owner_key(owner), stream)
        found = self._connection.execute(
            "SELECT record FROM event_logs WHERE owner = ? AND stream = ?", place
        ).fetchone()
        if found is None:
            return None
        log = decode(found[0], _logs, "an event log")
        if (log.owner, log.stream) != place:
            raise CorruptRecord("an event log is damaged: another one is in its place")
        return log if log.expires_at > self.now else None

    def add(self, owner: Owner, stream: str) -> _Log:
        """A new log, which is there when it is appended to."""
        place = (owner_key(owner), stream)
        self._connection.execute("DELETE FROM event_logs WHERE owner = ? AND stream = ?", place)  # an expired one
        [last] = self._connection.execute("SELECT max(id) FROM event_logs").fetchone()
        return _Log(id=(last or 0) + 1, owner=place[0], stream=stream)

    def append(self, log: _Log, events: Sequence[bytes], bounds: LogBounds) -> None:
        ids = parts(log.id)
        rows = [
            (ids.start + number, encode(_Event(log.id, number, data)))
            for number, data in enumerate(events, log.last + 1)
        ]
        self._connection.executemany("INSERT INTO events VALUES (?, ?)", rows)
        log.last += len(events)
        log.size += sum(map(len, events))
        self._drop(log, bounds)
        self._connection.execute(
            "INSERT INTO event_logs VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, record = excluded.record",
            (log.id, log.owner, log.stream, log.expires_at, encode(log)),
        )

    def page(self, log: _Log, after: int, limit: int) -> LogPage:
        begin = min(max(after + 1, log.first), log.last + 1)
        events = self._events(log, begin, min(begin + limit, log.last + 1))
        return LogPage(
            events=tuple(LoggedEvent(sequence=event.sequence, data=event.data) for event in events),
            missed=max(0, log.first - after - 1),
            first=log.first,
            last=log.last,
            closed=log.closed,
        )

    def delete(self, owner: Owner, stream: str) -> bool:
        place = (owner_key(owner), stream, self.now)
        statement = "DELETE FROM event_logs WHERE owner = ? AND stream = ? AND expires_at > ?"
        return self._connection.execute(statement, place).rowcount > 0

    def delete_all(self, owner: Owner) -> int:
        place = (owner_key(owner), self.now)
        return self._connection.execute("DELETE FROM event_logs WHERE owner = ? AND expires_at > ?", place).rowcount

    def free(self) -> None:
        """Remove some of the logs whose time is up."""
        self._connection.execute(
            "DELETE FROM event_logs WHERE id IN (SELECT id FROM event_logs WHERE expires_at <= ? LIMIT ?)",
            (self.now, _FREE_AT_ONCE),
        )

    def _drop(self, log: _Log, bounds: LogBounds) -> None:
        """Remove the oldest events, until the others are within the bounds."""
        begin = log.first
        while log.last - log.first >= bounds.max_events or log.size > bounds.max_bytes:
            [event] = self._events(log, log.first, log.first + 1)
            log.first += 1
            log.size -= len(event.data)
        start = parts(log.id).start
        self._connection.execute("DELETE FROM events WHERE id >= ? AND id < ?", (start + begin, start + log.first))

    def _events(self, log: _Log, begin: int, end: int) -> list[_Event]:
        """Those from `begin` on, before `end`."""
        start = parts(log.id).start
        found = self._connection.execute(
            "SELECT record FROM events WHERE id >= ? AND id < ? ORDER BY id", (start + begin, start + end)
        )
        events = [decode(record, _events, "an event") for (record,) in found.fetchall()]
        if [(event.log, event.sequence) for event in events] != [(log.id, number) for number in range(begin, end)]:
            raise CorruptRecord("an event log is damaged: an event is missing")
        return events


_logs = msgspec.msgpack.Decoder(_Log)
_events = msgspec.msgpack.Decoder(_Event)
