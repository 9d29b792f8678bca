"""A cache under load, faults and hostile names: one computation, nobody else's answer, and nothing but whole answers."""

import ast
import os
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stores.caching import ASKED, Listener, Scene
from tests.stores.waited import waited

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    ConfigurationError,
    ConsumerGone,
    ErrorType,
    KeyValueStore,
    MemoryKeyValueStore,
    Message,
    ModelRequest,
    ModelResponse,
    Owner,
    Principal,
    ProviderUnavailable,
    RequestRejected,
    Secret,
    StreamEvent,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, Trial, cancellations, inject, no_leaks
from agent_runtime.testing.session_samples import OWNERS, any_owners
from agent_runtime_adapters.sqlite import SQLiteKeyValueStore
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
CALLERS = 100
ONCE = AgentConfig(name="support", retry_attempts=1)


# ---- F7 and S3: nobody gets what was made for another


@pytest.fixture(params=["memory", "distant", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[KeyValueStore]:
    if request.param != "sqlite":
        memory = MemoryKeyValueStore()
        yield memory if request.param == "memory" else waited(memory)
        return
    async with SQLiteKeyValueStore(tmp_path / "cache.db", synchronous="NORMAL") as opened:
        yield opened


class Made:
    """A model that says for whom it was asked, and a cache of each kind around it.

    Attributes:
        foreign: Answers that somebody was given for whom they were not.
        given: How many answers were given again.
    """

    def __init__(self, store: KeyValueStore) -> None:
        self.client = ScriptedLLMClient([self._say], repeat=True)
        self.foreign: list[tuple[Owner, str, str]] = []
        self.given = 0
        self._store = store
        self._executors: dict[tuple[Any, Any], AgentExecutor] = {}

    def _say(self, request: ModelRequest) -> ScriptedReply:
        owner = request.context.owner
        return ScriptedReply(text=repr((owner.tenant_id, owner.user_id, request.messages[-1].content)), delay=1e-9)

    async def ask(self, owner: Owner, task: str, share: Any, stage: Any) -> None:
        executor = self._executors.get((share, stage))
        if executor is None:
            cache = CacheMiddleware(self._store, share=share, stage=stage)
            executor = AgentExecutor(config=ONCE, llm_client=self.client, middleware=[cache])
            self._executors[share, stage] = executor
        result = await executor.execute(
            AgentContext(user_id=owner.user_id, tenant_id=owner.tenant_id, current_task=task)
        )
        self.given += result.served_by == "cache"
        if not self._is_for(owner, task, share, result.output):
            self.foreign.append((owner, share, result.output))

    def _is_for(self, owner: Owner, task: str, share: str, output: str) -> bool:
        tenant, user, asked = cast("tuple[str | None, str, str]", ast.literal_eval(output))
        same_user = (tenant, user) == (owner.tenant_id, owner.user_id)
        same_tenant = share == "tenant" and tenant is not None and tenant == owner.tenant_id
        return asked == task and (share == "everyone" or same_user or same_tenant)


some_owners = st.lists(st.sampled_from(OWNERS) | any_owners, min_size=2, max_size=5, unique=True)
some_tasks = st.sampled_from(["a", "b", "a:b", "a\0b", "ann", "acme"])
calls = st.lists(
    st.tuples(
        st.integers(0, 4),
        some_tasks,
        st.sampled_from(["user", "tenant", "everyone"]),
        st.sampled_from(["model", "run"]),
    ),
    min_size=2,
    max_size=12,
)


@settings(
    max_examples=5_000 if SOAK else 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(owners=some_owners, calls=calls, at_once=st.booleans())
async def test_s3_f7_no_owner_ever_gets_an_answer_that_was_made_for_another(
    store: KeyValueStore, owners: list[Owner], calls: list[tuple[int, str, str, str]], at_once: bool
) -> None:
    made = Made(store)
    if at_once:
        async with anyio.create_task_group() as group:
            for place, task, share, stage in calls:
                group.start_soon(made.ask, owners[place % len(owners)], task, share, stage)
    else:
        for place, task, share, stage in calls:
            await made.ask(owners[place % len(owners)], task, share, stage)
    assert made.foreign == []


async def test_s3_every_pair_of_names_that_a_careless_key_mixes_up(store: KeyValueStore) -> None:
    made = Made(store)
    for share in ("user", "tenant"):
        for _ in range(2):
            for owner in OWNERS:
                await made.ask(owner, "a", share, "model")
    assert made.foreign == [] and made.given >= 2 * len(OWNERS)


# ---- F8: a key is not put together from parts that can be moved; any two questions: tests/unit/test_answer_key.py


@pytest.mark.parametrize(("one", "two"), [(("a:b", "c"), ("a", "b:c")), (("a", "bc"), ("ab", "c"))], ids=str)
async def test_f8_what_moves_from_one_part_to_the_next_is_another_question(
    one: tuple[str, str], two: tuple[str, str], store: KeyValueStore
) -> None:
    for stage in ("model", "run"):
        scene = Scene("first", "second", store=store, stage=stage)
        for (said, task), answer in ((one, "first"), (two, "second"), (one, "first"), (two, "second")):
            messages = (Message(role="user", content=said),)
            result = await scene.ask(ASKED.replace(messages=messages, current_task=task))
            assert result.output == answer


# ---- F9: a stampede is one computation


class Slow(ScriptedLLMClient):
    """A model that answers when it is let on."""

    def __init__(self) -> None:
        super().__init__(["A frog."], repeat=True)
        self.let_on = anyio.Event()
        self.called: defaultdict[int, anyio.Event] = defaultdict(anyio.Event)
        self.done = 0

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        response = await super().complete(request)
        self.called[self.calls].set()
        await self.let_on.wait()
        self.done += 1
        return response


class Crowd:
    """So many callers of one question, the first of which leads; what became of them."""

    def __init__(self, store: KeyValueStore, stage: Any) -> None:
        self.client = Slow()
        self.cache = CacheMiddleware(store, stage=stage, timeout=30)
        self.executor = AgentExecutor(config=ONCE, llm_client=self.client, middleware=[self.cache])
        self.scopes = [anyio.CancelScope() for _ in range(CALLERS)]
        self.results: dict[int, AgentResult] = {}

    async def ask(self, number: int, emit: Any = None) -> None:
        with self.scopes[number]:
            self.results[number] = await self.executor.execute(ASKED, emit=emit)

    async def asked(self, calls: int) -> None:
        """Until the model is called this often, and everybody waits."""
        await self.client.called[calls].wait()
        await anyio.wait_all_tasks_blocked()

    @property
    def is_at_rest(self) -> bool:
        return not len(vars(self.cache)["_flight"]) and not self.executor.runs


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_f9_a_hundred_callers_whose_leader_is_cancelled_are_one_computation(
    store: KeyValueStore, stage: Literal["model", "run"]
) -> None:
    crowd = Crowd(store, stage)
    async with no_leaks(), anyio.create_task_group() as group:
        group.start_soon(crowd.ask, 0)
        await crowd.asked(1)
        for number in range(1, CALLERS):
            group.start_soon(crowd.ask, number)
        await crowd.asked(1)
        crowd.scopes[0].cancel()
        await crowd.asked(2)
        crowd.client.let_on.set()
    assert (crowd.client.calls, crowd.client.done) == (2, 1)
    assert sorted(crowd.results) == list(range(1, CALLERS)) and crowd.is_at_rest
    assert {result.output for result in crowd.results.values()} == {"A frog."}
    assert sorted(result.served_by for result in crowd.results.values()) == ["agent", *["cache"] * (CALLERS - 2)]
    stats = crowd.cache.stats  # who was still reading when the answer had been kept has found it
    assert (stats.misses, stats.shared + stats.hits) == (2, CALLERS - 2)


async def test_f9_any_of_them_may_be_cancelled_and_the_rest_get_their_answer(store: KeyValueStore) -> None:
    crowd = Crowd(store, "model")
    async with anyio.create_task_group() as group:
        for number in range(CALLERS):
            group.start_soon(crowd.ask, number)
        for gone in range(0, CALLERS, 2):
            await crowd.asked(1)
            crowd.scopes[gone].cancel()
        await anyio.wait_all_tasks_blocked()
        crowd.client.let_on.set()
    assert sorted(crowd.results) == list(range(1, CALLERS, 2)) and crowd.is_at_rest
    assert crowd.client.done == 1


async def test_f9_a_leader_whose_consumer_is_gone_hands_over() -> None:
    crowd = Crowd(MemoryKeyValueStore(), "model")

    async def gone(event: StreamEvent) -> None:
        await crowd.client.let_on.wait()
        raise OSError("the connection is closed")

    async with anyio.create_task_group() as group:
        group.start_soon(crowd.ask, 0, gone)
        for number in range(1, CALLERS):
            group.start_soon(crowd.ask, number)
        await anyio.wait_all_tasks_blocked()
        crowd.client.let_on.set()
    assert isinstance(crowd.results[0].exception, ConsumerGone)
    assert {crowd.results[number].output for number in range(1, CALLERS)} == {"A frog."} and crowd.is_at_rest


async def test_f9_a_run_cancelled_at_any_await_leaves_the_table_empty_and_the_cache_whole() -> None:
    store = waited(MemoryKeyValueStore())
    cache = CacheMiddleware(store)
    client = ScriptedLLMClient([ScriptedReply(chunks=("A ", "frog."))], repeat=True, yields=True)
    executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[cache])

    async def check(trial: Trial) -> None:
        assert not len(vars(cache)["_flight"])
        assert (await executor.execute(ASKED)).output == "A frog."
        await store.delete_all(ASKED.owner)

    for fault in cancellations():
        trials = await inject(lambda: executor.execute(ASKED, emit=Listener()), check, fault=fault)
        assert len(trials) > 5


# ---- F10: only what is whole, successful and without effect is kept


class Writes(MemoryKeyValueStore):
    """Counts what is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    async def set(self, owner: Owner, key: str, value: bytes, *, ttl: float) -> int:
        self.count += 1
        return await super().set(owner, key, value, ttl=ttl)


def _sends_mail() -> str:
    return "sent"


def _is_cancelled(request: ModelRequest) -> str:
    request.run.cancel()
    return "half an ans"


INCOMPLETE: dict[str, tuple[Any, ...]] = {
    "provider down": (ProviderUnavailable("down"),),
    "refused": (RequestRejected("no"),),
    "late": (ScriptedReply(text="late", delay=5),),
    "broke off": (ScriptedReply(chunks=("half an ", ProviderUnavailable("broke off"))),),
    "silent in the middle": (ScriptedReply(chunks=("half an ", 5.0, "answer")),),
    "cut off": (ScriptedReply(text="half an ans", finish_reason="length"),),
    "filtered": (ScriptedReply(text="I may not.", finish_reason="content_filter"),),
    "empty": (ScriptedReply(text=""),),
    "cancelled": (_is_cancelled,),
    "effect": (ScriptedReply(tool_calls=(("_sends_mail", {}),)), ScriptedReply(text="half", finish_reason="length")),
}


@pytest.mark.parametrize("stage", ["model", "run"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("what", INCOMPLETE)
async def test_f10_nothing_else_is_kept(what: str, stream: bool, stage: Any) -> None:
    store = Writes()
    scene = Scene(
        *INCOMPLETE[what],
        store=store,
        tools=[tool(_sends_mail)],
        outside=[TimeoutMiddleware(run=0.1)],
        stage=stage,
        ttl=10,
    )
    await scene.ask(emit=Listener() if stream else None)
    assert store.count == 0


async def test_f10_the_answer_after_an_effect_is_kept_as_an_answer_and_never_in_place_of_the_effect() -> None:
    sent: list[str] = []

    @tool
    def send_mail() -> str:
        sent.append("mail")
        return "sent"

    def answer(request: ModelRequest) -> ScriptedReply:
        return (
            ScriptedReply(tool_calls=(("send_mail", {}),)) if request.step == 0 else ScriptedReply(text="It is sent.")
        )

    for stage in ("model", "run"):
        sent.clear()
        scene = Scene(answer, repeat=True, tools=[send_mail], stage=stage)
        assert await scene.answers(3) == ["It is sent."] * 3 and len(sent) == 3


# ---- F11: a right that was taken away is not served from a cache


async def test_f11_a_revoked_key_gets_nothing_of_what_was_kept_for_its_user() -> None:
    key, record = ApiKeys.generate("ann")
    records = {record.prefix: record}
    scene = Scene("A frog.", outside=[AuthMiddleware(ApiKeys(records))])
    asked = AgentContext(agent_id="support", credential=Secret(key.reveal()), current_task="What?")
    assert [(await scene.ask(asked)).served_by for _ in range(2)] == ["agent", "cache"]
    records[record.prefix] = record.revoke()
    assert (await scene.ask(asked)).error_type == ErrorType.AUTHENTICATION


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_f11_another_version_of_the_policy_is_another_key(stage: Any, store: KeyValueStore) -> None:
    client = ScriptedLLMClient(["by the first", "by the second"])
    for version, answer in (("1", "by the first"), ("1", "by the first"), ("2", "by the second")):
        cache = CacheMiddleware(store, version=version, stage=stage)
        executor = AgentExecutor(config=ONCE, llm_client=client, middleware=[cache])
        assert (await executor.execute(ASKED)).output == answer


async def test_f11_who_has_lost_a_scope_is_not_given_the_run_that_was_made_with_it() -> None:
    scene = Scene("with all rights", "with fewer", stage="run")
    wide = Principal(subject="ann", scopes=frozenset({"read", "write"}))
    narrow = Principal(subject="ann", scopes=frozenset({"read"}))
    outputs = [(await scene.ask(principal=principal)).output for principal in (wide, narrow, wide, narrow)]
    assert outputs == ["with all rights", "with fewer", "with all rights", "with fewer"]


async def test_f11_a_cache_outside_of_auth_is_refused_when_the_executor_is_built() -> None:
    layers = [CacheMiddleware(stage="run"), AuthMiddleware(ApiKeys({}))]
    with pytest.raises(ConfigurationError, match="AR001"):
        AgentExecutor(config=ONCE, llm_client=ScriptedLLMClient([]), middleware=layers, strict=True)
