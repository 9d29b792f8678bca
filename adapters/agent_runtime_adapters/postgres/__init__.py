"""Stores in a PostgreSQL database. Needs the `postgres` extra."""

try:
    from agent_runtime_adapters.postgres.database import PostgresDatabase
    from agent_runtime_adapters.postgres.event_logs import PostgresEventLog
    from agent_runtime_adapters.postgres.key_values import PostgresKeyValueStore
    from agent_runtime_adapters.postgres.rate_limits import PostgresRateLimitStore
    from agent_runtime_adapters.postgres.sessions import PostgresSessionStore
    from agent_runtime_adapters.postgres.stores import open_postgres
except ImportError as error:
    raise ImportError(
        "stores on PostgreSQL need the asyncpg library: pip install 'onion-agent-runtime[postgres]'"
    ) from error

__all__ = (
    "PostgresDatabase",
    "PostgresEventLog",
    "PostgresKeyValueStore",
    "PostgresRateLimitStore",
    "PostgresSessionStore",
    "open_postgres",
)
