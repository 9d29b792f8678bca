"""All stores of one MongoDB database, by its URL."""

from typing_extensions import Unpack

from agent_runtime import LogBounds, Stores
from agent_runtime_adapters.mongodb.database import Clock, DatabaseOptions, MongoDatabase
from agent_runtime_adapters.mongodb.event_logs import MongoEventLog
from agent_runtime_adapters.mongodb.key_values import MongoKeyValueStore
from agent_runtime_adapters.mongodb.rate_limits import MongoRateLimitStore
from agent_runtime_adapters.mongodb.sessions import MongoSessionStore


def open_mongodb(
    url: str,
    *,
    namespace: str | None = None,
    clock: Clock | None = None,
    log_bounds: LogBounds | None = None,
    **options: Unpack[DatabaseOptions],
) -> Stores:
    """The stores at `mongodb://host:port/database` or `mongodb+srv://host/database`; options are `MongoDatabase`'s.

    `namespace` is a database that is erased, and is used in the place of the one that the URL names, as `database` is not.
    `clock` gives Unix seconds in the place of the server's own time. Raises `ConfigurationError` for a URL or an option that
    it does not take.
    """
    database = MongoDatabase(url, namespace=namespace, **options)

    async def erase() -> None:
        await database.do(lambda at: at.client.drop_database(at), repeatable=True)

    return Stores(
        database.name,
        sessions=MongoSessionStore(database, clock=clock),
        key_values=MongoKeyValueStore(database, clock=clock),
        rate_limits=MongoRateLimitStore(database, clock=clock),
        event_log=MongoEventLog(database, clock=clock, bounds=log_bounds),
        shared=database,
        erase=None if namespace is None else erase,
    )
