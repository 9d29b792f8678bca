"""All stores of one SQLite file, by its URL."""

import time
from collections.abc import Callable

from typing_extensions import Unpack

from agent_runtime import ConfigurationError, Stores
from agent_runtime_adapters.sqlite.database import DatabaseOptions, SQLiteDatabase
from agent_runtime_adapters.sqlite.event_logs import SQLiteEventLog
from agent_runtime_adapters.sqlite.key_values import SQLiteKeyValueStore
from agent_runtime_adapters.sqlite.rate_limits import SQLiteRateLimitStore
from agent_runtime_adapters.sqlite.sessions import SQLiteSessionStore

_START = "sqlite:///"


def open_sqlite(url: str, *, clock: Callable[[], float] = time.time, **options: Unpack[DatabaseOptions]) -> Stores:
    """The stores in the file of `sqlite:///relative.db` or `sqlite:////absolute.db`; options are `SQLiteDatabase`'s.

    Raises `ConfigurationError` for a URL without a file.
    """
    path = url[len(_START) :]
    if not url.lower().startswith(_START) or not path:
        raise ConfigurationError("a SQLite URL is sqlite:///relative.db or sqlite:////absolute.db")
    database = SQLiteDatabase(path, **options)
    return Stores(
        f"sqlite:///{path}",
        sessions=SQLiteSessionStore(database, clock=clock),
        key_values=SQLiteKeyValueStore(database, clock=clock),
        rate_limits=SQLiteRateLimitStore(database, clock=clock),
        event_log=SQLiteEventLog(database, clock=clock),
        shared=database,
    )
