"""Stores in one SQLite file: the embedded default, with no server and no library besides Python's own."""

from agent_runtime_adapters.sqlite.database import SQLiteDatabase
from agent_runtime_adapters.sqlite.event_logs import SQLiteEventLog
from agent_runtime_adapters.sqlite.key_values import SQLiteKeyValueStore
from agent_runtime_adapters.sqlite.rate_limits import SQLiteRateLimitStore
from agent_runtime_adapters.sqlite.sessions import SQLiteSessionStore
from agent_runtime_adapters.sqlite.stores import open_sqlite

__all__ = (
    "SQLiteDatabase",
    "SQLiteEventLog",
    "SQLiteKeyValueStore",
    "SQLiteRateLimitStore",
    "SQLiteSessionStore",
    "open_sqlite",
)
