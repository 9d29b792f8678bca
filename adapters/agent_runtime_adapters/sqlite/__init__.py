"""Stores in one SQLite file: the embedded default, with no server and no library besides Python's own."""

from agent_runtime_adapters.sqlite.database import SQLiteDatabase
from agent_runtime_adapters.sqlite.sessions import SQLiteSessionStore

__all__ = ("SQLiteDatabase", "SQLiteSessionStore")
