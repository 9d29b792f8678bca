"""A database that each test finds empty, with its indexes."""

from agent_runtime_adapters.mongodb import MongoSessionStore
from agent_runtime_adapters.mongodb.database import Collections

_SESSIONS = ("sessions", "session_parts", "session_gates")


async def emptied(store: MongoSessionStore) -> MongoSessionStore:
    """The store, in whose database no session is any more."""
    await store.server.do(_empty)
    return store


async def _empty(collections: Collections) -> None:
    for name in _SESSIONS:
        await collections[name].delete_many({})
