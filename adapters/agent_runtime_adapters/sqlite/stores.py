"""All stores of one SQLite file, by its URL."""

import time
from collections.abc import Callable
from pathlib import Path

from anyio import to_thread
from typing_extensions import Unpack

from agent_runtime import ConfigurationError, LogBounds, Stores
from agent_runtime_adapters.sqlite.database import DatabaseOptions, SQLiteDatabase
from agent_runtime_adapters.sqlite.event_logs import SQLiteEventLog
from agent_runtime_adapters.sqlite.key_values import SQLiteKeyValueStore
from agent_runtime_adapters.sqlite.rate_limits import SQLiteRateLimitStore
from agent_runtime_adapters.sqlite.sessions import SQLiteSessionStore

_START = "sqlite:///"
_FILES = ("", "-wal", "-shm")  # of one database


def open_sqlite(
    url: str,
    *,
    namespace: str | None = None,
    clock: Callable[[], float] = time.time,
    log_bounds: LogBounds | None = None,
    **options: Unpack[DatabaseOptions],
) -> Stores:
    """The stores in the file of `sqlite:///relative.db` or `sqlite:////absolute.db`; more options are `SQLiteDatabase`'s.

    With `namespace` they are in a file of their own beside it, named after both. Raises `ConfigurationError` for a URL without a file.
    """
    path = url[len(_START) :]
    if not url.lower().startswith(_START) or not path:
        raise ConfigurationError("a SQLite URL is sqlite:///relative.db or sqlite:////absolute.db")
    if namespace is not None:
        path = f"{path}.{namespace}"
    database = SQLiteDatabase(path, **options)

    async def erase() -> None:
        await database.aclose()
        await to_thread.run_sync(_remove, path)

    return Stores(
        f"sqlite:///{path}",
        sessions=SQLiteSessionStore(database, clock=clock),
        key_values=SQLiteKeyValueStore(database, clock=clock),
        rate_limits=SQLiteRateLimitStore(database, clock=clock),
        event_log=SQLiteEventLog(database, clock=clock, bounds=log_bounds),
        shared=database,
        erase=None if namespace is None else erase,
    )


def _remove(path: str) -> None:
    for ending in _FILES:
        Path(f"{path}{ending}").unlink(missing_ok=True)
