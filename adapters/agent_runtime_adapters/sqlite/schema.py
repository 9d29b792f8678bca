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
    # One row for each append: `first` is the place of its first message, `operation` who added it, known again.
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        first INTEGER NOT NULL,
        operation TEXT,
        data BLOB NOT NULL,
        UNIQUE (session, first),
        UNIQUE (session, operation)
    )
    """,
    """
    CREATE TABLE checkpoints (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        checkpoint_id TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (session, sequence),
        UNIQUE (session, checkpoint_id)
    )
    """,
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        session INTEGER NOT NULL,
        run_id TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (session, run_id)
    )
    """,
    """
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (run, number)
    )
    """,
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
        DELETE FROM messages WHERE session = old.id;
        DELETE FROM checkpoints WHERE session = old.id;
        DELETE FROM runs WHERE session = old.id;
        DELETE FROM writes WHERE session = old.id;
    END
    """,
    """
    CREATE TRIGGER run_deleted AFTER DELETE ON runs BEGIN
        DELETE FROM entries WHERE run = old.id;
    END
    """,
)

KEY_VALUES: Statements = (
    # `record` is all of the value; the other columns are what it is found by. `key` is UTF-8, with lone surrogates.
    """
    CREATE TABLE key_values (
        id INTEGER PRIMARY KEY,
        owner BLOB NOT NULL,
        key BLOB NOT NULL,
        expires_at REAL NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (owner, key)
    )
    """,
    "CREATE INDEX key_values_expiring ON key_values (expires_at)",
    # One row: the last version that a value was given.
    "CREATE TABLE key_value_numbers (version INTEGER NOT NULL)",
    "INSERT INTO key_value_numbers VALUES (0)",
)

RATE_LIMITS: Statements = (
    # `record` is all of the cell; from `empty_at` on it is like one that is not there.
    """
    CREATE TABLE rate_cells (key BLOB PRIMARY KEY, empty_at REAL NOT NULL, record BLOB NOT NULL) WITHOUT ROWID
    """,
    "CREATE INDEX rate_cells_expiring ON rate_cells (empty_at)",
)

EVENT_LOGS: Statements = (
    """
    CREATE TABLE event_logs (
        id INTEGER PRIMARY KEY,
        owner BLOB NOT NULL,
        stream TEXT NOT NULL,
        expires_at REAL NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (owner, stream)
    )
    """,
    "CREATE INDEX event_logs_expiring ON event_logs (expires_at)",
    # The id is the log's, times 2**32, plus the sequence number.
    "CREATE TABLE events (id INTEGER PRIMARY KEY, record BLOB NOT NULL)",
    """
    CREATE TRIGGER event_log_deleted AFTER DELETE ON event_logs BEGIN
        DELETE FROM events WHERE id >= (old.id << 32) AND id < ((old.id + 1) << 32);
    END
    """,
)

MIGRATIONS: Sequence[Statements] = ((*SESSIONS, *KEY_VALUES, *RATE_LIMITS, *EVENT_LOGS),)
