"""The onion under failure: who runs, in which order, how often, and what leaves, for any layers that fail anywhere."""

from collections.abc import Sequence
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    EventBus,
    EventType,
    Message,
    MiddlewarePipeline,
    ModelRequest,
    PermissionDenied,
    ProviderUnavailable,
    RunCompleted,
    RunStatus,
    RuntimeClosed,
    StateKey,
    StreamEvent,
    SystemEvent,
    TextDelta,
    Usage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, no_leaks

ASKED = AgentContext(user_id="ann", current_task="hello")
CANARY = "sk-canary-of-a-secret"

Way = Literal["passes", "raises before", "raises after", "has a bug", "answers itself", "calls twice", "catches"]
WAYS: tuple[Way, ...] = (
    "passes",
    "raises before",
    "raises after",
    "has a bug",
    "answers itself",
    "calls twice",
    "catches",
)


class Bug(Exception):
    pass


class Acting:
    """A layer that does one thing, and writes down when it is entered and left."""

    def __init__(self, place: int, way: Way, told: list[str]) -> None:
        self.name = f"layer {place}"
        self.way = way
        self.told = told

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.told.append(f"in {self.name}")
        await checkpoint()
        try:
            return await self.act(context, call_next)
        finally:
            self.told.append(f"out {self.name}")

    async def act(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if self.way == "raises before":
            raise ProviderUnavailable(self.name)
        if self.way == "answers itself":
            return AgentResult(output=self.name)
        try:
            result = await call_next(context)
            if self.way == "calls twice":
                result = await call_next(context)
        except ProviderUnavailable:
            if self.way == "catches":
                return AgentResult(output=f"caught by {self.name}")
            raise
        if self.way == "raises after":
            raise ProviderUnavailable(self.name)
        if self.way == "has a bug":
            raise Bug(self.name)
        return result


def expected(ways: Sequence[Way], place: int, told: list[str]) -> str:
    """What the layers from `place` on do, and what they give: an output, or the name of the error and its layer."""
    if place == len(ways):
        told.append("agent")
        return "agent"
    name, way = f"layer {place}", ways[place]
    told.append(f"in {name}")
    given = name if way == "answers itself" else f"ProviderUnavailable {name}"
    if way not in ("raises before", "answers itself"):
        given = after(ways, place, told)
    told.append(f"out {name}")
    return given


def after(ways: Sequence[Way], place: int, told: list[str]) -> str:
    name, way = f"layer {place}", ways[place]
    given = expected(ways, place + 1, told)
    if way == "calls twice" and not failed(given):
        given = expected(ways, place + 1, told)
    if way == "catches" and given.startswith("ProviderUnavailable"):
        return f"caught by {name}"
    if way == "raises after" and not failed(given):
        return f"ProviderUnavailable {name}"
    return f"Bug {name}" if way == "has a bug" and not failed(given) else given


def failed(given: str) -> bool:
    return given.startswith(("ProviderUnavailable", "Bug"))


async def given_by(executor: AgentExecutor, *, streamed: bool) -> str:
    try:
        if streamed:
            async with executor.stream(ASKED, allow_reset=True) as stream:
                texts = [event.text async for event in stream if isinstance(event, TextDelta)]
            assert "".join(texts) == stream.result.output
            return stream.result.output
        return (await executor.execute(ASKED, raise_on_error=True)).output
    except (ProviderUnavailable, Bug) as error:
        return f"{type(error).__name__} {error}"


@given(st.lists(st.sampled_from(WAYS), max_size=5))
async def test_layers_run_inwards_in_order_and_outwards_in_reverse_whatever_they_do(ways: list[Way]) -> None:
    wanted: list[str] = []
    outcome = expected(ways, 0, wanted)
    for streamed in (False, True):
        told: list[str] = []

        async def agent(context: AgentContext, told: list[str] = told) -> str:
            told.append("agent")
            await checkpoint()
            return "agent"

        layers = [Acting(place, way, told) for place, way in enumerate(ways)]
        executor = AgentExecutor(agent, middleware=layers)
        assert await given_by(executor, streamed=streamed) == outcome
        assert told == wanted
        assert executor.runs == {}


@given(st.integers(0, 4), st.data())
async def test_nesting_changes_nothing(count: int, data: st.DataObject) -> None:
    told: list[str] = []
    layers = [Acting(place, "passes", told) for place in range(count)]
    cut = data.draw(st.integers(0, count))
    nested = [MiddlewarePipeline(layers[:cut], name="outer"), MiddlewarePipeline(layers[cut:], name="inner")]

    async def agent(context: AgentContext) -> str:
        return ""

    await AgentExecutor(agent, middleware=layers).execute(ASKED)
    flat = told.copy()
    told.clear()
    await AgentExecutor(agent, middleware=nested).execute(ASKED)
    assert told == flat


async def test_what_was_spent_counts_however_the_run_ends() -> None:
    reply = ScriptedReply(text="paid", usage=Usage(output_tokens=5, requests=1))

    async def agent(context: AgentContext) -> str:
        return (await context.call_model(ModelRequest(messages=()), ScriptedLLMClient([reply]))).text

    for way in ("raises after", "calls twice"):
        told: list[str] = []
        result = await AgentExecutor(agent, middleware=[Acting(0, way, told)]).execute(ASKED)
        calls = 2 if way == "calls twice" else 1
        assert result.usage == Usage(output_tokens=5 * calls, requests=calls)
        assert result.attempts == calls


async def test_a_refusal_is_never_worth_another_try() -> None:
    entries = 0

    async def refuses(context: AgentContext, call_next: CallNext) -> AgentResult:
        nonlocal entries
        entries += 1
        raise PermissionDenied("not for you")

    async def agent(context: AgentContext) -> str:
        raise AssertionError

    result = await AgentExecutor(agent, middleware=[refuses]).execute(ASKED)
    assert (entries, result.retryable, result.attempts) == (1, False, 1)


async def test_a_handler_kept_by_a_layer_is_refused_at_every_stage_after_the_end() -> None:
    kept: list[CallNext] = []
    release, ended = anyio.Event(), anyio.Event()
    ran = 0

    async def agent(context: AgentContext) -> str:
        nonlocal ran
        ran += 1
        return ""

    async def late(context: AgentContext) -> None:
        await release.wait()
        with pytest.raises(RuntimeClosed):
            await kept[0](context)
        ended.set()

    async def keeps(context: AgentContext, call_next: CallNext) -> AgentResult:
        kept.append(call_next)
        group.start_soon(late, context)
        return await call_next(context)

    async with anyio.create_task_group() as group:
        await AgentExecutor(agent, middleware=[keeps]).execute(ASKED)
        release.set()
        await ended.wait()
    assert ran == 1


MINE = StateKey[str]("mine")


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8))
async def test_runs_at_once_share_no_state(pauses: list[int]) -> None:
    async def remembers(context: AgentContext, call_next: CallNext) -> AgentResult:
        context.run.state[MINE] = context.current_task
        return await call_next(context.replace(metadata={"task": context.current_task}))

    async def agent(context: AgentContext) -> str:
        for _ in range(pauses[int(context.current_task)]):
            await checkpoint()
        return f"{context.run.state[MINE]} {context.metadata['task']}"

    contexts = [AgentContext(user_id="ann", current_task=str(place)) for place in range(len(pauses))]
    results = await AgentExecutor(agent, middleware=[remembers]).execute_batch(contexts, max_concurrency=len(pauses))
    assert [result.output for result in results] == [f"{place} {place}" for place in range(len(pauses))]


