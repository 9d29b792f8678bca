"""One set of connections, and one schema: what the stores of this folder share."""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TypedDict
from urllib.parse import urlsplit

import asyncpg

from agent_runtime import AgentRuntimeError, ConfigurationError, StoreServer
from agent_runtime_adapters.postgres.connections import Connection, Connections, Rows
from agent_runtime_adapters.postgres.failures import is_lost, is_undone, translated, unopened, unreached
from agent_runtime_adapters.postgres.fitness import Durability, check, is_pooled
from agent_runtime_adapters.postgres.migrations import migrate

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PLACE = re.compile(r"[A-Za-z0-9.,:%_\[\]-]*")
_STATEMENTS = 100  # more than there are
_WAITING = 0.5  # of the timeout, for a free connection: the rest is for the call


class DatabaseOptions(TypedDict, total=False):
    """What `PostgresDatabase` takes besides the URL."""

    schema: str
    timeout: float
    max_connections: int
    statement_cache_size: int | None
    durability: Durability


class PostgresDatabase(StoreServer[Connections]):
    """A PostgreSQL database, 13 or later, that several stores of one process may share.

    Each operation is one statement, which calls a function of the schema: one round trip, and one transaction by itself.
    Nothing is set in a database session, so PgBouncer may stand between, in transaction mode too. The first connection
    looks whether the server is fit, and makes or upgrades the schema, safely from many processes at once.

    Args:
        url: `postgresql://{user}:{password}@host:port/database?sslmode=…`, with several hosts if `target_session_attrs` says
            which of them is meant. Signs such as `@`, `/` and `?` in a user or password are percent-encoded.
        schema: Where the tables and functions are: lower-case letters, digits and `_`. Nothing else may be in it.
        timeout: Seconds for each call, half of which may go by until a connection is free.
        max_connections: How many are opened at most; a call whose session is being written holds one.
        statement_cache_size: Statements that each connection keeps prepared: by default 100, and none where a PgBouncer or
            the like stands between, which may give them to another. Without them a call is two round trips.
        durability: `"volatile"` accepts a server that may lose what it has acknowledged: without fsync, or with
            `synchronous_commit` off.

    Raises `ConfigurationError` for a URL or an option that it does not take; later, for a server that is not fit, and a
    schema of something else or of a newer version.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "agent_runtime",
        timeout: float = 5.0,
        max_connections: int = 10,
        statement_cache_size: int | None = None,
        durability: Durability = "durable",
    ) -> None:
        super().__init__(f"PostgreSQL at {_place(url)}", timeout=timeout)
        if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_"):
            raise ConfigurationError(
                f"schema is {schema!r}, and must be 1 to 63 lower-case letters, digits and _, not beginning with a digit or pg_"
            )
        if max_connections < 1 or (statement_cache_size or 0) < 0:
            raise ConfigurationError("max_connections must be 1 or more, and statement_cache_size 0 or more")
        if durability not in ("durable", "volatile"):
            raise ConfigurationError(f"durability is {durability!r}, and must be 'durable' or 'volatile'")
        self.schema = schema
        self._url = url
        self._max_connections = max_connections
        self._statement_cache_size = statement_cache_size
        self._statements = 0
        self._durability: Durability = durability

    async def call(self, function: str, *values: object, writes: bool = True, repeatable: bool = False) -> Rows:
        """The rows that `function` of the schema gives for the values, in one round trip and one transaction.

        What the server itself has undone (a deadlock, a shutdown before the commit) is asked for again, once. `writes` and
        `repeatable` as in `do`, which says what is raised.
        """
        statement = _statement(self.schema, function, len(values))

        async def called(connections: Connections) -> Rows:
            try:
                return await self._fetched(connections, statement, values)
            except Exception as error:
                if not is_undone(error):
                    raise
            return await self._fetched(connections, statement, values)

        return await self.do(called, writes=writes, repeatable=repeatable)

    async def connect(self) -> Connections:
        self._statements = self._statement_cache_size or 0
        connections = Connections(
            self._opened, maximum=self._max_connections, patience=self.timeout * _WAITING, later=self._later
        )
        connection = await self._taken(connections)
        try:
            await self._prepare(connection)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, AgentRuntimeError) or not isinstance(error, Exception):
                raise
            raise unreached(error, self.name) from error
        connections.give(connection)
        return connections

    async def _prepare(self, connection: Connection) -> None:
        await check(connection, self.name, self._durability)
        await migrate(connection, self.name, self.schema)
        if self._statement_cache_size is None and not await is_pooled(connection):
            self._statements = _STATEMENTS
            await connection.close()  # this one keeps none

    async def disconnect(self, connection: Connections) -> None:
        await connection.aclose()

    def translated(self, error: Exception) -> AgentRuntimeError | None:
        return translated(error, self.name)

    async def _opened(self) -> Connection:
        return await asyncpg.connect(self._url, statement_cache_size=self._statements)

    def _later(self, job: Callable[[], Awaitable[object]]) -> None:
        self.start(job, on_end=_nothing)

    async def _taken(self, connections: Connections) -> Connection:
        try:
            return await connections.take()
        except Exception as error:  # nothing was sent, whatever it is
            raise unopened(error, self.name) from error

    async def _fetched(self, connections: Connections, statement: str, values: Sequence[object]) -> Rows:
        connection = await self._taken(connections)
        try:
            rows = await connection.fetch(statement, *values)
        except Exception as error:
            if is_lost(error):  # so may be the others
                connection.terminate()
                connections.drop()
            connections.give(connection)
            raise
        except BaseException:
            connections.discard(connection)
            raise
        connections.give(connection)
        return rows


@cache
def _statement(schema: str, function: str, values: int) -> str:
    return f'SELECT * FROM "{schema}".{function}({", ".join(f"${number}" for number in range(1, values + 1))})'


def _place(url: str) -> str:
    """Host and port, without user and password, which a URL that is not encoded well may have anywhere."""
    parts = urlsplit(url) if url.startswith(("postgresql://", "postgres://")) else None
    _, _, place = ("", "", "") if parts is None else parts.netloc.rpartition("@")
    misplaced = parts is None or "@" in parts.path + parts.fragment or ("@" in parts.query and not parts.path)
    if misplaced or not _PLACE.fullmatch(place):
        raise ConfigurationError(
            "a PostgreSQL URL is postgresql://{user}:{password}@host:port/database, with the signs in user and password"
            " percent-encoded"
        )
    return place or "its default place"


def _nothing() -> None:
    pass
