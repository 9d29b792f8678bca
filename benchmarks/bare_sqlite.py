"""A hand-written store that only appends and loads: one thread, one table of turns and one of sessions."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

import msgspec

from benchmarks import bare

Job: TypeAlias = "tuple[Callable[[sqlite3.Connection], Any], bool, asyncio.Future[Any]]"

_TABLES = (
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, turns INTEGER NOT NULL, expires_at REAL NOT NULL)",
    "CREATE TABLE turns (session TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (session, number))",
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(tuple[bare.Turn, ...]).decode


class Store:
    """For one event loop, without limits, owners, leases, checks and errors. What waits is written with one commit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()

    async def append(self, session: str, turn: tuple[bare.Turn, ...]) -> int:
        def job(connection: sqlite3.Connection) -> int:
            [count] = connection.execute("SELECT turns FROM sessions WHERE id = ?", (session,)).fetchone()
            connection.execute("INSERT INTO turns VALUES (?, ?, ?)", (session, count, encode(turn)))
            connection.execute("UPDATE sessions SET turns = ?, expires_at = 0 WHERE id = ?", (count + 1, session))
            return int(count) + 1

        done: asyncio.Future[int] = self._loop.create_future()
        self._jobs.put((job, True, done))
        return await done

    async def load(self, session: str, last: int = -1) -> list[bare.Turn]:
        def job(connection: sqlite3.Connection) -> list[bare.Turn]:
            found = connection.execute(
                "SELECT data FROM turns WHERE session = ? ORDER BY number DESC LIMIT ?", (session, last)
            ).fetchall()
            return [turn for (data,) in reversed(found) for turn in decode(data)]

        done: asyncio.Future[list[bare.Turn]] = self._loop.create_future()
        self._jobs.put((job, False, done))
        return await done

    async def create(self, session: str) -> None:
        done: asyncio.Future[object] = self._loop.create_future()
        self._jobs.put((lambda c: c.execute("INSERT INTO sessions VALUES (?, 0, 0)", (session,)).rowcount, True, done))
        await done

    def serve(self, path: Path, synchronous: str) -> None:
        """The thread."""
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        for table in _TABLES:
            connection.execute(table)
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while not self._jobs.empty() and (following := self._jobs.get()) is not None:
                jobs.append(following)
            self._do(connection, jobs)
        connection.close()

    def end(self) -> None:
        self._jobs.put(None)

    def _do(self, connection: sqlite3.Connection, jobs: list[Job]) -> None:
        connection.execute("BEGIN IMMEDIATE" if any(writes for _, writes, _ in jobs) else "BEGIN")
        answers = [(done, job(connection)) for job, _, done in jobs]
        connection.execute("COMMIT")
        self._loop.call_soon_threadsafe(_wake, answers)


def _wake(answers: "list[tuple[asyncio.Future[Any], Any]]") -> None:
    for done, answer in answers:
        done.set_result(answer)


@asynccontextmanager
async def opened(path: Path, synchronous: str) -> AsyncGenerator[Store]:
    store = Store(asyncio.get_running_loop())
    thread = threading.Thread(target=store.serve, args=(path, synchronous))
    thread.start()
    try:
        yield store
    finally:
        store.end()
        thread.join()
