"""Limits under load and faults: at the edge exactly the limit is admitted, and nothing that was used is free."""

import gc
import os
import time
import tracemalloc
from itertools import islice

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.stores.limiting import Clock, WatchedLimits, at_once, fails_with
from tests.stores.waited import waited

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    MemoryRateLimitStore,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    RateLimited,
    RateLimitStore,
    Secret,
    StoreUnavailable,
    StreamEvent,
    TextDelta,
    Usage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, Trial, cancellations, inject
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
ROUNDS = 100 if SOAK else 2
CALLERS = 1_000
ONCE = AgentConfig(name="a", retry_attempts=1)


def of(user: str) -> AgentContext:
    return AgentContext(user_id=user, tenant_id="acme", current_task="hi")


async def answer(context: AgentContext) -> str:
    return "fine"


async def rush(executor: AgentExecutor, count: int = CALLERS, user: str = "ann") -> list[AgentResult]:
    """So many runs of one user, all of them begun before the first ends."""
    return list(await executor.execute_batch([of(user) for _ in range(count)], max_concurrency=count))


def placed(place: str, clock: Clock) -> RateLimitStore:
    """A store in this process, or as it would be behind a network."""
    store = MemoryRateLimitStore(clock=clock)
    return store if place == "near" else waited(store)


# ---- F1: no key is kept for ever


async def test_f1_a_million_invented_users_take_the_room_of_a_thousand_and_get_one_allowance() -> None:
    clock = Clock()
    store = MemoryRateLimitStore(max_keys=1_000, clock=clock)
    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware([Quota(requests=5, per=60)], store=store)])
    users = 1_000_000 if SOAK else 6_000
    names = iter(range(users))
    admitted = 0

    async def held_after(count: int) -> int:
        """Bytes that are held after so many runs more, each of another user."""
        nonlocal admitted
        for n in islice(names, count):
            admitted += (await executor.execute(of(f"u{n}"))).success
            await checkpoint()  # at which an event loop clears its ended timers away
        gc.collect()  # the tracebacks of refusals
        return tracemalloc.get_traced_memory()[0]

    await held_after(users - 4_000)
    tracemalloc.start()
    growth = -await held_after(2_000) + await held_after(2_000)
    tracemalloc.stop()
    assert admitted == 1_000 + 5
    assert store.key_count <= 1_001 and store.overflowed == users - 1_000
    assert growth < 128 << 10


async def test_f1_while_the_store_is_away_there_is_no_more_room_either() -> None:
    store = WatchedLimits()
    store.before_take = fails_with(StoreUnavailable("away"))
    layer = RateLimitMiddleware([Quota(requests=1, per=0.001)], store=store)
    executor = AgentExecutor(answer, middleware=[layer])
    for n in range(1_000):
        await executor.execute(of(f"u{n}"))
    await anyio.sleep(0.01)
    for _ in range(20):
        await executor.execute(of("ann"))
    local = vars(layer)["_local"]
    assert isinstance(local, MemoryRateLimitStore) and local.key_count <= 1


# ---- F2: the key is the verified principal


async def test_f2_whatever_a_caller_writes_around_its_credential_it_has_one_limit() -> None:
    key, record = ApiKeys.generate("ann", tenant="acme")
    layers = [AuthMiddleware(ApiKeys({record.prefix: record})), RateLimitMiddleware([Quota(requests=10, per=3_600)])]
    executor = AgentExecutor(answer, middleware=layers)
    names = ("user_id", "tenant_id", "x-forwarded-for", "x-real-ip", "forwarded", "x-user-id", "api_key")
    admitted = 0
    for n in range(500):
        headers = {name: f"{n}.{place}" for place, name in enumerate(names)}
        claimed = "" if n % 3 else f"u{n}"
        credential = Secret(key.reveal())
        context = AgentContext(credential=credential, user_id=claimed, current_task="hi", metadata=headers)
        admitted += (await executor.execute(context)).success
    assert admitted == 10


# ---- F3: the wall clock is not asked


async def test_f3_a_wall_clock_that_jumps_admits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware([Quota(requests=10, per=3_600)])])
    wall = time.time()
    admitted = 0
    for n in range(100):
        jumped = wall + (-1) ** n * n * 86_400
        monkeypatch.setattr(time, "time", lambda jumped=jumped: jumped)
        admitted += (await executor.execute(of("ann"))).success
    assert admitted == 10


# ---- F4, R18: at the edge


@pytest.mark.parametrize("place", ["near", "far"])
async def test_f4_r18_of_a_thousand_callers_at_once_exactly_the_limit_is_admitted(place: str) -> None:
    clock = Clock()
    store = placed(place, clock)
    quotas = [Quota(requests=100, per=60), Quota(requests=150, per=60, by="tenant"), Quota(requests=900, per=60, by=())]
    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware(quotas, store=store)])
    for _ in range(ROUNDS):
        results = await rush(executor)
        assert sum(result.success for result in results) == 100
        assert all(result.success or isinstance(result.exception, RateLimited) for result in results)
        assert sum(result.success for result in await rush(executor, 100, "bob")) == 50  # what the tenant has left
        clock.now += 60


