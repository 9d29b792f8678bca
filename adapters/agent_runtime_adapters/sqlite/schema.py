"""The tables, and how a file of an older version gets them.

`MIGRATIONS[n]` are the statements that take a file from schema `n` to `n + 1`. A released one never changes: what is new
is a tuple of statements more at the end. All stores of this folder keep their tables in the one file, each adds its
statements here.
"""

from collections.abc import Sequence
from typing import TypeAlias

Statements: TypeAlias = tuple[str, ...]

APPLICATION_ID = 0x6F61_7274
"""Marks a file as ours: "oart"."""

SESSIONS: Statements = (
    # `record` is all of the session; the other columns are what it is found by. `due` is when `expire` looks at it, at the
    # latest `expires_at`: that changes with each write, and the index of `due` only when somebody has looked.
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        owner BLOB NOT NULL,
        session_id TEXT NOT NULL,
        agent_id TEXT NOT NULL,
        due REAL NOT NULL,
        expires_at REAL NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (owner, session_id)
    )
    """,
    "CREATE INDEX sessions_due ON sessions (due)",
    # One row for each append. Its id is the session's, times 2**32, plus the place of its first message: a conversation
    # is in one piece, and a part of it is found without an index. `operation` is who added it, known again.
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        operation TEXT,
        data BLOB NOT NULL,
        UNIQUE (session, operation)
    )
    """,
    # The id is the session's, times 2**32, plus the sequence number.
    """
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        checkpoint_id TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (session, checkpoint_id)
    )
    """,
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, run_id TEXT NOT NULL, record BLOB NOT NULL)",
    "CREATE UNIQUE INDEX runs_of_sessions ON runs (session, run_id)",
    # The id is the run's, times 2**32, plus the entry's number.
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    # The last operations of `write`, each in the place of the one that many versions before.
    """
    CREATE TABLE writes (
        session INTEGER NOT NULL, place INTEGER NOT NULL, operation TEXT NOT NULL, PRIMARY KEY (session, place)
    ) WITHOUT ROWID
    """,
    # Expired sessions of which nobody has been told, and whose id has been taken again.
    "CREATE TABLE expired (id INTEGER PRIMARY KEY, owner BLOB NOT NULL, session_id TEXT NOT NULL, agent_id TEXT NOT NULL)",
    # One row: how many sessions there are, and the last fencing token.
    "CREATE TABLE session_numbers (sessions INTEGER NOT NULL, fence INTEGER NOT NULL)",
    "INSERT INTO session_numbers VALUES (0, 0)",
    """
    CREATE TRIGGER session_shortened AFTER UPDATE OF expires_at ON sessions WHEN new.expires_at < old.due BEGIN
        UPDATE sessions SET due = new.expires_at WHERE id = old.id;
    END
    """,
    """
    CREATE TRIGGER session_added AFTER INSERT ON sessions BEGIN
        UPDATE session_numbers SET sessions = sessions + 1;
    END
    """,
    """
    CREATE TRIGGER session_deleted AFTER DELETE ON sessions BEGIN
        UPDATE session_numbers SET sessions = sessions - 1;
        DELETE FROM messages WHERE id >= (old.id << 32) AND id < ((old.id + 1) << 32);
        DELETE FROM checkpoints WHERE id >= (old.id << 32) AND id < ((old.id + 1) << 32);
        DELETE FROM runs WHERE session = old.id;
        DELETE FROM writes WHERE session = old.id;
    END
    """,
    """
    CREATE TRIGGER run_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM entries WHERE id >= (old.id << 32) AND id < ((old.id + 1) << 32);
    END
    """,
)

MIGRATIONS: Sequence[Statements] = ((*SESSIONS,),)
