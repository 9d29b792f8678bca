"""CacheMiddleware: what is given again, to whom, for how long, and what is told of it."""

import math
from typing import Any, cast

import anyio
import pytest
from tests.stores.caching import ASKED, Listener, Scene

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    CallTimeout,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    FunctionCall,
    Layer,
    LimitExceeded,
    MemoryKeyValueStore,
    MemorySessionStore,
    Message,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    Owner,
    PermissionDenied,
    Principal,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    Reset,
    RunTimeout,
    SessionManager,
    Stage,
    StoredValue,
    StoreUnavailable,
    SystemEvent,
    TextDelta,
    Usage,
    reaches,
    tool,
    when,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.cache import CacheMiddleware

NOTHING = Usage()


# --- the same question again ---


async def test_the_second_answer_costs_nothing_and_says_where_it_is_from() -> None:
    scene = Scene(ScriptedReply(text="Here.", usage=Usage(input_tokens=9, output_tokens=3)))
    first, second = [await scene.ask() for _ in range(2)]
    assert (first.output, first.served_by, first.usage.requests, first.usage.input_tokens) == ("Here.", "agent", 1, 9)
    assert (second.output, second.served_by, second.usage, second.attempts) == ("Here.", "cache", NOTHING, 1)
    assert (second.model, second.finish_reason, second.messages) == ("scripted", "stop", first.messages)
    assert scene.client.calls == 1 and scene.counts == {"misses": 1, "hits": 1}


async def test_it_is_told_as_one_piece_and_as_cached() -> None:
    scene = Scene(ScriptedReply(chunks=("He", "re.")))
    told = [Listener(), Listener()]
    for listener in told:
        await scene.ask(emit=listener)
    assert [listener.texts for listener in told] == [["He", "re."], ["Here."]]
    finished = [event for listener in told for event in listener.events if type(event).__name__ == "ModelFinished"]
    assert [getattr(event, "cached", None) for event in finished] == [False, True]


async def test_a_run_of_which_a_part_came_from_the_cache_was_served_by_the_agent() -> None:
    @tool(kind="pure")
    def look() -> str:
        return "found"

    wants = ScriptedReply(tool_calls=(FunctionCall(id="1", name="look"),))
    scene = Scene(wants, "Here.", wants, tools=[look])
    assert [(await scene.ask()).served_by for _ in range(2)] == ["agent", "agent"]
    assert scene.client.calls == 3 and scene.counts == {"misses": 3, "hits": 1}


async def test_an_effect_is_seen_also_where_the_cache_is_conditional_and_no_longer_meant() -> None:
    paid: list[str] = []

    @tool
    async def pay() -> str:
        paid.append("paid")
        return "done"

    class Forgets(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context.replace(metadata={}))

    wants = ScriptedReply(tool_calls=(FunctionCall(id="1", name="pay"),))
    client = ScriptedLLMClient([wants, "Paid.", wants, "Paid."])
    cached = when(lambda context: "cached" in context.metadata, CacheMiddleware(stage="run"))
    config = AgentConfig(name="support")
    executor = AgentExecutor(config=config, llm_client=client, tools=[pay], middleware=[cached, Forgets()])
    for _ in range(2):
        await executor.execute(ASKED.replace(metadata={"cached": True}))
    assert paid == ["paid", "paid"]


async def test_an_answer_that_is_kept_while_another_caller_reads_is_found() -> None:
    read, let_on = anyio.Event(), anyio.Event()

    class Late(MemoryKeyValueStore):
        async def get(self, owner: Owner, key: str) -> StoredValue | None:
            found = await super().get(owner, key)
            if not read.is_set():
                read.set()
                await let_on.wait()
            return found

    scene = Scene("Here.", store=Late())
    results: list[AgentResult] = []

    async def ask() -> None:
        results.append(await scene.ask())

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await read.wait()
        await ask()
        let_on.set()
    assert [result.served_by for result in results] == ["agent", "cache"]
    assert scene.client.calls == 1 and scene.counts == {"misses": 1, "hits": 1}


