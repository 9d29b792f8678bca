"""A database that each test finds empty, with its indexes."""

from typing import TypeVar

from agent_runtime_adapters.mongodb.database import Collections, MongoStore

SESSIONS = ("sessions", "session_parts", "session_gates")

S = TypeVar("S", bound=MongoStore)


async def emptied(store: S, *names: str) -> S:
    """The store, whose collections are empty: those of sessions, where no others are named."""

    async def empty(collections: Collections) -> None:
        for name in names or SESSIONS:
            await collections[name].delete_many({})

    await store.server.do(empty)
    return store
