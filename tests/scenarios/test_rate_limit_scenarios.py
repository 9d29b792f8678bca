"""Scenarios 67 and 68: how many requests and tokens are admitted, and what somebody is told who is not."""

from pathlib import Path

import anyio
import pytest
from tests.stores.limiting import Clock

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    ErrorType,
    MemoryRateLimitStore,
    ModelRequest,
    ProviderUnavailable,
    RateLimitStore,
    Secret,
    StreamEvent,
    Usage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteRateLimitStore
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

HUNDRED = Quota(requests=100, per=60)
TOKENS = Quota(tokens=100, per=3_600, by="tenant", reserve=100)
ONCE = AgentConfig(name="support", retry_attempts=1)
HUNDRED_TOKENS = ScriptedReply(text="x", usage=Usage(input_tokens=40, output_tokens=60, requests=1))


def asked(user: str) -> AgentContext:
    return AgentContext(user_id=user, tenant_id="acme", current_task="hi")


async def answer(context: AgentContext) -> str:
    return "hello"


async def admitted(executor: AgentExecutor, user: str, count: int) -> int:
    return sum([(await executor.execute(asked(user))).success for _ in range(count)])


async def test_s67_the_hundred_and_first_request_of_a_user_is_refused_and_says_when_to_come_back() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(clock=clock)
    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware([HUNDRED], store=store)])
    assert await admitted(executor, "ann", 100) == 100
    refused = await executor.execute(asked("ann"))
    assert (refused.success, refused.error_type, refused.retryable) == (False, ErrorType.RATE_LIMIT, True)
    assert {name: refused.error_details[name] for name in ("limit", "remaining", "per")} == {
        "limit": 100,
        "remaining": 0,
        "per": 60,
    }
    assert refused.error_details["reset"] == pytest.approx(60)
    assert refused.retry_after == pytest.approx(0.6)
    assert "ann" not in str(refused.error)

    assert await admitted(executor, "bob", 100) == 100

    clock.now += refused.retry_after or 0.0
    assert await admitted(executor, "ann", 2) == 1
    clock.now += 60
    assert await admitted(executor, "ann", 101) == 100


async def test_s67_two_executors_that_share_a_file_enforce_one_limit(tmp_path: Path) -> None:
    def executor(store: RateLimitStore) -> AgentExecutor:
        return AgentExecutor(answer, middleware=[RateLimitMiddleware([Quota(requests=20, per=3_600)], store=store)])

    counts: list[int] = []

    async def count(store: RateLimitStore) -> None:
        counts.append(await admitted(executor(store), "ann", 15))

    async with SQLiteRateLimitStore(tmp_path / "a.db") as one, SQLiteRateLimitStore(tmp_path / "a.db") as other:
        async with anyio.create_task_group() as group:
            group.start_soon(count, one)
            group.start_soon(count, other)
    assert sum(counts) == 20


async def test_s67_users_that_stay_away_take_no_room() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(clock=clock)
    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware([HUNDRED], store=store)])
    for n in range(500):
        await executor.execute(asked(f"u{n}"))
    assert store.key_count == 500
    clock.now += 60
    assert await admitted(executor, "ann", 10) == 10
    assert store.key_count == 1


async def test_s67_whose_limit_it_is_is_said_by_the_credential_and_nothing_else() -> None:
    key, record = ApiKeys.generate("ann", tenant="acme")
    layers = [AuthMiddleware(ApiKeys({record.prefix: record})), RateLimitMiddleware([Quota(requests=5, per=3_600)])]
    executor = AgentExecutor(answer, middleware=layers, strict=True)
    passed = 0
    for n in range(50):
        claims = {"user_id": f"u{n}", "x-forwarded-for": f"10.0.0.{n}", "tenant_id": f"t{n}"}
        context = AgentContext(credential=Secret(key.reveal()), current_task=f"hi {n}", metadata=claims)
        passed += (await executor.execute(context)).success
    assert passed == 5


async def together(executor: AgentExecutor, count: int) -> list[AgentResult]:
    return list(await executor.execute_batch([asked(f"u{n}") for n in range(count)], max_concurrency=count))


async def test_s68_of_fifty_calls_at_once_one_is_admitted_where_there_is_room_for_one() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=(0.02, "x"), usage=HUNDRED_TOKENS.usage)], repeat=True)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[RateLimitMiddleware([TOKENS])])
    results = await together(executor, 50)
    assert sum(result.success for result in results) == client.calls == 1
    assert {result.error_type for result in results if not result.success} == {ErrorType.RATE_LIMIT}


async def test_s68_a_call_that_uses_more_than_anybody_knew_is_the_only_one_and_is_paid_off() -> None:
    clock = Clock()
    layer = RateLimitMiddleware([TOKENS], store=MemoryRateLimitStore(clock=clock))
    client = ScriptedLLMClient([ScriptedReply(text="x", usage=Usage(output_tokens=150))], repeat=True)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[layer])
    results = await together(executor, 50)
    assert sum(result.success for result in results) == 1
    refused = await executor.execute(asked("ann"))
    assert refused.retry_after == pytest.approx((50 + 100) / 100 * 3_600)


async def consumed(event: StreamEvent) -> None:
    """A consumer that takes everything."""


async def test_s68_what_fails_or_streams_or_does_not_say_what_it_cost_is_counted() -> None:
    async def left_after(reply: str | ScriptedReply) -> float:
        clock = Clock()
        layer = RateLimitMiddleware([TOKENS], store=MemoryRateLimitStore(clock=clock))
        client = ScriptedLLMClient([reply, "x"])
        executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[layer])
        await executor.execute(asked("ann"), emit=consumed)
        refused = await executor.execute(asked("ann"))  # which wants all of it
        return 100 - (refused.retry_after or 0.0) / 36

    task = 1  # token: "hi"
    broken = ScriptedReply(chunks=("a", "b", "c", ProviderUnavailable("the provider broke off")))
    assert await left_after(broken) == pytest.approx(100 - task - 3)
    streamed = ScriptedReply(chunks=("a", "b"), usage=Usage(input_tokens=5, output_tokens=25))
    assert await left_after(streamed) == pytest.approx(70)
    assert await left_after("of an unknown model, 32 bytes ...") == pytest.approx(100 - task - 9)


async def test_s68_a_call_that_the_provider_refuses_costs_nothing() -> None:
    def answers(request: ModelRequest) -> ScriptedReply | ProviderUnavailable:
        return HUNDRED_TOKENS if client.calls == 20 else ProviderUnavailable("busy")

    client = ScriptedLLMClient([answers], repeat=True)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[RateLimitMiddleware([TOKENS])])
    assert [(await executor.execute(asked("ann"))).success for _ in range(21)] == [False] * 19 + [True, False]
    assert client.calls == 20
