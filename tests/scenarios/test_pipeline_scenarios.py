"""Scenarios 21 to 24, 26 to 30, 32 and 33: what the onion does with its layers."""

import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    LayerKind,
    MiddlewarePipeline,
    Principal,
    ProviderUnavailable,
    Secret,
    SystemEvent,
    TextDelta,
    when,
)
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware

KEY, RECORD = ApiKeys.generate("ann")


SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"


def ask(task: str = "hello", credential: Secret | None = None, **metadata: Any) -> AgentContext:
    return AgentContext(user_id="ann", current_task=task, credential=credential, metadata=metadata)


async def echo(context: AgentContext) -> str:
    return context.current_task


class Recording:
    """Writes its name on the way in and on the way out."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.told = told

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.told.append(f"in {self.name}")
        try:
            return await call_next(context)
        finally:
            self.told.append(f"out {self.name}")


class RecordingAgent:
    """Writes that it ran, and answers with its name."""

    def __init__(self, told: list[str], name: str = "agent") -> None:
        self.told = told
        self.name = name

    async def run(self, context: AgentContext) -> str:
        self.told.append(self.name)
        return self.name


async def streamed(executor: AgentExecutor, context: AgentContext) -> tuple[AgentResult, str]:
    """The result of a streamed run, and the text that its consumer was given."""
    async with executor.stream(context) as stream:
        text = "".join([event.text async for event in stream if isinstance(event, TextDelta)])
    return stream.result, text


async def test_s21_the_first_layer_is_the_outermost() -> None:
    told: list[str] = []
    layers = [Recording(name, told) for name in ("logging", "auth", "rate limit")]
    executor = AgentExecutor(RecordingAgent(told), middleware=layers)
    onion = ["in logging", "in auth", "in rate limit", "agent", "out rate limit", "out auth", "out logging"]
    await executor.execute(ask())
    assert told == onion
    told.clear()
    await streamed(executor, ask())
    assert told == onion


class Polite(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context.replace(current_task=f"please {context.current_task}"))
        return result.replace(output=f"{result.output}, thanks")


class PoliteObject:
    process = Polite.process


async def polite(context: AgentContext, call_next: CallNext) -> AgentResult:
    result = await call_next(context.replace(current_task=f"please {context.current_task}"))
    return result.replace(output=f"{result.output}, thanks")


@pytest.mark.parametrize(
    "layer", [Polite(), polite, MiddlewarePipeline([polite])], ids=["class", "function", "nested pipeline"]
)
async def test_s22_a_class_a_function_and_a_nested_pipeline_are_layers_alike(layer: Layer) -> None:
    executor = AgentExecutor(echo, middleware=[layer])
    assert (await executor.execute(ask())).output == "please hello, thanks"


class OneParameter:
    async def process(self, context: AgentContext) -> AgentResult:
        return AgentResult(output=context.current_task)


def not_async(context: AgentContext, call_next: CallNext) -> Awaitable[AgentResult]:
    return call_next(context)


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (object(), "<object object at .* is no layer"),
        ("logging", "'logging' is no layer"),
        (BaseMiddleware(), "BaseMiddleware object at .* is no layer"),
        (Polite, "Polite is a class"),
        (not_async, "not_async is not an `async def`"),
        (OneParameter(), "OneParameter.process must take"),
    ],
    ids=["object", "name", "nothing overridden", "class", "not async", "one parameter"],
)
def test_s22_what_is_no_layer_is_refused_by_name_when_the_pipeline_is_built(thing: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        MiddlewarePipeline([thing])
    with pytest.raises(TypeError, match=named):
        AgentExecutor(echo, middleware=[polite, thing])


async def test_s23_one_instance_in_two_pipelines_reaches_the_agent_of_each_call() -> None:
    class Yielding:
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            await checkpoint()
            result = await call_next(context)
            await checkpoint()
            return result

    shared = Yielding()
    executors = {name: AgentExecutor(RecordingAgent([], name), middleware=[shared]) for name in ("left", "right")}
    answers: list[tuple[str, str]] = []

    async def run(name: str) -> None:
        answers.append((name, (await executors[name].execute(ask())).output))

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(run, "left" if number % 2 else "right")
    assert len(answers) == 1000 and all(name == answer for name, answer in answers)


async def from_a_store(context: AgentContext, call_next: CallNext) -> AgentResult:
    return AgentResult(output="prepared")


async def test_s24_a_layer_that_answers_itself_ends_the_way_in_and_is_marked() -> None:
    told: list[str] = []
    completed: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        completed.append(event)

    async with EventBus() as bus:
        await bus.subscribe(EventType.AGENT_COMPLETED, note)
        layers: list[Layer] = [Recording("outer", told), from_a_store, Recording("inner", told)]
        executor = AgentExecutor(RecordingAgent(told), middleware=layers, event_bus=bus)
        plain = await executor.execute(ask())
        result, text = await streamed(executor, ask())
        await bus.drain()
    assert told == ["in outer", "out outer"] * 2
    assert plain.output == result.output == text == "prepared"
    assert plain.served_by == result.served_by == "layer"
    assert [event.metadata["served_by"] for event in completed] == ["layer", "layer"]


def true(context: AgentContext) -> bool:
    return True


def false(context: AgentContext) -> bool:
    return False


def raising(context: AgentContext) -> bool:
    raise KeyError("no such header")


@pytest.mark.parametrize(
    ("predicate", "credential", "error_type"),
    [
        (true, KEY, None),
        (true, None, ErrorType.AUTHENTICATION),
        (false, None, None),
        (raising, KEY, None),
        (raising, None, ErrorType.AUTHENTICATION),
    ],
    ids=["true, known", "true, unknown", "false", "raising, known", "raising, unknown"],
)
async def test_s26_a_conditional_layer_runs_in_front_of_the_agent_or_not_at_all(
    predicate: Callable[[AgentContext], bool], credential: Secret | None, error_type: ErrorType | None
) -> None:
    told: list[str] = []
    principals: list[object] = []

    async def note(context: AgentContext, call_next: CallNext) -> AgentResult:
        principals.append(context.run.principal)
        return await call_next(context)

    auth = AuthMiddleware(ApiKeys({RECORD.prefix: RECORD}))
    executor = AgentExecutor(RecordingAgent(told), middleware=[when(predicate, auth), note])
    result = await executor.execute(ask(credential=credential))
    assert result.error_type is error_type
    assert told == ([] if error_type else ["agent"])
    assert [principal is not None for principal in principals] == ([] if error_type else [credential is KEY])


async def test_s27_a_composite_of_three_nests_them_in_order_around_one_call_of_the_agent() -> None:
    told: list[str] = []
    composite = MiddlewarePipeline([Recording(name, told) for name in "abc"], name="composite")
    layers: list[Layer] = [Recording("outer", told), composite, Recording("inner", told)]
    await AgentExecutor(RecordingAgent(told), middleware=layers).execute(ask())
    ways_in = ["in outer", "in a", "in b", "in c", "in inner"]
    assert told == [*ways_in, "agent", *(name.replace("in ", "out ", 1) for name in reversed(ways_in))]


async def test_s28_a_pipeline_is_changed_by_name_and_refuses_a_duplicate() -> None:
    told: list[str] = []
    auth = Recording("auth", told)
    pipeline = MiddlewarePipeline()
    pipeline.add(Recording("logging", told))
    pipeline.add(auth)
    assert pipeline.get("auth") is auth and len(pipeline) == 2
    for duplicate in (auth, Recording("auth", told)):
        with pytest.raises(ValueError, match="'auth' already"):
            pipeline.add(duplicate)
    executor = AgentExecutor(echo, middleware=pipeline)
    await executor.execute(ask())
    assert told == ["in logging", "in auth", "out auth", "out logging"]
    assert (pipeline.remove("auth"), pipeline.remove("auth"), pipeline.get("auth")) == (True, False, None)
    pipeline.clear()
    told.clear()
    assert len(pipeline) == 0 and (await executor.execute(ask())).success and told == []


class CountingKeys(ApiKeys):
    """API keys that count how often one was checked."""

    checked = 0

    async def authenticate(self, credential: Secret) -> Principal:
        self.checked += 1
        return await super().authenticate(credential)


async def test_s28_auth_never_runs_twice_even_where_a_pipeline_hides_the_second() -> None:
    keys = CountingKeys({RECORD.prefix: RECORD})
    hidden = MiddlewarePipeline([AuthMiddleware(keys)], name="hidden")
    result = await AgentExecutor(echo, middleware=[AuthMiddleware(keys), hidden]).execute(ask(credential=KEY))
    assert result.success and keys.checked == 1


async def test_s29_what_a_layer_changes_is_seen_inside_and_nowhere_else() -> None:
    seen: list[tuple[str, object]] = []
    outside: list[tuple[str, object]] = []

    async def again(context: AgentContext, call_next: CallNext) -> AgentResult:
        outside.append((context.current_task, context.metadata["lines"]))
        await call_next(context)
        outside.append((context.current_task, context.metadata["lines"]))
        return await call_next(context)

    async def edit(context: AgentContext, call_next: CallNext) -> AgentResult:
        outside.append((context.current_task, context.metadata["lines"]))
        edited = {"lines": (*context.metadata["lines"], "edited")}
        return await call_next(context.replace(current_task=context.current_task.upper(), metadata=edited))

    async def agent(context: AgentContext) -> str:
        seen.append((context.current_task, context.metadata["lines"]))
        return context.current_task

    lines = ["original"]
    asked = ask(lines=lines)
    result = await AgentExecutor(agent, middleware=[again, edit]).execute(asked)
    assert seen == [("HELLO", ("original", "edited"))] * 2
    assert outside == [("hello", ("original",))] * 4
    assert (asked.current_task, asked.metadata, lines) == ("hello", {"lines": ["original"]}, ["original"])
    assert result.output == "HELLO"


async def test_s29_metadata_cannot_be_changed_in_place() -> None:
    async def scribble(context: AgentContext, call_next: CallNext) -> AgentResult:
        context.metadata["role"] = "admin"  # type: ignore[index]  # what the test is about
        return await call_next(context)

    with pytest.raises(TypeError, match="does not support item assignment"):
        await AgentExecutor(echo, middleware=[scribble]).execute(ask(role="guest"))


async def fails_on_the_way_in(context: AgentContext, call_next: CallNext) -> AgentResult:
    if context.current_task == "break":
        raise ProviderUnavailable("the index is down")
    return await call_next(context)


async def fails_on_the_way_out(context: AgentContext, call_next: CallNext) -> AgentResult:
    result = await call_next(context)
    if context.current_task == "break":
        raise ProviderUnavailable("the index is down")
    return result


async def apologise(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except AgentRuntimeError as error:
        return AgentResult(output=f"sorry: {error}")


@pytest.mark.parametrize("fragile", [fails_on_the_way_in, fails_on_the_way_out])
async def test_s30_a_layer_that_raises_is_named_and_those_outside_may_handle_it(fragile: Layer) -> None:
    told: list[str] = []
    answers: dict[str, str] = {}
    failed: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        failed.append(event)

    async def run(executor: AgentExecutor, task: str) -> None:
        answers[task] = (await executor.execute(ask(task))).output

    async with EventBus() as bus:
        await bus.subscribe(EventType.MIDDLEWARE_FAILED, note)
        layers: list[Layer] = [Recording("outer", told), apologise, fragile]
        executor = AgentExecutor(echo, middleware=layers, event_bus=bus)
        async with anyio.create_task_group() as group:
            for task in ("one", "break", "two"):
                group.start_soon(run, executor, task)
        await bus.drain()
    assert answers == {"one": "one", "break": "sorry: the index is down", "two": "two"}
    assert told.count("out outer") == 3
    name = getattr(fragile, "__name__", "")
    assert [(event.metadata, event.error_type, event.error_message) for event in failed] == [
        ({"middleware": name, "stage": "run"}, ErrorType.PROVIDER, "the index is down")
    ]


class NoOp(BaseMiddleware):
    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def name(self) -> str:
        return f"layer {self.number}"

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


async def seconds_per_call(call: Callable[[AgentContext], Awaitable[object]], calls: int) -> float:
    context = ask()
    started = time.perf_counter()
    for _ in range(calls):
        await call(context)
    return (time.perf_counter() - started) / calls


async def test_s32_ten_no_op_layers_cost_far_less_than_a_millisecond() -> None:
    """With coverage's tracing, too; how they compare to ten bare awaits, the benchmarks' budget A3 holds."""
    ten: list[Layer] = [NoOp(number) for number in range(10)]
    bare, layered = AgentExecutor(echo).execute, AgentExecutor(echo, middleware=ten).execute
    overheads = [await seconds_per_call(layered, 300) - await seconds_per_call(bare, 300) for _ in range(15)]
    assert median(overheads) < 0.0002


@pytest.mark.parametrize("anyio_backend", ["asyncio", *(["trio"] if SOAK else [])])
async def test_s32_a_hundred_thousand_runs_through_ten_layers_leave_nothing_behind() -> None:
    ten: list[Layer] = [NoOp(number) for number in range(10)]
    execute = AgentExecutor(echo, middleware=ten).execute
    blocks: list[int] = []
    for rounds in (10, 1_000):
        for _ in range(rounds):
            await seconds_per_call(execute, 100)
            await checkpoint()  # asyncio drops the timers of runs that have ended when its loop comes round
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    assert blocks[1] - blocks[0] < 500


class Placed(BaseMiddleware):
    """A layer of some kind."""

    def __init__(self, kind: LayerKind) -> None:
        self.kind = kind  # type: ignore[misc]  # one class for all kinds

    @property
    def name(self) -> str:
        return self.kind

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ((LayerKind.CACHE, LayerKind.AUTH), "AR001"),
        ((LayerKind.CACHE, LayerKind.REDACTION), "AR003"),
        ((LayerKind.GUARD, LayerKind.AUDIT), "AR004"),
    ],
    ids=["cache before auth", "sanitizer inside cache", "audit inside guard"],
)
def test_s33_an_unsafe_order_is_found_and_strictly_refused(order: tuple[LayerKind, LayerKind], code: str) -> None:
    outer, inner = (Placed(kind) for kind in order)
    executor = AgentExecutor(echo, middleware=[outer, inner])
    assert [(found.code, found.severity, found.layers) for found in executor.lint()] == [(code, "error", order)]
    with pytest.raises(ConfigurationError, match=code):
        AgentExecutor(echo, middleware=[outer, inner], strict=True)
    with pytest.raises(ConfigurationError, match=code):
        AgentExecutor(echo, middleware=[outer, MiddlewarePipeline([inner])], strict=True)
    assert AgentExecutor(echo, middleware=[inner, outer], strict=True).lint() == []
