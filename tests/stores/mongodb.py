"""A database that each test finds empty, with its indexes."""

from typing import TypeVar

import anyio

from agent_runtime_adapters.mongodb.database import Collections, MongoStore

S = TypeVar("S", bound=MongoStore)


async def emptied(store: S) -> S:
    """The store, in whose database nothing is any more."""
    await store.server.do(_empty)
    return store


async def _empty(collections: Collections) -> None:
    async with anyio.create_task_group() as tasks:
        for name in await collections.list_collection_names():
            tasks.start_soon(collections[name].delete_many, {})
