"""All stores of one PostgreSQL schema, by the database's URL."""

from collections.abc import Callable

from typing_extensions import Unpack

from agent_runtime import LogBounds, Stores
from agent_runtime_adapters.postgres.connections import Connections
from agent_runtime_adapters.postgres.database import DatabaseOptions, PostgresDatabase
from agent_runtime_adapters.postgres.event_logs import PostgresEventLog
from agent_runtime_adapters.postgres.key_values import PostgresKeyValueStore
from agent_runtime_adapters.postgres.rate_limits import PostgresRateLimitStore
from agent_runtime_adapters.postgres.sessions import PostgresSessionStore


def open_postgres(
    url: str,
    *,
    namespace: str | None = None,
    clock: Callable[[], float] | None = None,
    log_bounds: LogBounds | None = None,
    **options: Unpack[DatabaseOptions],
) -> Stores:
    """The stores at `postgresql://{user}:{password}@host:port/database`; more options are `PostgresDatabase`'s.

    `namespace` is a `schema` that is erased.
    """
    if namespace is not None:
        options["schema"] = namespace
    database = PostgresDatabase(url, **options)

    async def erase() -> None:
        await database.do(lambda connections: _dropped(connections, database.schema), repeatable=True)

    return Stores(
        f"{database.name}, schema {database.schema}",
        sessions=PostgresSessionStore(database, clock=clock),
        key_values=PostgresKeyValueStore(database, clock=clock),
        rate_limits=PostgresRateLimitStore(database, clock=clock),
        event_log=PostgresEventLog(database, clock=clock, bounds=log_bounds),
        shared=database,
        erase=None if namespace is None else erase,
    )


async def _dropped(connections: Connections, schema: str) -> None:
    connection = await connections.take()
    try:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')
    finally:
        connections.give(connection)
