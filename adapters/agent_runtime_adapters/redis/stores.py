"""All stores of one Redis, by its URL."""

from collections.abc import Callable

from typing_extensions import Unpack

from agent_runtime import Stores
from agent_runtime_adapters.redis.event_logs import RedisEventLog
from agent_runtime_adapters.redis.key_values import RedisKeyValueStore
from agent_runtime_adapters.redis.rate_limits import RedisRateLimitStore
from agent_runtime_adapters.redis.server import RedisServer, ServerOptions
from agent_runtime_adapters.redis.sessions import RedisSessionStore


def open_redis(url: str, *, clock: Callable[[], float] | None = None, **options: Unpack[ServerOptions]) -> Stores:
    """The stores in the Redis of a URL, over one connection; URLs and options are `RedisServer`'s.

    Nothing is connected yet. Raises `ConfigurationError` for a URL or an option that does not fit.
    """
    server = RedisServer(url, **options)
    return Stores(
        server.name,
        sessions=RedisSessionStore(server, clock=clock),
        key_values=RedisKeyValueStore(server, clock=clock),
        rate_limits=RedisRateLimitStore(server, clock=clock),
        event_log=RedisEventLog(server, clock=clock),
        shared=server,
    )
