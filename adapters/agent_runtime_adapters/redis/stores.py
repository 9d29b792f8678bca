"""All stores of one Redis, by its URL."""

from collections.abc import Callable
from functools import partial

from typing_extensions import Unpack

from agent_runtime import LogBounds, Stores
from agent_runtime_adapters.redis.event_logs import RedisEventLog
from agent_runtime_adapters.redis.key_values import RedisKeyValueStore
from agent_runtime_adapters.redis.lua import script
from agent_runtime_adapters.redis.rate_limits import RedisRateLimitStore
from agent_runtime_adapters.redis.server import RedisServer, ServerOptions
from agent_runtime_adapters.redis.sessions import RedisSessionStore

_ERASE = script("erase")
_END = b"0"  # of what a server goes through


def open_redis(
    url: str,
    *,
    namespace: str | None = None,
    clock: Callable[[], float] | None = None,
    log_bounds: LogBounds | None = None,
    **options: Unpack[ServerOptions],
) -> Stores:
    """The stores in the Redis of a URL, over one connection; URLs and more options are `RedisServer`'s.

    `namespace` is a `prefix` that is erased. Nothing is connected yet. Raises `ConfigurationError` for a URL or an option that does not fit.
    """
    if namespace is not None:
        options["prefix"] = namespace
    server = RedisServer(url, **options)
    return Stores(
        server.name,
        sessions=RedisSessionStore(server, clock=clock),
        key_values=RedisKeyValueStore(server, clock=clock),
        rate_limits=RedisRateLimitStore(server, clock=clock),
        event_log=RedisEventLog(server, clock=clock, bounds=log_bounds),
        shared=server,
        erase=None if namespace is None else partial(_erase, server),
    )


async def _erase(server: RedisServer) -> None:
    for number in range(server.shards):
        place = b""
        while place != _END:
            place = await server.run(_ERASE, [server.shard(number)], [place or _END], repeatable=True)