async def test_after_its_time_it_is_asked_anew() -> None:
    scene = Scene("one", "two", ttl=10)
    assert await scene.answers(2) == ["one", "one"]
    scene.clock.now += 10
    assert await scene.answers(2) == ["two", "two"]


async def test_a_question_that_has_no_key_is_asked_each_time() -> None:
    scene = Scene("one", "two")

    class Unkeyed:
        async def process_model(self, request: ModelRequest, call_next: Any) -> ModelResponse:
            return cast(ModelResponse, await call_next(request.replace(parameters={"hook": object()})))

    executor = AgentExecutor(
        config=AgentConfig(name="support"), llm_client=scene.client, middleware=[Unkeyed(), scene.cache]
    )
    assert [(await executor.execute(ASKED)).output for _ in range(2)] == ["one", "two"]
    assert not scene.counts


async def test_the_users_of_a_session_get_what_the_whole_conversation_was_answered_with() -> None:
    sessions = SessionManager(MemorySessionStore())
    for session in ("one", "two"):
        await sessions.create(owner=ASKED.owner, agent_id="support", session_id=session)
    scene = Scene("Here.", "And there.", sessions=sessions)
    for session in ("one", "two"):
        asked = ASKED.replace(session_id=session)
        assert [(await scene.ask(asked)).output for _ in range(2)] == ["Here.", "And there."]
    assert scene.client.calls == 2 and scene.counts == {"misses": 2, "hits": 2}


async def test_nobody_is_given_anything_in_the_name_of_another() -> None:
    class Swaps:
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context.replace(user_id="ann"))

    for stage in ("model", "run"):
        scene = Scene("for Ann", repeat=True, stage=stage)
        await scene.ask()
        layers: list[Layer] = [Swaps(), scene.cache]
        other = AgentExecutor(config=AgentConfig(name="support"), llm_client=scene.client, middleware=layers)
        result = await other.execute(ASKED.replace(user_id="ben"), principal=Principal(subject="ben"))
        assert isinstance(result.exception, PermissionDenied) and scene.counts == {"misses": 1}


async def test_one_that_stands_in_the_onion_twice_does_not_wait_for_itself() -> None:
    cache = CacheMiddleware()
    client = ScriptedLLMClient(["Here."])
    layers: list[Layer] = [cache, cache.named("again"), MiddlewarePipeline([cache], name="inside")]
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client, middleware=layers)
    with anyio.fail_after(5):
        assert [(await executor.execute(ASKED)).output for _ in range(2)] == ["Here.", "Here."]


# --- what is kept ---


def wanting(call: str) -> ModelResponse:
    message = Message(role="assistant", content="I look.", tool_calls=(FunctionCall(id="1", name=call),))
    return ModelResponse(message=message)


@pytest.mark.parametrize(
    "answer",
    [
        ScriptedReply(text="cut o", finish_reason="length"),
        ScriptedReply(text="I may not say that.", finish_reason="content_filter"),
        ScriptedReply(text=""),
        ScriptedReply(text="half \ud800"),
        ModelResponse.of("of a cache further in", cached=True),
        wanting("look"),
    ],
    ids=["length", "content filter", "empty", "no text", "cached", "tools"],
)
async def test_what_is_no_whole_new_answer_is_not_kept(answer: Any) -> None:
    client = ScriptedLLMClient([answer], repeat=True)
    cache = CacheMiddleware()

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        request = ModelRequest(messages=(Message(role="user", content="What?"),))
        await context.call_model(request, client)
        return "done"

    executor = AgentExecutor(agent, agent_id="support", middleware=[cache])
    for _ in range(2):
        await executor.execute(ASKED)
    assert client.calls == 2 and cache.stats.misses == 2


async def test_a_failure_is_not_kept() -> None:
    scene = Scene(ProviderUnavailable("down"), RequestRejected("no"), "Here.", KeyError("a bug"))
    assert [(await scene.ask()).error_type for _ in range(3)] == [ErrorType.PROVIDER, ErrorType.REJECTED, None]
    with pytest.raises(KeyError):
        await scene.ask(ASKED.replace(current_task="Who?"))
    assert (await scene.ask()).served_by == "cache" and scene.counts == {"misses": 4, "hits": 1}


