"""A file that is ours, and connections to it with the tables of this version."""

import os
import sqlite3
from pathlib import Path
from typing import Literal, TypeAlias

from agent_runtime import ConfigurationError, StoreUnavailable, translate
from agent_runtime_adapters.sqlite.failures import foreign, moved, newer
from agent_runtime_adapters.sqlite.schema import APPLICATION_ID, MIGRATIONS

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

_CHECKED_WHOLE = 2_000  # pages, 8 MB; a larger file would take more than some 30 ms
_LOG = 4_000  # pages, after which the log is copied into the file: most of them by then more than once in it
# One statement, so that all of it is of one moment: another process may be making the tables.
_WHOSE = """
    SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id, pragma_user_version
"""


class DatabaseFile:
    """The file at `path`, which error texts call `name`. The first connection makes it, no later one does."""

    def __init__(self, path: Path, name: str, synchronous: Synchronous) -> None:
        self.name = name
        self._path = path
        self._synchronous = synchronous
        self._identity: tuple[int, int] | None = None

    def connect(self) -> sqlite3.Connection:
        """Open it, for the calling thread, and bring its tables up to date.

        A lock is not waited for: it is an error, and the same call goes well later. Any number of processes may call this at
        once.
        """
        if self._identity is not None:
            self.check()
        with translate(OSError, StoreUnavailable, f"the folder of {self.name} cannot be read"):
            if not self._path.parent.is_dir():
                raise ConfigurationError(f"there is no folder for {self.name}: make it, or choose another path")
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        try:
            self._prepare(connection)
            self._identity = self._found()
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self) -> None:
        """Raise unless the file of the first connection is still in its place: nobody finds what is written to it elsewhere."""
        if self._found() != self._identity:
            raise moved(self.name)

    def _found(self) -> tuple[int, int]:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - a third of the time of `Path.stat`, and before each commit
        except OSError as error:
            raise moved(self.name) from error
        return found.st_dev, found.st_ino

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        version = self._version(connection)  # before anything is changed: it may be somebody else's
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                f"{self.name} cannot have a write-ahead log (its mode stays {mode!r}): use a local disk"
            )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA fullfsync = ON")  # without it macOS leaves the data in the disk's cache
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG}")
        if version < len(MIGRATIONS):
            self._migrate(connection)
        else:
            self._check_whole(connection)

    def _version(self, connection: sqlite3.Connection) -> int:
        """The file's schema; 0 for a new one. Raises for one that is not ours, or newer."""
        application, version, tables = connection.execute(_WHOSE).fetchone()
        if application == 0 and version == 0 and tables == 0:
            return 0
        if application != APPLICATION_ID:
            raise foreign(self.name)
        if version > len(MIGRATIONS):
            raise newer(self.name, version, len(MIGRATIONS))
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statements in MIGRATIONS[self._version(connection) :]:  # another process may have been quicker
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")

    def _check_whole(self, connection: sqlite3.Connection) -> None:
        """Find what would hide a row, unless the file is large: rows have checksums, what leads to them has none."""
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        if pages > _CHECKED_WHOLE:
            return
        [found] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
