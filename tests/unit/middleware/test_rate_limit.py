"""RateLimitMiddleware: what is counted, for whom, when it refuses, and what happens while the store fails."""

import math
from collections.abc import Generator
from itertools import pairwise
from typing import Any, Literal

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from tests.stores.limiting import Clock, WatchedLimits, at_once, fails_with, hangs

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    CallTimeout,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    FunctionCall,
    Limits,
    MemoryKeyValueStore,
    MemoryRateLimitStore,
    Message,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
    ReasoningDelta,
    Stage,
    StoreUnavailable,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolDefinition,
    ToolStarted,
    Usage,
    model_middleware,
    reaches,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.rate_limit import By, OnStoreFailure, Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware

THREE = Quota(requests=3, per=60)
TOKENS = Quota(tokens=1_000, per=60, name="tokens", reserve=100)
ONCE = AgentConfig(name="a", retry_attempts=1)
ANSWER = ScriptedReply(text="fine", usage=Usage(input_tokens=30, output_tokens=12, requests=1))
INPUT = 3  # tokens that LONG is taken for
LONG = "ten bytes!"
AWAY = StoreUnavailable("the store is away")
NOBODY_KNOWS = OutcomeUnknown("the store did not say")


def by(user: str = "ann", tenant: str | None = None, agent: str = "a") -> AgentContext:
    return AgentContext(agent_id=agent, user_id=user, tenant_id=tenant, current_task=LONG)


async def answer(context: AgentContext) -> str:
    return "fine"


def around(layer: RateLimitMiddleware, bus: EventBus | None = None, limits: Limits | None = None) -> AgentExecutor:
    return AgentExecutor(answer, middleware=[layer], event_bus=bus, limits=limits)


def asking(client: ScriptedLLMClient, layer: RateLimitMiddleware, config: AgentConfig = ONCE) -> AgentExecutor:
    return AgentExecutor(config=config, llm_client=client, middleware=[layer])


def refusal_of(result: AgentResult) -> RateLimited:
    assert isinstance(result.exception, RateLimited), result
    return result.exception


# ---- what a quota is


