"""The schema: tables and functions, and how a database of an older version gets them.

`MIGRATIONS[n]` are the files of `sql` that take a schema from version `n` to `n + 1`. A released one never changes: what is
new is a tuple more at the end, and a function that takes or gives something else gets another name, so that processes of the
version before work on until they end. In the files the schema is called `agent_runtime`.
"""

from collections.abc import Sequence
from importlib import resources

from agent_runtime import ConfigurationError
from agent_runtime_adapters.postgres.connections import Connection

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        "001_sessions.sql",
        "001_session_making.sql",
        "001_session_rows.sql",
        "001_session_content.sql",
        "001_session_runs.sql",
        "001_key_values.sql",
        "001_rate_limits.sql",
        "001_event_logs.sql",
    ),
)

# The table that marks a schema as ours.
_VERSIONS = """
CREATE TABLE agent_runtime.agent_runtime_schema (
    version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
# Not by `to_regclass`: that remembers, after the wait for the lock, that there was none before it.
_IS_OURS = """
SELECT EXISTS (
    SELECT FROM pg_class JOIN pg_namespace AS there ON there.oid = relnamespace
     WHERE nspname = $1 AND relname = 'agent_runtime_schema'
)
"""
_EMPTY = """
SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = there.oid)
   AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = there.oid)
  FROM pg_namespace AS there WHERE nspname = $1
"""


async def migrate(connection: Connection, name: str, schema: str) -> None:
    """Bring the schema to the newest version, in one transaction; many processes may do so at once, and one does.

    Raises `ConfigurationError` where the schema is something else's, or newer; then it stays as it is.
    """
    if await _version(connection, name, schema) == len(MIGRATIONS):
        return
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('agent_runtime migrates ' || $1, 0))", schema
        )
        version = await _version(connection, name, schema)
        if version is None:
            await _begin(connection, name, schema)
        for number, files in enumerate(MIGRATIONS[version or 0 :], (version or 0) + 1):
            for file in files:
                await connection.execute(_named(_text(file), schema))
            await connection.execute(
                _named("INSERT INTO agent_runtime.agent_runtime_schema (version) VALUES ($1)", schema), number
            )


async def _version(connection: Connection, name: str, schema: str) -> int | None:
    """The schema's version; `None` where there is none."""
    if not await connection.fetchval(_IS_OURS, schema):
        return None
    version = int(
        await connection.fetchval(
            _named("SELECT coalesce(max(version), 0) FROM agent_runtime.agent_runtime_schema", schema)
        )
    )
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"schema {schema!r} at {name} has version {version}, made by a newer version of this library; this one knows"
            f" version {len(MIGRATIONS)}: upgrade it"
        )
    return version


async def _begin(connection: Connection, name: str, schema: str) -> None:
    empty = await connection.fetchval(_EMPTY, schema)
    if empty is False:
        raise ConfigurationError(
            f"schema {schema!r} at {name} holds something else, and stays as it is: choose another schema"
        )
    if empty is None:
        await connection.execute(_named("CREATE SCHEMA agent_runtime", schema))
    await connection.execute(_named(_VERSIONS, schema))


def _text(file: str) -> str:
    return (resources.files("agent_runtime_adapters.postgres") / "sql" / file).read_text("utf-8")


def _named(text: str, schema: str) -> str:
    """The SQL for this schema, whose name has been checked."""
    return text.replace("agent_runtime.", f'"{schema}".').replace(
        "CREATE SCHEMA agent_runtime", f'CREATE SCHEMA "{schema}"'
    )
