"""One file, one thread, one connection: what the stores of this folder share."""

import math
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypedDict, TypeVar

from typing_extensions import Unpack

from agent_runtime import ConfigurationError
from agent_runtime_adapters.sqlite.connection import DatabaseFile, Synchronous
from agent_runtime_adapters.sqlite.thread import JobThread
from agent_runtime_adapters.sqlite.transactions import Transactions

T = TypeVar("T")
FilePath: TypeAlias = str | os.PathLike[str]


class DatabaseOptions(TypedDict, total=False):
    """What `SQLiteDatabase` takes besides the path."""

    synchronous: Synchronous
    busy_timeout: float


class SQLiteDatabase:
    """A file that several stores of one process may share: their writes then go into the same commits.

    `async with database:` opens the file at once, and closes it. Otherwise the first job opens it, as does the next one
    after such a block, and `aclose` or the garbage collector closes it. Any event loops may use it, also several at once,
    on asyncio and trio.

    Args:
        path: A file on a local disk, in a folder that is there; both must be writable. Not on a network file system:
            its locks do not hold. There is no database in memory: for that are the memory stores.
        synchronous: With `"FULL"` what was acknowledged survives a power loss. With `"NORMAL"` it survives the end of
            the process, and a power loss may take the last writes, never a part of one.
        busy_timeout: Seconds to wait while another process has the file locked; then `StoreUnavailable`.

    Each operation raises `StoreUnavailable` when the file is locked for longer, cannot be opened, read or written, was
    moved, or there is no room; it is `retryable` where waiting may help. `CorruptRecord` tells of damage: rows have
    checksums, and a file of up to 8 MB is looked through when it is opened. `OutcomeUnknown` when the disk fails in a
    commit, `ConfigurationError` for a file of something else, of a newer version, without a folder, or opened before a
    fork. All name the file.
    """

    def __init__(self, path: FilePath, *, synchronous: Synchronous = "FULL", busy_timeout: float = 5.0) -> None:
        name = os.fspath(path)
        if not name or name == ":memory:":
            raise ConfigurationError(f"a database needs a file, {name!r} is none; a memory store keeps nothing")
        if synchronous not in ("FULL", "NORMAL"):
            raise ConfigurationError(f"synchronous is {synchronous!r}, and must be 'FULL' or 'NORMAL'")
        if not 0 <= busy_timeout < math.inf:
            raise ConfigurationError(f"busy_timeout is {busy_timeout!r}, and must be seconds from 0 on")
        title = f"the database file {name!r}"
        self._thread = JobThread(title, partial(_worker, Path(name).absolute(), title, synchronous, busy_timeout))

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Have `job(connection)` done on the thread: it reads, and sees the data as they are at one moment."""
        return await self._thread.do(job, writes=False)

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Have `job(connection)` done as one atomic step; returns when it is committed. What it raises undoes it.

        `job` may be run again where its first run was undone. It neither commits nor rolls back.
        """
        return await self._thread.do(job, writes=True)

    async def aclose(self) -> None:
        """Do what was asked for before, and close the file for good: later jobs raise `RuntimeClosed`. Idempotent."""
        await self._thread.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.read(_nothing)
        except BaseException:
            await self._thread.rest()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._thread.rest()


class SQLiteStore:
    """What each store of this folder is: a `SQLiteDatabase`, its own or a shared one, that somebody else closes."""

    def __init__(self, database: FilePath | SQLiteDatabase, **options: Unpack[DatabaseOptions]) -> None:
        self._owns = not isinstance(database, SQLiteDatabase)
        if isinstance(database, SQLiteDatabase):
            if options:
                raise ConfigurationError(f"{', '.join(options)}: set where the database that is shared is made")
            self.database = database
        else:
            self.database = SQLiteDatabase(database, **options)

    async def aclose(self) -> None:
        """Close the file for good, unless the database was passed in. Idempotent."""
        if self._owns:
            await self.database.aclose()

    async def __aenter__(self) -> Self:
        if self._owns:
            await self.database.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owns:
            await self.database.__aexit__(exc_type, exc, traceback)


def _worker(path: Path, title: str, synchronous: Synchronous, busy_timeout: float) -> Transactions:
    return Transactions(DatabaseFile(path, title, synchronous), busy_timeout)


def _nothing(_: sqlite3.Connection) -> None:
    pass