def quota(**fields: Any) -> Quota:
    return Quota(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "set one of the two"),
        ({"requests": 1, "tokens": 1}, "set one of the two"),
        ({"requests": 0}, "requests=0"),
        ({"requests": -1}, "requests=-1"),
        ({"tokens": math.inf}, "tokens=inf"),
        ({"tokens": math.nan}, "tokens=nan"),
        ({"requests": "100"}, "requests='100'"),
        ({"requests": 1, "per": 0}, "per=0"),
        ({"requests": 1, "burst": 0}, "burst=0"),
        ({"tokens": 10, "reserve": 0}, "reserve=0"),
        ({"requests": 10, "burst": 0.5}, "burst=0.5.*at least 1"),
        ({"requests": 0.5}, "burst=0.5.*at least 1"),
        ({"requests": 1, "by": "users"}, "by='users'.*user, tenant, agent, model"),
        ({"requests": 1, "by": ("user", "user")}, "at most once"),
        ({"requests": 1, "name": ""}, "name=''"),
        ({"requests": 1, "name": "a\nb"}, "name="),
    ],
)
def test_a_quota_out_of_range_fails_when_it_is_made(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        quota(**{"per": 60, **fields})


def test_a_quota_can_be_read_from_a_file() -> None:
    read = msgspec.convert(
        [{"requests": 100, "per": 60, "by": ["user", "agent"]}, {"tokens": 5, "per": 1, "by": "model"}], list[Quota]
    )
    assert read == [Quota(requests=100, per=60, by=("user", "agent")), Quota(tokens=5, per=1, by="model")]
    with pytest.raises(msgspec.ValidationError, match=r"unknown field `window` - at `\$\[0\]`"):
        msgspec.convert([{"requests": 1, "per": 1, "window": 1}], list[Quota])
    with pytest.raises(msgspec.ValidationError, match=r"per=0.*above 0 and finite - at `\$\[1\]`"):
        msgspec.convert([{"requests": 1, "per": 1}, {"requests": 1, "per": 0}], list[Quota])


@pytest.mark.parametrize(
    ("quotas", "options", "words"),
    [
        ([], {}, "limits nothing"),
        ([THREE, THREE], {}, "a name of its own"),
        ([THREE], {"stage": "tool"}, "stage='tool'"),
        ([THREE], {"on_store_failure": "pray"}, "local, refuse, allow"),
        ([THREE], {"local_share": 0}, "local_share=0"),
        ([THREE], {"local_share": 1.5}, "at most 1"),
        ([Quota(requests=1, per=1, by="model")], {"stage": "run"}, "only the model stage knows"),
    ],
)
def test_a_layer_put_together_wrongly_fails_when_it_is_built(
    quotas: list[Quota], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimitMiddleware(quotas, **options)


@pytest.mark.parametrize(
    ("quotas", "stage", "stages"),
    [
        ([THREE], None, ["run"]),
        ([THREE], "model", ["model"]),
        ([TOKENS], None, ["model"]),
        ([TOKENS], "run", ["run"]),
        ([Quota(requests=1, per=1, by=("user", "model"))], None, ["model"]),
        ([THREE, TOKENS], None, ["run", "model"]),
    ],
)
def test_only_the_stages_that_have_a_quota_are_compiled_in(
    quotas: list[Quota], stage: Literal["run", "model"] | None, stages: list[str]
) -> None:
    shown = MiddlewarePipeline([RateLimitMiddleware(quotas, stage=stage)]).explain().split(" stage\n")
    assert [name.split()[-1] for name, body in pairwise(shown) if "(rate_limit)" in body] == stages


# ---- requests


async def test_a_refusal_says_which_quota_how_it_stands_and_when_to_come_back() -> None:
    clock = Clock()
    executor = around(RateLimitMiddleware([THREE], store=MemoryRateLimitStore(clock=clock)))
    for _ in range(3):
        assert (await executor.execute(by())).success
    result = await executor.execute(by())
    assert (result.error_type, result.retryable) == (ErrorType.RATE_LIMIT, True)
    assert result.retry_after == pytest.approx(20)
    assert result.error_details == {
        "quota": "3 requests per 60 s by user",
        "limit": 3,
        "remaining": 0,
        "reset": pytest.approx(60),
        "per": 60,
    }
    assert result.error == ("quota '3 requests per 60 s by user' is used up (limit 3 per 60 s); try again in 20 s")
    clock.now += refusal_of(result).retry_after or 0.0
    assert (await executor.execute(by())).success


@pytest.mark.parametrize(
    ("whose", "counted_apart", "counted_together"),
    [
        ("user", [by(), by("bob"), by(tenant="x"), by(tenant="y")], [by(agent="b")]),
        (("tenant", "user"), [by(), by("bob"), by(tenant="x")], [by(agent="b")]),
        ("tenant", [by(), by(tenant="x")], [by("bob")]),
        ("agent", [by(), by(agent="b")], [by("bob", "x")]),
        (("user", "agent"), [by("a", agent="b"), by("b", agent="a"), by("a", agent="a")], []),
        ((), [by()], [by("bob", "x", "b")]),
    ],
)
async def test_what_counts_together_is_what_the_quota_says(
    whose: By | tuple[By, ...], counted_apart: list[AgentContext], counted_together: list[AgentContext]
) -> None:
    executor = around(RateLimitMiddleware([Quota(requests=1, per=60, by=whose)]))
    assert [(await executor.execute(context)).success for context in counted_apart] == [True] * len(counted_apart)
    for context in (*counted_apart, *counted_together):
        assert not (await executor.execute(context)).success


async def test_what_the_caller_says_about_itself_changes_nothing() -> None:
    executor = around(RateLimitMiddleware([Quota(requests=1, per=60)]))
    admitted = 0
    for n in range(20):
        metadata = {"user_id": f"u{n}", "x-forwarded-for": f"10.0.0.{n}", "tenant": n}
        context = AgentContext(user_id="ann", current_task=f"hi {n}", session_id=None, metadata=metadata)
        admitted += (await executor.execute(context)).success
    assert admitted == 1


async def test_of_several_quotas_all_are_charged_or_none() -> None:
    quotas = [Quota(requests=5, per=60), Quota(requests=1, per=10, by="agent"), Quota(requests=2, per=60, by="tenant")]
    executor = around(RateLimitMiddleware(quotas))
    assert (await executor.execute(by(agent="a"))).success
    for _ in range(10):
        assert refusal_of(await executor.execute(by(agent="a"))).details["quota"] == "1 requests per 10 s by agent"
    assert (await executor.execute(by(agent="b"))).success
    assert refusal_of(await executor.execute(by(agent="a"))).details["quota"] == "2 requests per 60 s by tenant"


async def test_a_burst_is_admitted_at_once_and_the_quota_in_the_long_run() -> None:
    clock = Clock()
    executor = around(
        RateLimitMiddleware([Quota(requests=60, per=60, burst=2)], store=MemoryRateLimitStore(clock=clock))
    )
    admitted = [(await executor.execute(by())).success for _ in range(3)]
    clock.now += 1
    admitted += [(await executor.execute(by())).success for _ in range(2)]
    assert admitted == [True, True, False, True, False]


async def test_layers_that_share_a_store_share_quotas_of_one_name() -> None:
    store = MemoryRateLimitStore()
    one, other = (around(RateLimitMiddleware([THREE], store=store)) for _ in range(2))
    admitted = [(await executor.execute(by())).success for executor in (one, other, one, other, one)]
    assert admitted == [True, True, True, False, False]
    apart = around(RateLimitMiddleware([Quota(requests=3, per=60, name="another")], store=store))
    assert (await apart.execute(by())).success


async def test_what_an_inner_layer_does_again_is_charged_once() -> None:
    class Twice(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            await call_next(context)
            return await call_next(context)

    executor = AgentExecutor(answer, middleware=[RateLimitMiddleware([THREE]), Twice()])
    assert [(await executor.execute(by())).success for _ in range(4)] == [True, True, True, False]


async def test_requests_by_model_are_counted_at_each_call_of_that_model() -> None:
    layer = RateLimitMiddleware([Quota(requests=1, per=60, by="model")])

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        client = ScriptedLLMClient([ANSWER], repeat=True)
        told: list[str] = []
        for model in ("m1", "m2", None, 7, "m1"):
            request = ModelRequest(messages=(), parameters={} if model is None else {"model": model})
            try:
                told.append((await context.call_model(request, client)).text)
            except RateLimited:
                told.append("refused")
        return " ".join(told)

    result = await AgentExecutor(agent, middleware=[layer]).execute(by())
    assert result.output == "fine fine fine refused refused"  # two calls that name no model count together


async def test_a_refusal_is_told_to_the_bus() -> None:
    seen: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.RATE_LIMITED, seen.append)
        executor = around(RateLimitMiddleware([Quota(requests=1, per=60, name="few")]), bus)
        await executor.execute(by())
        result = await executor.execute(by())
        await bus.drain()
    [event] = seen
    assert (event.error_type, event.error_message, event.user_id) == (ErrorType.RATE_LIMIT, result.error, "ann")
    assert event.metadata == {
        "middleware": "RateLimitMiddleware",
        "stage": "run",
        **result.error_details,
        "retry_after": result.retry_after,
    }


# ---- tokens


async def test_an_answer_costs_what_it_says_and_not_what_was_set_aside() -> None:
    store = WatchedLimits()
    executor = asking(ScriptedLLMClient([ANSWER]), RateLimitMiddleware([TOKENS], store=store))
    assert (await executor.execute(by())).success
    assert ([charge.cost for charge in store.charges], store.used) == ([INPUT + 100], [42])
    assert await store.left() == 1_000 - 42


@pytest.mark.parametrize(
    ("parameters", "cost"),
    [
        ({"max_tokens": 7}, INPUT + 7),
        ({"max_tokens": 0}, INPUT),
        ({"max_tokens": 10_000}, 1_000),
        ({"max_tokens": "many"}, INPUT + 100),
        ({"max_tokens": -7}, INPUT + 100),
    ],
)
async def test_what_is_set_aside_is_the_input_and_the_longest_answer_but_at_most_the_burst(
    parameters: dict[str, Any], cost: float
) -> None:
    store = WatchedLimits()
    layer = RateLimitMiddleware([TOKENS], store=store)
    config = AgentConfig(name="a", retry_attempts=1, extra=parameters)
    assert (await asking(ScriptedLLMClient([ANSWER]), layer, config).execute(by())).success
    assert [charge.cost for charge in store.charges] == [cost]


async def test_all_that_a_model_reads_is_input() -> None:
    store = WatchedLimits()
    wanted = FunctionCall(id="1", name="find", arguments="{}")
    request = ModelRequest(
        messages=(
            Message(role="user", content="für\udc80"),  # 4 + 3 bytes
            Message(role="assistant", tool_calls=(wanted,)),  # 6
        ),
        tools=(ToolDefinition(name="find", description="Finds.", parameters={"type": "object"}),),  # 10 + 18
        parameters={"max_tokens": 0},
    )

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        return (await context.call_model(request, ScriptedLLMClient([ANSWER]))).text

    layer = RateLimitMiddleware([TOKENS], store=store)
    assert (await AgentExecutor(agent, middleware=[layer]).execute(by())).success
    assert [charge.cost for charge in store.charges] == [math.ceil((7 + 6 + 10 + 18) / 4)]


async def test_an_answer_that_does_not_say_what_it_cost_is_estimated() -> None:
    store = WatchedLimits()
    executor = asking(ScriptedLLMClient(["twelve bytes"]), RateLimitMiddleware([TOKENS], store=store))
    assert (await executor.execute(by())).success
    assert store.used == [INPUT + 3]


NO_NUMBERS: dict[str, Any] = {"not a number": math.nan, "infinite": math.inf, "large": 10**400, "negative": -(10**400)}


@pytest.mark.parametrize("told", NO_NUMBERS)
@pytest.mark.parametrize(("stage", "used"), [(None, [INPUT + 3]), ("run", [])])
async def test_a_count_that_none_is_says_nothing(told: str, stage: Literal["run"] | None, used: list[float]) -> None:
    store = WatchedLimits()
    reply = ScriptedReply(text="twelve bytes", usage=Usage(input_tokens=NO_NUMBERS[told]))
    executor = asking(ScriptedLLMClient([reply]), RateLimitMiddleware([TOKENS], store=store, stage=stage))
    assert (await executor.execute(by())).success
    assert store.used == used


async def test_a_kept_answer_is_free_also_when_a_model_was_asked_in_vain_before() -> None:
    @model_middleware
    async def stale(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        with pytest.raises(ProviderUnavailable):
            await call_next(request)
        return ModelResponse.of("what was kept", cached=True)

    store = WatchedLimits()
    layers = [RateLimitMiddleware([TOKENS], store=store), stale]
    executor = AgentExecutor(
        config=ONCE, llm_client=ScriptedLLMClient([ProviderUnavailable("down")]), middleware=layers
    )
    assert (await executor.execute(by())).success
    assert store.used == [0]


@pytest.mark.parametrize("usage", [Usage(), Usage(output_tokens=-5)])
async def test_an_answer_for_which_no_model_was_asked_is_free(usage: Usage) -> None:
    @model_middleware
    async def cached(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return ModelResponse.of("fine", usage=usage)

    store = WatchedLimits()
    layers = [RateLimitMiddleware([TOKENS], store=store), cached]
    executor = AgentExecutor(config=ONCE, llm_client=ScriptedLLMClient([]), middleware=layers)
    assert (await executor.execute(by())).success
    assert store.used == [0]


@pytest.mark.parametrize(
    ("error", "used"),
    [
        (ProviderUnavailable("down"), 0),
        (CallTimeout("slow"), INPUT),  # it may have been at work
        (OutcomeUnknown("who knows"), INPUT),
        (KeyError("a bug"), INPUT),
    ],
)
async def test_a_call_that_fails_before_it_said_anything(error: Exception, used: float) -> None:
    store = WatchedLimits()
    executor = asking(ScriptedLLMClient([error]), RateLimitMiddleware([TOKENS], store=store))
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            await executor.execute(by())
    else:
        assert (await executor.execute(by())).exception is error
    assert store.used == [used]


async def test_a_call_that_breaks_off_costs_its_input_and_each_piece() -> None:
    store = WatchedLimits()
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", "b", "c", ProviderUnavailable("cut")))])
    result = await asking(client, RateLimitMiddleware([TOKENS], store=store)).execute(by(), emit=_nowhere)
    assert (result.error_type, store.used) == (ErrorType.PROVIDER, [INPUT + 3])


async def test_reasoning_is_a_piece_and_other_events_are_not() -> None:
    class Thinking:
        async def complete(self, request: ModelRequest, /) -> ModelResponse:
            await request.emit(ReasoningDelta(text="hm"))
            await request.emit(ToolStarted(id="1", name="searched by the provider"))
            await request.emit(TextDelta(text="x"))
            raise ProviderUnavailable("cut")

    store = WatchedLimits()
    layer = RateLimitMiddleware([TOKENS], store=store)
    await AgentExecutor(config=ONCE, llm_client=Thinking(), middleware=[layer]).execute(by(), emit=_nowhere)
    assert store.used == [INPUT + 2]


async def test_a_streamed_answer_costs_what_it_says() -> None:
    store = WatchedLimits()
    usage = Usage(input_tokens=3, output_tokens=2)
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", "b"), usage=usage)])
    result = await asking(client, RateLimitMiddleware([TOKENS], store=store)).execute(by(), emit=_nowhere)
    assert (result.output, store.used) == ("ab", [5])


async def test_what_an_inner_retry_withdraws_is_paid_too() -> None:
    store = WatchedLimits()
    broken = ScriptedReply(chunks=("a", "b", ProviderUnavailable("cut")))
    client = ScriptedLLMClient([broken, ScriptedReply(chunks=("c",), usage=Usage(input_tokens=3, output_tokens=1))])
    layers = [RateLimitMiddleware([TOKENS], store=store), RetryMiddleware(delay=0)]
    executor = AgentExecutor(config=AgentConfig(name="a"), llm_client=client, middleware=layers)
    async with executor.stream(by(), allow_reset=True) as stream:
        async for _ in stream:
            pass
    assert (stream.result.output, stream.result.attempts) == ("c", 2)
    assert ([charge.cost for charge in store.charges], store.used) == ([INPUT + 100], [2 + 4])


@pytest.mark.parametrize("pieces", [0, 2])
async def test_a_call_that_is_cancelled_costs_its_input_and_each_piece(pieces: int) -> None:
    store = WatchedLimits()
    chunks: tuple[str | float, ...] = ("x",) * pieces + (60.0,)
    executor = asking(ScriptedLLMClient([ScriptedReply(chunks=chunks)]), RateLimitMiddleware([TOKENS], store=store))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: executor.execute(by(), emit=_nowhere))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert (scope.cancelled_caught, store.used) == (True, [INPUT + pieces])


async def test_a_call_that_is_cancelled_before_a_model_was_asked_is_free() -> None:
    @model_middleware
    async def waiting(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        await anyio.sleep_forever()
        raise AssertionError

    store = WatchedLimits()
    layers = [RateLimitMiddleware([TOKENS], store=store), waiting]
    executor = AgentExecutor(config=ONCE, llm_client=ScriptedLLMClient([]), middleware=layers)
    with anyio.move_on_after(0.05):
        await executor.execute(by())
    assert store.used == [0]


async def test_tokens_used_beyond_what_was_set_aside_are_owed() -> None:
    clock = Clock()
    layer = RateLimitMiddleware([TOKENS], store=MemoryRateLimitStore(clock=clock))
    large = ScriptedReply(text="x", usage=Usage(input_tokens=1_000, output_tokens=600))
    executor = asking(ScriptedLLMClient([large, "x"]), layer, AgentConfig(name="a", retry_attempts=1, timeout=5))
    assert (await executor.execute(by())).success
    refused = refusal_of(await executor.execute(by()))
    assert refused.retry_after == pytest.approx((600 + INPUT + 100) / 1_000 * 60)
    clock.now += refused.retry_after or 0.0
    assert (await executor.execute(by())).success


async def test_the_built_in_retry_waits_for_a_refused_model_call() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="x", usage=Usage(input_tokens=20))], repeat=True)
    executor = asking(
        client, RateLimitMiddleware([Quota(tokens=20, per=1, reserve=10)]), AgentConfig(name="a", retry_delay=0)
    )
    assert [(await executor.execute(by())).success for _ in range(2)] == [True, True]
    assert client.calls == 2


async def test_requests_and_tokens_of_one_stage_are_taken_in_one_step() -> None:
    store = WatchedLimits()
    layer = RateLimitMiddleware([Quota(requests=9, per=60), TOKENS], store=store, stage="model")
    assert (await asking(ScriptedLLMClient([ANSWER]), layer).execute(by())).success
    assert ([charge.cost for charge in store.charges], store.used, store.calls) == ([1, INPUT + 100], [42], 2)


# ---- tokens of a whole run


class Said(BaseMiddleware):
    """Answers, or fails, in the place of the agent."""

    def __init__(self, said: AgentResult | Exception) -> None:
        self.said = said

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if isinstance(self.said, AgentResult):
            return self.said
        raise self.said


@pytest.mark.parametrize(
    ("said", "used"),
    [
        (AgentResult(output="x", usage=Usage(input_tokens=20, output_tokens=7)), [27]),
        (AgentResult(success=False, error="no", usage=Usage(input_tokens=20)), [20]),
        ("an agent that does not say", []),
        (ProviderUnavailable("it refused"), [0]),
        (CallTimeout("it was at work"), []),
    ],
)
async def test_a_run_of_another_agent_costs_what_its_result_says(
    said: AgentResult | str | Exception, used: list[float]
) -> None:
    async def agent(context: AgentContext) -> AgentResult | str:
        if isinstance(said, Exception):
            raise said
        return said

    store = WatchedLimits()
    layer = RateLimitMiddleware([TOKENS], store=store, stage="run")
    await AgentExecutor(agent, middleware=[layer]).execute(by())
    assert ([charge.cost for charge in store.charges], store.used) == ([100], used)


@pytest.mark.parametrize("said", [AgentResult(output="cached"), CallTimeout("before it came to the agent")])
async def test_a_run_that_does_not_reach_its_agent_is_free(said: AgentResult | Exception) -> None:
    store = WatchedLimits()
    layers = [RateLimitMiddleware([TOKENS], store=store, stage="run"), Said(said)]
    await AgentExecutor(answer, middleware=layers).execute(by())
    assert store.used == [0]


# ---- a store that fails


def layer_over(store: WatchedLimits, choice: OnStoreFailure = "local", **options: Any) -> RateLimitMiddleware:
    return RateLimitMiddleware([Quota(requests=4, per=60)], store=store, on_store_failure=choice, **options)


@pytest.mark.parametrize("error", [AWAY, NOBODY_KNOWS])
@pytest.mark.parametrize(
    ("choice", "admitted"), [("local", [True, True, False, False]), ("refuse", [False] * 4), ("allow", [True] * 4)]
)
async def test_while_the_store_fails_the_choice_holds(
    error: Exception, choice: OnStoreFailure, admitted: list[bool]
) -> None:
    store = WatchedLimits()
    layer = layer_over(store, choice)
    store.before_take = fails_with(error)
    results = [await around(layer).execute(by()) for _ in range(4)]
    assert [result.success for result in results] == admitted
    assert (layer.store_failures, store.calls) == (4, 4)  # and no call is repeated
    raised = error if choice == "refuse" else RateLimited
    assert all(result.success or raised in (result.exception, type(result.exception)) for result in results)
    assert (await around(layer).execute(by("bob"))).success is (choice != "refuse")


async def test_the_part_that_is_admitted_locally_can_be_chosen_and_is_never_less_than_one() -> None:
    store = WatchedLimits()
    store.before_take = fails_with(AWAY)
    whole, tiny = around(layer_over(store, local_share=1)), around(layer_over(store, local_share=0.01))
    assert [(await whole.execute(by())).success for _ in range(5)] == [True] * 4 + [False]
    assert [(await tiny.execute(by())).success for _ in range(2)] == [True, False]
    assert refusal_of(await whole.execute(by())).details["limit"] == 4


async def test_a_failure_of_the_store_is_told_to_the_bus() -> None:
    seen: list[SystemEvent] = []
    store = WatchedLimits()
    store.before_take = fails_with(AWAY)
    async with EventBus() as bus:
        await bus.subscribe(EventType.MIDDLEWARE_FAILED, seen.append)
        assert (await around(layer_over(store), bus).execute(by())).success
        await bus.drain()
    [event] = seen
    assert (event.error_type, event.error_message) == ("store", "the store is away")
    assert event.metadata == {"middleware": "RateLimitMiddleware", "stage": "run", "degraded": True}


async def test_a_store_that_hangs_is_waited_for_as_long_as_the_limits_say() -> None:
    store = WatchedLimits()
    store.before_take = hangs
    layer = layer_over(store, "refuse")
    result = await around(layer, limits=Limits(store=0.05)).execute(by())
    assert isinstance(result.exception, StoreUnavailable) and "within 0.05 s" in str(result.error)
    assert layer.store_failures == 1


async def test_what_is_no_store_and_no_list_is_refused_when_the_layer_is_made() -> None:
    for wrong in (MemoryKeyValueStore(), "redis://x"):
        with pytest.raises(ConfigurationError, match="is no RateLimitStore"):
            RateLimitMiddleware([TOKENS], store=wrong)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ConfigurationError, match=r"a list of quotas"):
        RateLimitMiddleware(TOKENS)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ConfigurationError, match=r"timeout=0"):
        RateLimitMiddleware([TOKENS], timeout=0)


