"""The MongoDB session store against plain lists."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings
from tests.machines.session_machine import SessionStoreMachine
from tests.machines.session_model import Call
from tests.stores.mongodb import emptied

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime_adapters.mongodb import MongoDatabase, MongoSessionStore

T = TypeVar("T")


class Place:
    """Where the sessions are, and the event loop of their driver."""

    portal: BlockingPortal
    database: MongoDatabase


@pytest.fixture(scope="module", autouse=True)
def server(mongodb_url: str) -> Iterator[None]:
    with ExitStack() as stack:
        Place.portal = stack.enter_context(start_blocking_portal())
        Place.database = MongoDatabase(mongodb_url, database=f"s_{new_id()}", timeout=30.0)
        stack.enter_context(Place.portal.wrap_async_context_manager(Place.database))
        yield


class MongoSessionsMachine(SessionStoreMachine):
    def open(self) -> SessionStore:
        return self.call(emptied(MongoSessionStore(Place.database, clock=lambda: self.now)))

    def call(self, call: Call[T]) -> T:
        async def awaited() -> T:
            return await call

        return Place.portal.call(awaited)


TestMongoSessions = MongoSessionsMachine.TestCase
TestMongoSessions.settings = settings(max_examples=max(10, settings().max_examples // 5), stateful_step_count=40)
