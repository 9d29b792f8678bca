"""What the tests of the cache share: an executor around one, a listener, and stores that fail."""

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from tests.stores.limiting import Clock

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    EventBus,
    KeyValueStore,
    MemoryKeyValueStore,
    SessionManager,
    StreamEvent,
    TextDelta,
)
from agent_runtime.testing import ScriptedLLMClient
from agent_runtime_middleware.cache import CacheMiddleware

ASKED = AgentContext(agent_id="support", user_id="ann", current_task="What?")


class Scene:
    """An executor around one cache; its store and its clock."""

    def __init__(
        self,
        *script: Any,
        store: KeyValueStore | None = None,
        tools: Any = (),
        bus: EventBus | None = None,
        sessions: SessionManager | None = None,
        outside: Any = (),
        inside: Any = (),
        repeat: bool = False,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.store = MemoryKeyValueStore(clock=self.clock) if store is None else store
        self.client = ScriptedLLMClient(script, repeat=repeat)
        self.cache = CacheMiddleware(self.store, clock=self.clock, **options)
        self.executor = AgentExecutor(
            config=AgentConfig(name="support", retry_attempts=1),
            llm_client=self.client,
            tools=tools,
            middleware=[*outside, self.cache, *inside],
            event_bus=bus,
            session_manager=sessions,
        )

    async def ask(self, context: AgentContext = ASKED, **options: Any) -> AgentResult:
        return await self.executor.execute(context, **options)

    async def answers(self, times: int) -> list[str]:
        return [(await self.ask()).output for _ in range(times)]

    @property
    def counts(self) -> dict[str, int]:
        """What the cache has counted, without what it has not."""
        return {name: count for name, count in msgspec.structs.asdict(self.cache.stats).items() if count}


class Listener:
    """The text that was told, and each event."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []

    async def __call__(self, event: StreamEvent) -> None:
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDelta)]


class BadStore:
    """A store of which one operation does what it is told instead."""

    def __init__(self, operation: str, acts: Callable[[], Any]) -> None:
        self._store = MemoryKeyValueStore()
        self._operation = operation
        self._acts = acts

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if name == self._operation:
                await self._acts()
            return await getattr(self._store, name)(*args, **options)

        return call


def raises(error: Exception) -> Callable[[], Any]:
    async def act() -> None:
        raise error

    return act


async def hangs() -> None:
    await anyio.sleep_forever()