async def test_an_outage_is_told_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store = WatchedLimits()
    layer = layer_over(store)
    store.before_take = fails_with(AWAY)
    assert [(await around(layer).execute(by())).success for _ in range(2)] == [True, True]
    store.before_take = checkpoint
    assert (await around(layer).execute(by())).success
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("local", "counts in this process, more strictly, without its store"),
        ("refuse", "refuses everything without its store"),
        ("allow", "lets everything pass without its store"),
    ],
)
async def test_the_log_says_what_the_layer_does_in_an_outage(
    caplog: pytest.LogCaptureFixture, then: OnStoreFailure, told: str
) -> None:
    store = WatchedLimits()
    store.before_take = fails_with(AWAY)
    await around(layer_over(store, then)).execute(by())
    assert [record.getMessage() for record in caplog.records] == [
        f"RateLimitMiddleware {told}, which fails: the store is away"
    ]


async def test_a_bug_in_a_store_is_no_failure_of_it() -> None:
    store = WatchedLimits()
    store.before_take = fails_with(KeyError("a bug"))
    layer = layer_over(store, "allow")
    with pytest.raises(KeyError):
        await around(layer).execute(by())
    assert layer.store_failures == 0


async def test_tokens_taken_locally_are_settled_locally() -> None:
    store = WatchedLimits()
    store.before_take = store.before_settle = fails_with(AWAY)
    layer = RateLimitMiddleware([Quota(tokens=200, per=60, reserve=97)], store=store)
    executor = asking(ScriptedLLMClient([ANSWER], repeat=True), layer)
    assert [(await executor.execute(by())).success for _ in range(2)] == [True, False]  # of 100, 42 are used
    assert (layer.store_failures, store.calls) == (2, 2)


