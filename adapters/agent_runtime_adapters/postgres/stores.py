"""All stores of one PostgreSQL schema, by the database's URL."""

from collections.abc import Callable

from typing_extensions import Unpack

from agent_runtime import Stores
from agent_runtime_adapters.postgres.database import DatabaseOptions, PostgresDatabase
from agent_runtime_adapters.postgres.event_logs import PostgresEventLog
from agent_runtime_adapters.postgres.key_values import PostgresKeyValueStore
from agent_runtime_adapters.postgres.rate_limits import PostgresRateLimitStore
from agent_runtime_adapters.postgres.sessions import PostgresSessionStore


def open_postgres(url: str, *, clock: Callable[[], float] | None = None, **options: Unpack[DatabaseOptions]) -> Stores:
    """The stores at `postgresql://user:password@host:port/database`; options are `PostgresDatabase`'s."""
    database = PostgresDatabase(url, **options)
    return Stores(
        f"{database.name}, schema {database.schema}",
        sessions=PostgresSessionStore(database, clock=clock),
        key_values=PostgresKeyValueStore(database, clock=clock),
        rate_limits=PostgresRateLimitStore(database, clock=clock),
        event_log=PostgresEventLog(database, clock=clock),
        shared=database,
    )