@pytest.mark.parametrize(("text", "kept"), [('{"a": 1}', True), ("no JSON", False), ("[" * 5_000, False)])
async def test_where_json_was_asked_for_only_json_is_kept(text: str, kept: bool) -> None:
    client = ScriptedLLMClient([text], repeat=True)

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        request = ModelRequest(messages=(), output_schema={"type": "object"})
        return (await context.call_model(request, client)).text

    executor = AgentExecutor(agent, agent_id="support", middleware=[CacheMiddleware()])
    for _ in range(2):
        await executor.execute(ASKED)
    assert client.calls == 2 - kept


async def test_what_does_not_fit_the_output_type_is_asked_for_again_and_what_fits_is_kept() -> None:
    client = ScriptedLLMClient(['["one"]', '["two"]', "So: [1]"])
    config = AgentConfig(name="support", output_type=list[int])
    executor = AgentExecutor(config=config, llm_client=client, middleware=[CacheMiddleware()])
    results = [await executor.execute(ASKED) for _ in range(3)]
    assert [result.error_type for result in results] == [ErrorType.OUTPUT, None, None]
    assert [(result.data, result.served_by) for result in results[1:]] == [([1], "agent"), ([1], "cache")]
    assert client.calls == 3


async def test_what_is_too_large_is_not_kept() -> None:
    scene = Scene("a" * 1_000, repeat=True, max_bytes=1_000)
    await scene.answers(2)
    assert scene.counts == {"misses": 2}


async def test_an_answer_that_came_out_of_a_cancelled_call_is_not_kept() -> None:
    cache = CacheMiddleware()

    class Swallows(ScriptedLLMClient):
        async def complete(self, request: ModelRequest, /) -> ModelResponse:
            request.run.cancel()
            return ModelResponse.of("half an ans")

    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=Swallows([]), middleware=[cache])
    assert (await executor.execute(ASKED)).error_type == ErrorType.CANCELLED
    client = ScriptedLLMClient(["whole"])
    client.identity = f"{Swallows.__module__}.{Swallows.__qualname__}"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a client may have one
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client, middleware=[cache])
    assert (await executor.execute(ASKED)).output == "whole"


# --- after its time, and while the model is away ---


async def test_while_one_asks_anew_the_others_get_the_old_answer_at_once() -> None:
    asked, let_on = anyio.Event(), anyio.Event()

    class Slow:
        async def process_model(self, request: ModelRequest, call_next: Any) -> ModelResponse:
            response = cast(ModelResponse, await call_next(request))
            if response.text == "new":
                asked.set()
                await let_on.wait()
            return response

    scene = Scene("old", "new", ttl=10, stale=60, inside=[Slow()])
    await scene.ask()
    scene.clock.now += 11
    outputs: list[str] = []

    async def first() -> None:
        outputs.append((await scene.ask()).output)

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await asked.wait()
        assert await scene.answers(3) == ["old"] * 3
        let_on.set()
    assert outputs == ["new"] and await scene.answers(1) == ["new"] and scene.client.calls == 2
    assert scene.counts == {"misses": 2, "stale_hits": 3, "hits": 1}
    scene.clock.now += 70
    assert await scene.store.get(Owner(tenant_id=None, user_id="ann"), "k") is None


@pytest.mark.parametrize(
    "failure", [ProviderUnavailable("down"), CallTimeout("late"), RateLimited("slowly"), StoreUnavailable("away")]
)
async def test_while_the_model_is_away_the_old_answer_is_given(failure: AgentRuntimeError) -> None:
    scene = Scene("old", failure, failure, "new", ttl=10, stale=60)
    await scene.ask()
    scene.clock.now += 11
    results = [await scene.ask() for _ in range(3)]
    assert [(result.output, result.served_by) for result in results] == [
        ("old", "cache"),
        ("old", "cache"),
        ("new", "agent"),
    ]
    assert scene.counts == {"misses": 4, "stale_hits": 2}