# ---- F5, R18: set aside before, settled after


class Counting:
    """A model that uses exactly what it was asked for."""

    def __init__(self) -> None:
        self.used = 0

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        await checkpoint()
        answer = int(request.parameters["max_tokens"])
        self.used += answer + 1  # the input is one token
        return ModelResponse.of("x", usage=Usage(input_tokens=1, output_tokens=answer, requests=1))


@pytest.mark.parametrize("place", ["near", "far"])
@pytest.mark.parametrize("callers", [50, CALLERS])
async def test_f5_r18_a_thousand_callers_at_the_edge_use_no_token_too_many(callers: int, place: str) -> None:
    clock = Clock()
    store = placed(place, clock)
    config = AgentConfig(name="a", retry_attempts=1, max_tokens=9)
    model = Counting()
    layer = RateLimitMiddleware([Quota(tokens=405, per=60)], store=store)
    executor = AgentExecutor(config=config, llm_client=model, middleware=[layer])
    for rounds in range(1, ROUNDS + 1):
        results = await rush(executor, callers)
        assert sum(result.success for result in results) == 40
        assert model.used == rounds * 400
        clock.now += 60


async def test_f5_what_is_set_aside_and_not_used_is_there_again() -> None:
    store = WatchedLimits()
    layer = RateLimitMiddleware([Quota(tokens=100, per=60, reserve=99)], store=store)
    client = ScriptedLLMClient([ScriptedReply(text="x", usage=Usage(output_tokens=1))], repeat=True)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[layer])
    assert (await executor.execute(of("ann"))).success
    assert await store.left() == 99


# ---- F6: nothing that was used is free, and nothing stays set aside


PIECES = ("a", "b", "c", "d")


async def test_f6_cancelled_at_any_await_a_streamed_call_costs_what_it_said_and_its_input() -> None:
    store = WatchedLimits()
    store.before_take = store.before_settle = at_once
    usage = Usage(input_tokens=1, output_tokens=len(PIECES))
    client = ScriptedLLMClient([ScriptedReply(chunks=PIECES, usage=usage)], repeat=True, yields=True)
    layer = RateLimitMiddleware([Quota(tokens=1_000, per=60)], store=store)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[layer])
    calls, said = 0, 0

    async def consumed(event: StreamEvent) -> None:
        nonlocal said
        said += isinstance(event, TextDelta)
        await checkpoint()

    async def check(trial: Trial) -> None:
        nonlocal calls, said
        used = sum(store.used)
        assert used == 1 + said if client.calls > calls else not used
        assert not store.charges or await store.left() == 1_000 - used
        calls, said = client.calls, 0
        store.used.clear()
        store.clock.now += 60

    for fault in cancellations():
        trials = await inject(lambda: executor.execute(of("ann"), emit=consumed), check, fault=fault)
        assert len(trials) > len(PIECES)


async def test_f6_a_call_that_fails_at_any_piece_costs_what_it_said_and_its_input() -> None:
    async def consumed(event: StreamEvent) -> None:
        await checkpoint()

    for count in range(len(PIECES) + 1):
        store = WatchedLimits()
        broken = ScriptedReply(chunks=(*PIECES[:count], ProviderUnavailable("it broke off")))
        layer = RateLimitMiddleware([Quota(tokens=1_000, per=60)], store=store)
        executor = AgentExecutor(config=ONCE, llm_client=ScriptedLLMClient([broken]), middleware=[layer])
        assert not (await executor.execute(of("ann"), emit=consumed)).success
        assert store.used == [count + 1 if count else 0]


# ---- F16: the store goes away and comes back


async def test_f16_while_the_store_is_away_each_process_admits_its_share_and_no_more() -> None:
    store = WatchedLimits()
    layer = RateLimitMiddleware([Quota(requests=100, per=3_600)], store=store)
    executor = AgentExecutor(answer, middleware=[layer])
    assert sum(result.success for result in await rush(executor, 30)) == 30

    store.before_take = fails_with(StoreUnavailable("away"))
    assert sum(result.success for result in await rush(executor)) == 50
    assert layer.store_failures == CALLERS

    store.before_take = checkpoint
    assert sum(result.success for result in await rush(executor)) == 70
    assert layer.store_failures == CALLERS


async def test_f16_a_store_that_refuses_in_a_rush_is_asked_once_by_each() -> None:
    store = WatchedLimits()
    store.before_take = fails_with(StoreUnavailable("away"))
    layer = RateLimitMiddleware([Quota(requests=100, per=60)], store=store, on_store_failure="refuse")
    results = await rush(AgentExecutor(answer, middleware=[layer]))
    assert {type(result.exception) for result in results} == {StoreUnavailable}
    assert store.calls == layer.store_failures == CALLERS