async def test_a_pipeline_that_changes_while_runs_are_inside_changes_none_of_them() -> None:
    async def passes(context: AgentContext, call_next: CallNext) -> AgentResult:
        await checkpoint()
        result = await call_next(context)
        return result.replace(output=result.output + "+")

    async def agent(context: AgentContext) -> str:
        change()
        await checkpoint()
        return str(len(context.run.handlers.kinds))

    def change() -> None:
        if not pipeline.remove("passes"):
            pipeline.add(passes)

    pipeline = MiddlewarePipeline([passes])
    executor = AgentExecutor(agent, middleware=pipeline)
    outputs: list[str] = []

    async def run() -> None:
        before = len(pipeline)
        result = await executor.execute(ASKED)
        outputs.append(result.output)
        assert result.output.count("+") == before

    async with anyio.create_task_group() as group:
        for _ in range(1_000):
            group.start_soon(run)
    assert len(outputs) == 1_000


async def test_a_bugs_text_reaches_nobody_but_the_caller_of_the_code() -> None:
    heard: list[SystemEvent] = []
    sent: list[StreamEvent] = []

    async def agent(context: AgentContext) -> str:
        raise ConnectionError(CANARY)

    async def send(event: StreamEvent) -> None:
        sent.append(event)

    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, heard.append)
        executor = AgentExecutor(agent, event_bus=bus)
        with pytest.raises(ConnectionError, match=CANARY):
            await executor.execute(ASKED, emit=send)
        [result] = await executor.execute_batch([ASKED])
        await bus.drain()
    assert CANARY not in repr(heard) + repr([event.error_message for event in heard]) + repr(sent)
    assert CANARY not in repr(result) + str(result.error) and CANARY in str(result.exception)


class Stop(BaseException):
    """What ends a program: no failure of the run."""


async def test_what_ends_the_program_passes_through_and_the_run_counts_as_cancelled() -> None:
    statuses: list[RunStatus] = []

    async def looks(context: AgentContext, call_next: CallNext) -> AgentResult:
        runs.append(context)
        return await call_next(context)

    async def agent(context: AgentContext) -> str:
        raise Stop

    runs: list[AgentContext] = []
    async with no_leaks():
        with pytest.raises(Stop):
            await AgentExecutor(agent, middleware=[looks]).execute(ASKED)
        with pytest.raises(Stop):
            async with AgentExecutor(agent, middleware=[looks]).stream(ASKED) as stream:
                async for _ in stream:
                    pass
    statuses = [context.run.status for context in runs]
    assert statuses == [RunStatus.CANCELLED, RunStatus.CANCELLED]


async def test_a_layer_sees_the_whole_of_a_streamed_run() -> None:
    """Its duration, its error in the middle, and its final usage."""
    seen: list[tuple[float, Usage, str]] = []
    broke = ProviderUnavailable("broke off")

    async def watches(context: AgentContext, call_next: CallNext) -> AgentResult:
        started = anyio.current_time()
        try:
            return await call_next(context)
        except ProviderUnavailable as error:
            seen.append((anyio.current_time() - started, context.run.usage, str(error)))
            raise

    client = ScriptedLLMClient([ScriptedReply(chunks=("a", 0.03, "b", broke))])

    async def agent(context: AgentContext) -> str:
        request = ModelRequest(messages=(Message(role="user", content="x"),))
        return (await context.call_model(request, client)).text

    with pytest.raises(ProviderUnavailable):
        async with AgentExecutor(agent, middleware=[watches]).stream(ASKED) as stream:
            async for event in stream:
                assert not isinstance(event, RunCompleted)
    [(duration, usage, text)] = seen
    assert duration >= 0.03 and usage == Usage(requests=1, output_tokens=2) and text == "broke off"