@pytest.mark.parametrize("failure", [RequestRejected("no"), RunTimeout("the run's own"), LimitExceeded("too much")])
async def test_any_other_failure_is_told(failure: AgentRuntimeError) -> None:
    scene = Scene("old", failure, ttl=10, stale=60)
    await scene.ask()
    scene.clock.now += 11
    assert (await scene.ask()).exception is failure


async def test_when_it_is_too_old_for_that_too_the_failure_is_told() -> None:
    failure = ProviderUnavailable("down")
    scene = Scene("old", failure, ttl=10, stale=60)
    await scene.ask()
    scene.clock.now += 70
    assert (await scene.ask()).exception is failure


BROKEN = ScriptedReply(chunks=("ne", ProviderUnavailable("broke off")))


async def test_text_of_the_failed_attempt_is_withdrawn() -> None:
    scene = Scene("old", BROKEN, ttl=10, stale=60)
    await scene.ask()
    scene.clock.now += 11
    listener = Listener()
    result = await scene.ask(emit=listener, allow_reset=True)
    told = [event for event in listener.events if isinstance(event, TextDelta | Reset)]
    assert result.output == "old"
    assert told == [TextDelta(text="ne"), Reset(step=0), TextDelta(text="old")]


async def test_text_that_cannot_be_withdrawn_is_not_followed_by_other_text() -> None:
    scene = Scene("old", BROKEN, ttl=10, stale=60)
    await scene.ask()
    scene.clock.now += 11
    listener = Listener()
    assert isinstance((await scene.ask(emit=listener)).exception, ProviderUnavailable)
    assert listener.texts == ["ne"]


async def test_a_run_is_withdrawn_and_given_again_too() -> None:
    scene = Scene("old", BROKEN, ttl=10, stale=60, stage="run")
    await scene.ask()
    scene.clock.now += 11
    assert (await scene.ask()).served_by == "cache" and scene.counts == {"misses": 2, "stale_hits": 1}


async def test_without_a_stale_time_no_clock_but_the_stores_counts() -> None:
    scene = Scene("one", "two", ttl=10)
    await scene.ask()
    scene.cache._clock = lambda: math.inf  # pyright: ignore[reportPrivateUsage]  # a clock that is very wrong
    assert await scene.answers(1) == ["one"]


async def test_who_wants_fresher_answers_does_not_take_what_another_keeps_for_longer() -> None:
    scene = Scene("one", "two", ttl=100)
    await scene.ask()
    short = CacheMiddleware(scene.store, ttl=10, clock=scene.clock)
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=scene.client, middleware=[short])
    scene.clock.now += 9
    assert (await executor.execute(ASKED)).output == "one"
    scene.clock.now += 2
    assert (await executor.execute(ASKED)).output == "two"


# --- what is told, and how it is built ---


async def test_each_answer_that_was_given_again_is_told() -> None:
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.CACHE_HIT, events.append)
        scene = Scene("old", ProviderUnavailable("down"), ttl=10, stale=60, bus=bus)
        await scene.ask()
        scene.clock.now += 4
        await scene.ask()
        scene.clock.now += 26
        await scene.ask()
        await bus.drain()
    said = {"middleware": "CacheMiddleware", "stage": "model"}
    assert [event.metadata for event in events] == [
        {**said, "age": 4.0, "stale": False},
        {**said, "age": 30.0, "stale": True},
    ]


async def test_so_is_the_answer_to_another_caller() -> None:
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.CACHE_HIT, events.append)
        scene = Scene(ScriptedReply(text="Here.", delay=0.05), bus=bus)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(scene.ask)
        await bus.drain()
    assert [(event.metadata["age"], event.metadata["stale"]) for event in events] == [(0.0, False)] * 2
    assert scene.counts == {"misses": 1, "shared": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0.0},
        {"ttl": math.inf},
        {"ttl": math.nan},
        {"stale": -1.0},
        {"stale": math.inf},
        {"timeout": 0.0},
        {"timeout": math.inf},
        {"max_bytes": 0},
        {"max_bytes": 1 << 30},
        {"stage": "tool"},
        {"share": "nobody"},
    ],
    ids=str,
)
def test_an_option_out_of_range_fails_when_the_layer_is_built(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        CacheMiddleware(**options)
