"""Scenarios 34 to 39, and 73's second half: what is given again, to whom, and what a cache never does."""

from typing import Any

import anyio
import pytest
from tests.stores.caching import BadStore, Listener, raises
from tests.stores.limiting import Clock

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    MemoryKeyValueStore,
    ProviderUnavailable,
    StoreUnavailable,
    SystemEvent,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

ANN = AgentContext(agent_id="support", user_id="ann", tenant_id="acme", current_task="What is in the pond?")
BEN = ANN.replace(user_id="ben")


ONCE = AgentConfig(name="support", retry_attempts=1)


def executor(client: ScriptedLLMClient, *layers: Layer, config: AgentConfig = ONCE, **options: Any) -> AgentExecutor:
    return AgentExecutor(config=config, llm_client=client, middleware=layers, **options)


async def test_s34_a_question_asked_again_is_answered_without_the_model_until_its_time_is_over() -> None:
    clock = Clock()
    client = ScriptedLLMClient(["A frog.", "Two frogs."])
    support = executor(client, CacheMiddleware(MemoryKeyValueStore(clock=clock), ttl=60))
    first, second = [await support.execute(ANN) for _ in range(2)]
    assert (first.output, first.served_by) == ("A frog.", "agent")
    assert (second.output, second.served_by, client.calls) == ("A frog.", "cache", 1)
    clock.now += 60
    third = await support.execute(ANN)
    assert (third.output, third.served_by, client.calls) == ("Two frogs.", "agent", 2)


async def test_s35_two_users_never_get_each_others_answer() -> None:
    client = ScriptedLLMClient(["for Ann", "for Ben"])
    support = executor(client, CacheMiddleware())
    answers = [(await support.execute(context)).output for context in (ANN, BEN, ANN, BEN)]
    assert answers == ["for Ann", "for Ben", "for Ann", "for Ben"] and client.calls == 2


@pytest.mark.parametrize(("share", "calls"), [("tenant", 2), ("everyone", 1)])
async def test_s35_with_a_shared_scope_that_was_asked_for_one_call_serves_all(share: Any, calls: int) -> None:
    client = ScriptedLLMClient(["A frog."], repeat=True)
    support = executor(client, CacheMiddleware(share=share))
    for context in (ANN, BEN, ANN.replace(tenant_id="beta")):
        await support.execute(context)
    assert client.calls == calls


async def test_s36_a_failure_is_not_kept() -> None:
    client = ScriptedLLMClient([ProviderUnavailable("down"), "A frog."])
    support = executor(client, CacheMiddleware())
    first, second, third = [await support.execute(ANN) for _ in range(3)]
    assert first.error_type == ErrorType.PROVIDER
    assert (second.served_by, third.served_by, client.calls) == ("agent", "cache", 2)


async def test_s37_a_hundred_at_once_are_one_call_and_whoever_leaves_disturbs_nobody() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="A frog.", delay=0.1)])
    support = executor(client, CacheMiddleware())
    results: list[AgentResult] = []
    leaves = anyio.CancelScope()

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await support.execute(ANN))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask, leaves)
        for _ in range(98):
            group.start_soon(ask, anyio.CancelScope())
        await anyio.wait_all_tasks_blocked()
        leaves.cancel()
    assert leaves.cancelled_caught and client.calls == 1
    assert [result.output for result in results] == ["A frog."] * 99
    assert sorted(result.served_by for result in results) == ["agent", *["cache"] * 98]


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_s38_what_stands_outside_is_done_once_to_each_answer(stage: Any) -> None:
    async def signs(context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        return result.replace(output=f"{result.output} Yours, support.")

    client = ScriptedLLMClient(["A frog."])
    support = executor(client, signs, CacheMiddleware(stage=stage))
    outputs = [(await support.execute(ANN)).output for _ in range(3)]
    assert outputs == ["A frog. Yours, support."] * 3 and client.calls == 1
    listener = Listener()
    assert (await support.execute(ANN, emit=listener)).output == "A frog. Yours, support."


@pytest.mark.parametrize("operation", ["get", "set"])
async def test_s39_without_its_store_the_answer_comes_uncached_and_is_counted(operation: str) -> None:
    store: Any = BadStore(operation, raises(StoreUnavailable("away")))
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.MIDDLEWARE_FAILED, events.append)
        cache = CacheMiddleware(store)
        client = ScriptedLLMClient(["A frog."], repeat=True)
        support = executor(client, cache, event_bus=bus)
        results = [await support.execute(ANN) for _ in range(2)]
        await bus.drain()
    assert [(result.success, result.served_by) for result in results] == [(True, "agent")] * 2
    assert cache.stats.store_failures == len(events) == 2 and client.calls == 2
    assert all(event.metadata["degraded"] for event in events)


@tool(kind="pure")
def look(place: str) -> str:
    """Look at a place."""
    return place


@pytest.mark.parametrize(
    "changed",
    [
        {"config": AgentConfig(name="support", model="m2")},
        {"config": AgentConfig(name="support", temperature=0.0)},
        {"config": AgentConfig(name="support", system_prompt="Be brief.")},
        {"tools": [look]},
        {"agent_id": "sales"},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_s39_another_model_temperature_prompt_or_tool_is_another_question(changed: dict[str, Any]) -> None:
    cache = CacheMiddleware()
    client = ScriptedLLMClient(["A frog.", "A toad."])
    asked = ANN.replace(agent_id="")
    await executor(client, cache).execute(asked)
    result = await executor(client, cache, **changed).execute(asked)
    assert (result.output, client.calls) == ("A toad.", 2)


async def test_s73_what_came_after_a_retry_is_kept_like_any_answer() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="late", delay=60), "in time"])
    layers = [CacheMiddleware(), RetryMiddleware(delay=0), TimeoutMiddleware(model=0.5)]
    support = executor(client, *layers, config=AgentConfig(name="support"))
    first, second = [await support.execute(ANN) for _ in range(2)]
    assert (first.output, first.attempts, first.served_by) == ("in time", 2, "agent")
    assert (second.output, second.attempts, second.served_by, client.calls) == ("in time", 1, "cache", 2)