@pytest.mark.parametrize("error", [AWAY, NOBODY_KNOWS])
async def test_an_answer_is_given_though_it_cannot_be_settled(error: Exception) -> None:
    store = WatchedLimits()
    store.before_settle = fails_with(error)
    layer = RateLimitMiddleware([TOKENS], store=store, on_store_failure="refuse")
    assert (await asking(ScriptedLLMClient([ANSWER]), layer).execute(by())).success
    assert (layer.store_failures, await store.left()) == (1, 1_000 - INPUT - 100)


async def test_an_answer_is_given_though_settling_hangs() -> None:
    store = WatchedLimits()
    store.before_settle = hangs
    layer = RateLimitMiddleware([TOKENS], store=store)
    executor = AgentExecutor(
        config=ONCE, llm_client=ScriptedLLMClient([ANSWER]), middleware=[layer], limits=Limits(store=0.05)
    )
    assert (await executor.execute(by())).success
    assert layer.store_failures == 1


async def test_the_error_of_a_call_stays_though_it_cannot_be_settled() -> None:
    store = WatchedLimits()
    store.before_settle = fails_with(AWAY)
    down = ProviderUnavailable("down")
    result = await asking(ScriptedLLMClient([down]), RateLimitMiddleware([TOKENS], store=store)).execute(by())
    assert result.exception is down


