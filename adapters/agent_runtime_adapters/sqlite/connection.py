"""A connection to a file that is ours, with the tables of this version."""

import sqlite3
from pathlib import Path
from typing import Literal, TypeAlias

from agent_runtime import ConfigurationError, StoreUnavailable, translate
from agent_runtime_adapters.sqlite.failures import foreign, newer
from agent_runtime_adapters.sqlite.schema import APPLICATION_ID, MIGRATIONS

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]


def connect(path: Path, file: str, synchronous: Synchronous) -> sqlite3.Connection:
    """Open `path`, which is `file` in error texts, and bring its tables up to date. It belongs to the calling thread.

    A lock is not waited for: it is an error, and the same call goes well later. Any number of processes may do this at once.
    """
    with translate(OSError, StoreUnavailable, f"the folder of {file} cannot be read"):
        if not path.parent.is_dir():
            raise ConfigurationError(f"there is no folder for {file}: make it, or choose another path")
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _prepare(connection, file, synchronous)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, file: str, synchronous: Synchronous) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    version = _version(connection, file)  # before anything is changed: it may be somebody else's
    [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(f"{file} cannot have a write-ahead log (it stays in mode {mode!r}): use a local disk")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if version < len(MIGRATIONS):
        _migrate(connection, file)


def _version(connection: sqlite3.Connection, file: str) -> int:
    """The file's schema; 0 for a new one. Raises for one that is not ours, or newer."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise foreign(file)
    if version > len(MIGRATIONS):
        raise newer(file, version, len(MIGRATIONS))
    return int(version)


def _migrate(connection: sqlite3.Connection, file: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[_version(connection, file) :]:  # another process may have been quicker
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
