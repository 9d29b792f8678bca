"""Stores in Redis 7 or Valkey, alone, with Sentinels, or as a cluster. Needs the `redis` extra."""

try:
    import redis as redis
except ImportError as error:
    raise ImportError("stores in Redis need redis-py: pip install 'onion-agent-runtime[redis]'") from error

from agent_runtime_adapters.redis.event_logs import RedisEventLog
from agent_runtime_adapters.redis.event_transport import RedisEventTransport
from agent_runtime_adapters.redis.key_values import RedisKeyValueStore
from agent_runtime_adapters.redis.rate_limits import RedisRateLimitStore
from agent_runtime_adapters.redis.server import RedisServer
from agent_runtime_adapters.redis.sessions import RedisSessionStore
from agent_runtime_adapters.redis.stores import open_redis

__all__ = (
    "RedisEventLog",
    "RedisEventTransport",
    "RedisKeyValueStore",
    "RedisRateLimitStore",
    "RedisServer",
    "RedisSessionStore",
    "open_redis",
)
