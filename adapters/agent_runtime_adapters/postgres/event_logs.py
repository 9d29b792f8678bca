"""Event logs in a PostgreSQL schema."""

from collections.abc import Callable, Sequence

from typing_extensions import Unpack

from agent_runtime import CorruptRecord, LogBounds, LoggedEvent, LogPage, Owner, Refusal
from agent_runtime_adapters.postgres.database import DatabaseOptions, PostgresDatabase
from agent_runtime_adapters.postgres.store import PostgresStore, answered, in_range, owner_columns


class PostgresEventLog(PostgresStore):
    """An `EventLog` for any number of processes, which have the same `bounds`; `PostgresDatabase` says what its options are.

    No log goes before its time; those that have expired are removed by later appends, ten by each. `clock` gives Unix
    seconds; by default the server's clock counts.
    """

    def __init__(
        self,
        database: str | PostgresDatabase,
        /,
        *,
        bounds: LogBounds | None = None,
        clock: Callable[[], float] | None = None,
        **options: Unpack[DatabaseOptions],
    ) -> None:
        super().__init__(database, clock=clock, **options)
        self._bounds = bounds or LogBounds()

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
        bounds = self._bounds
        bounds.check(events)
        kept = bounds.newest(events)
        added = (kept, len(events) - len(kept), in_range(expected), ttl, operation, close)
        limits = (bounds.max_events, bounds.max_bytes)
        place = (*owner_columns(owner), stream, self.now())
        [row] = await self.server.call("event_log_append", *place, *added, *limits, repeatable=True)
        return answered(row)

    async def read(self, owner: Owner, stream: str, *, after: int = 0, limit: int = 1_000) -> LogPage | None:
        place = (*owner_columns(owner), stream, self.now())
        rows = await self.server.call("event_log_read", *place, in_range(after), in_range(limit), writes=False)
        if not rows:
            return None
        first, last, closed, found = rows[0]
        begin = max(after + 1, first)
        if len(found) != max(0, min(limit, last + 1 - begin)):
            raise CorruptRecord("an event log is damaged: an event is missing")
        return LogPage(
            events=tuple(LoggedEvent(sequence=number, data=data) for number, data in enumerate(found, begin)),
            missed=max(0, first - after - 1),
            first=first,
            last=last,
            closed=closed,
        )

    async def delete(self, owner: Owner, stream: str) -> bool:
        return bool(await self._delete(owner, stream))

    async def delete_all(self, owner: Owner) -> int:
        return await self._delete(owner, None)

    async def _delete(self, owner: Owner, stream: str | None) -> int:
        [row] = await self.server.call("event_log_delete", *owner_columns(owner), stream, self.now())
        return int(row[0])
