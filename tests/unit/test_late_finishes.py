"""A worker that is paused in its last write, while another one completes its run."""

from typing import Any, cast

import anyio
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    Durability,
    ErrorType,
    Limits,
    MemorySessionStore,
    Resume,
    SessionManager,
    SessionStore,
)
from agent_runtime.testing import ScriptedLLMClient

ASKED = AgentContext(user_id="ann", session_id="s", current_task="hi")
LIMITS = Limits(lease=0.1, lease_renewal=0.05)


class Paused:
    """A store whose caller sleeps in `finish`, and renews no lease meanwhile."""

    def __init__(self, store: SessionStore) -> None:
        self.asleep, self.awake = anyio.Event(), anyio.Event()
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def finish(self, *arguments: Any, **options: Any) -> Any:
        self.asleep.set()
        await self.awake.wait()
        return await self._store.finish(*arguments, **options)

    async def renew(self, *arguments: Any, **options: Any) -> Any:
        await self.awake.wait()
        return await self._store.renew(*arguments, **options)


def worker(store: SessionStore, answer: str, durability: Durability) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="a"),
        llm_client=ScriptedLLMClient([answer]),
        session_manager=SessionManager(store, limits=LIMITS),
        limits=LIMITS,
        on_busy="wait",
        durability=durability,
    )


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_whose_answer_is_not_in_the_conversation_is_not_told_success(durability: Durability) -> None:
    store = MemorySessionStore()
    paused = Paused(store)
    late: list[AgentResult] = []
    resumed: list[AgentResult] = []

    async with anyio.create_task_group() as group:

        async def be_late() -> None:
            late.append(await worker(cast(SessionStore, paused), "late", durability).execute(ASKED))

        group.start_soon(be_late)
        await paused.asleep.wait()
        resumed.append(await worker(store, "resumed", durability).execute(ASKED, resume=Resume()))
        paused.awake.set()
    said = [message.content for message in await SessionManager(store).messages("s", owner=ASKED.owner)]
    assert said == ["hi", resumed[0].output]
    assert late[0].error_type is ErrorType.CONFLICT
