"""One client: what the stores of this folder share."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypedDict, TypeVar
from urllib.parse import unquote, urlsplit

import anyio
import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from typing_extensions import Unpack

from agent_runtime import AgentRuntimeError, ConfigurationError, ServerStore, StoreServer, StoreUnavailable
from agent_runtime_adapters.mongodb.failures import translated, unreached
from agent_runtime_adapters.mongodb.fitness import Durability, check, is_replicated
from agent_runtime_adapters.mongodb.indexes import make_indexes

Document: TypeAlias = dict[str, Any]
Collections: TypeAlias = AsyncDatabase[Document]
Clock: TypeAlias = Callable[[], float]

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_PLACE = re.compile(r"[A-Za-z0-9.,:%_\[\]-]+")
_PATIENCE = 0.9  # of what is left of the timeout, for the driver: its own error says more than ours
_LOOK = (
    0.4  # of the timeout, for the driver to connect and to look at a server, so that it looks again before it is over
)
_SHORTEST = 0.001  # seconds, where none are left: none at all would be no limit
_LAST_WORDS = 1.0  # seconds that the client has to say goodbye


class DatabaseOptions(TypedDict, total=False):
    """What `MongoDatabase` takes besides the URL."""

    database: str
    timeout: float
    durability: Durability


class MongoDatabase(StoreServer[Collections]):
    """A database of a MongoDB 5.0 or later, that several stores of one process may share.

    A standalone server, a replica set and a sharded cluster do alike: each operation is made of steps on single
    documents, of which one decides, and needs no transactions. The first connection looks whether the server is fit, and
    makes the indexes, safely from many processes at once.

    Args:
        url: `mongodb://{user}:{password}@host:port/database?replicaSet=…`; the database in it wins over `database`. Signs
            such as `@`, `/` and `?` in a user or password are percent-encoded.
        database: Where the collections are. Nothing else needs to be in it, and may be.
        timeout: Seconds for each call. A replica set without a primary is waited for so long.
        durability: A write is acknowledged by a majority of the servers and in their journals. `"volatile"` takes what
            the URL says instead (`w`, `journal`), and a server that keeps its data in memory only.
        namespace: A database that wins over the URL's, which then only says where the user is known.

    Raises `ConfigurationError` for a URL or an option that it does not take; later, for a server that is not fit.
    """

    def __init__(
        self,
        url: str,
        *,
        database: str = "agent_runtime",
        timeout: float = 5.0,
        durability: Durability = "durable",
        namespace: str | None = None,
    ) -> None:
        place, given = _parts(url)
        super().__init__(f"MongoDB at {place}", timeout=timeout)
        if durability not in ("durable", "volatile"):
            raise ConfigurationError(f"durability is {durability!r}, and must be 'durable' or 'volatile'")
        self.database = (given or database) if namespace is None else namespace
        if not _NAME.fullmatch(self.database):
            raise ConfigurationError(f"database is {self.database!r}, and must be 1 to 63 letters, digits, _ and -")
        self._url = url
        self._durability: Durability = durability

    async def connect(self) -> Collections:
        try:
            client = self._client()
        except (PyMongoError, ValueError, TypeError) as error:  # its words may be those of the URL
            raise ConfigurationError(
                f"{self.name} cannot be reached as the URL says: one of its options is wrong"
            ) from error
        try:
            return await self._before(lambda: self._prepared(client))
        except BaseException:
            await self._close(client)
            raise

    def _client(self) -> AsyncMongoClient[Document]:
        """Repeats are ours, which know what may be repeated."""
        return AsyncMongoClient(
            self._url,
            retryWrites=False,
            retryReads=False,
            tz_aware=True,
            connectTimeoutMS=math.ceil(self.timeout * _LOOK * 1_000),
            serverMonitoringMode="poll",  # a server that is gone is looked for by who needs it, every 0.5 s
            appname="agent-runtime",
        )

    async def _prepared(self, client: AsyncMongoClient[Document]) -> Collections:
        hello: Document = await client.admin.command("hello")
        collections = client.get_database(
            self.database,
            read_preference=ReadPreference.PRIMARY,
            write_concern=self._acknowledged(client.write_concern),
            read_concern=self._confirmed() if is_replicated(hello) else ReadConcern(),
        )
        await check(hello, collections, self.name, self._durability)
        await make_indexes(collections)
        return collections

    def _acknowledged(self, given: WriteConcern) -> WriteConcern:
        if self._durability == "volatile":
            return given
        return WriteConcern("majority", j=True, wtimeout=math.ceil(self.timeout * 1_000))

    def _confirmed(self) -> ReadConcern:
        """What nobody waits for to reach a majority must be read before it does."""
        return ReadConcern("local" if self._durability == "volatile" else "majority")

    async def disconnect(self, connection: Collections) -> None:
        await self._close(connection.client)

    async def _close(self, client: AsyncMongoClient[Document]) -> None:
        with pymongo.timeout(_LAST_WORDS), anyio.move_on_after(2 * _LAST_WORDS, shield=True):
            await client.close()

    async def do(
        self, call: Callable[[Collections], Awaitable[T]], *, writes: bool = True, repeatable: bool = False
    ) -> T:
        async def uncut(collections: Collections) -> T:
            client = collections.client
            if not client.topology_description.has_writable_server():
                await self._before(lambda: client.admin.command("ping"))
            return await self._uncut(lambda: call(collections))

        return await super().do(uncut, writes=writes, repeatable=repeatable)

    async def _before(self, call: Callable[[], Awaitable[T]]) -> T:
        """Have it done ahead of what a caller asked for, of which nothing is done when it fails or takes too long."""
        with anyio.move_on_after(_left()):
            try:
                return await self._uncut(call)
            except Exception as error:
                ours = unreached(error, self.name)
                if ours is None:
                    raise
                raise ours from error
        raise StoreUnavailable(f"{self.name} was not reached in {self.timeout:g} s, or has no primary (timeout)")

    async def _uncut(self, call: Callable[[], Awaitable[T]]) -> T:
        """Have it done until this scope's deadline, and by the driver's own clock: cancelled, leave it to end by itself.

        On Python 3.11 a cancellation may take the driver's locks from those who hold them (it waits for its conditions by
        `asyncio.wait_for`): one that nobody has and nobody can get would end every call of the client.
        """
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        left = max(_left(), _SHORTEST)

        async def job() -> None:
            try:
                with pymongo.timeout(left):
                    done = await call()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(done)

        def over() -> None:
            outcome.cancel()  # without one, where `aclose` has ended it

        self.start(job, on_end=over)
        return await outcome

    def translated(self, error: Exception) -> AgentRuntimeError | None:
        return translated(error, self.name)


class MongoStore(ServerStore[MongoDatabase]):
    """What each store of this folder is: a `MongoDatabase`, its own or a shared one, that somebody else closes.

    `clock` gives Unix seconds in the place of the server's own time.
    """

    def __init__(
        self, database: str | MongoDatabase, /, *, clock: Clock | None = None, **options: Unpack[DatabaseOptions]
    ) -> None:
        owned = not isinstance(database, MongoDatabase)
        if isinstance(database, MongoDatabase):
            if options:
                raise ConfigurationError(f"{', '.join(options)}: set where the database that is shared is made")
            super().__init__(database, owned=owned)
        else:
            super().__init__(MongoDatabase(database, **options), owned=owned)
        self._clock = clock


def _left() -> float:
    """Seconds that the driver has."""
    return _PATIENCE * (anyio.current_effective_deadline() - anyio.current_time())


def _parts(url: str) -> tuple[str, str]:
    """Host and port without user and password, which a URL that is not encoded well may have anywhere; the database."""
    parts = urlsplit(url) if url.lower().startswith(("mongodb://", "mongodb+srv://")) else None
    _, _, place = ("", "", "") if parts is None else parts.netloc.rpartition("@")
    if parts is None or "@" in parts.path + parts.query + parts.fragment or not _PLACE.fullmatch(place):
        raise ConfigurationError(
            "a MongoDB URL is mongodb://{user}:{password}@host:port/database?options, with the signs in user and password"
            " percent-encoded"
        )
    return place, unquote(parts.path.removeprefix("/"))