async def test_cancelled_while_the_store_is_asked_the_run_ends_cancelled() -> None:
    store = WatchedLimits()
    store.before_take = hangs
    layer = layer_over(store)
    with anyio.move_on_after(0.05) as scope:
        await around(layer).execute(by())
    assert (scope.cancelled_caught, layer.store_failures) == (True, 0)


class Unfinished:
    """What is awaited here never comes."""

    def __await__(self) -> Generator[None]:
        yield


@pytest.mark.parametrize("stage", ["run", "model"])
async def test_a_run_that_is_thrown_away_unfinished_asks_the_store_no_more(stage: Literal["run", "model"]) -> None:
    seen: list[AgentContext] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context)
        return "fine"

    async def never(value: object) -> Any:
        await Unfinished()

    await AgentExecutor(agent).execute(by())
    store = WatchedLimits()
    store.before_take = at_once
    layer = RateLimitMiddleware([TOKENS], store=store, stage=stage)
    request = ModelRequest(messages=(), context=seen[0])
    thrown_away = layer.process(seen[0], never) if stage == "run" else layer.process_model(request, never)
    thrown_away.send(None)
    thrown_away.close()
    assert (store.calls, len(store.charges)) == (1, 1)


# ---- whatever happens in between


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["take", "take", "settle"]), st.integers(0, 9), st.integers(0, 150), st.floats(0, 30)
        ),
        max_size=40,
    )
)
async def test_no_more_is_ever_used_than_burst_and_rate_give_and_one_overshoot(
    steps: list[tuple[str, int, int, float]],
) -> None:
    clock = Clock()
    layer = RateLimitMiddleware(
        [Quota(tokens=100, per=60, reserve=50)], store=MemoryRateLimitStore(clock=clock), stage="model"
    )
    begun = clock.now
    running: list[tuple[anyio.Event, list[int], anyio.Event]] = []
    used = 0

    class Waiting:
        async def complete(self, request: ModelRequest, /) -> ModelResponse:
            go, tokens, _ = running[-1]
            await go.wait()
            return ModelResponse.of("x", usage=Usage(output_tokens=tokens[0], requests=1))

    executor = AgentExecutor(config=ONCE, llm_client=Waiting(), middleware=[layer])

    async def run(done: anyio.Event) -> None:
        await executor.execute(by())
        done.set()

    async with anyio.create_task_group() as group:
        for what, place, tokens, seconds in steps:
            clock.now += seconds
            if what == "take":
                entry = (anyio.Event(), [0], anyio.Event())
                running.append(entry)
                group.start_soon(run, entry[2])
                await anyio.wait_all_tasks_blocked()
                if entry[2].is_set():
                    running.pop()  # refused
            elif running:
                go, used_tokens, done = running.pop(place % len(running))
                used_tokens[0] = min(tokens, 53)  # as the request promised: input and max_tokens
                go.set()
                await done.wait()
                used += max(used_tokens[0], 1)
            assert used <= 100 + (clock.now - begun) * 100 / 60 + 1e-6
        group.cancel_scope.cancel()


async def _nowhere(event: StreamEvent) -> None:
    """A consumer that takes everything."""
