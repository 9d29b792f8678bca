"""The Redis session store against plain lists, connected anew between any two steps."""

import pytest
from hypothesis import settings
from tests.machines.session_machine import WaitingStoreMachine

from agent_runtime import SessionStore
from agent_runtime.ids import new_id
from agent_runtime_adapters.redis import RedisSessionStore


class RedisSessionsMachine(WaitingStoreMachine):
    url: str

    def open(self) -> SessionStore:
        self.prefix = new_id()
        return self.opened()

    def reopen(self) -> SessionStore:
        self.close()
        return self.opened()

    def teardown(self) -> None:
        self.close()
        super().teardown()

    def opened(self) -> SessionStore:
        self.redis = RedisSessionStore(self.url, prefix=self.prefix, clock=lambda: self.now)
        return self.redis

    def close(self) -> None:
        self.call(self.redis.aclose())


@pytest.fixture(autouse=True, scope="module")
def place(redis_url: str) -> None:
    RedisSessionsMachine.url = redis_url


TestRedisSessions = RedisSessionsMachine.TestCase
TestRedisSessions.settings = settings(max_examples=settings().max_examples // 4)  # each is a thousand calls of a server
