"""The collections, and the indexes of each: what is unique, what is found without a search, what the server removes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.database import AsyncDatabase

# From its `purge_at` on, the server removes a document by itself, also when nobody of us runs any more.
PURGE = IndexModel("purge_at", expireAfterSeconds=0)

INDEXES: Mapping[str, Sequence[IndexModel]] = MappingProxyType(
    {
        "sessions": (
            IndexModel("name", unique=True, sparse=True),
            IndexModel([("owner", ASCENDING), ("expires_at", ASCENDING)]),
            IndexModel("expires_at", sparse=True),
            PURGE,
        ),
        "session_parts": (
            IndexModel([("session", ASCENDING), ("place", ASCENDING)], unique=True),
            IndexModel("key", sparse=True),
            PURGE,
        ),
        "session_gates": (PURGE,),
        "key_values": (IndexModel("_id.owner"), PURGE),
        "rate_limits": (PURGE,),
        "event_logs": (IndexModel("_id.owner"), PURGE),
    }
)


async def make_indexes(collections: AsyncDatabase[dict[str, Any]]) -> None:
    """Make those that are not there. Any number of processes may do so at once."""
    for name, indexes in INDEXES.items():
        await collections[name].create_indexes(list(indexes))
