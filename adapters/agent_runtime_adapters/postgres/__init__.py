"""Stores in a PostgreSQL database. Needs the `postgres` extra."""

try:
    from agent_runtime_adapters.postgres.database import PostgresDatabase
except ImportError as error:
    raise ImportError(
        "stores on PostgreSQL need the asyncpg library: pip install 'onion-agent-runtime[postgres]'"
    ) from error

__all__ = ("PostgresDatabase",)
