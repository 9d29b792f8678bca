"""Stores in a MongoDB database: a standalone server, a replica set or a sharded cluster, with no transactions needed.

Needs the `mongodb` extra.
"""

try:
    import pymongo as pymongo
except ImportError as error:
    raise ImportError("stores in MongoDB need PyMongo: pip install 'onion-agent-runtime[mongodb]'") from error

from agent_runtime_adapters.mongodb.database import MongoDatabase
from agent_runtime_adapters.mongodb.event_logs import MongoEventLog
from agent_runtime_adapters.mongodb.key_values import MongoKeyValueStore
from agent_runtime_adapters.mongodb.rate_limits import MongoRateLimitStore
from agent_runtime_adapters.mongodb.sessions import MongoSessionStore
from agent_runtime_adapters.mongodb.stores import open_mongodb

__all__ = (
    "MongoDatabase",
    "MongoEventLog",
    "MongoKeyValueStore",
    "MongoRateLimitStore",
    "MongoSessionStore",
    "open_mongodb",
)
