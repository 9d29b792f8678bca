import asyncio
import gc

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ConfigurationError,
    ConsumerGone,
    ProviderUnavailable,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    RuntimeClosed,
    StreamEvent,
    TextDelta,
    TextStream,
)
from agent_runtime.testing import Outcome, inject, no_leaks

ASKED = AgentContext(user_id="ann", current_task="hello")


async def speaks(context: AgentContext) -> str:
    for piece in ("a", "b", "c"):
        await checkpoint()
        await context.emit(TextDelta(text=piece))
    return "abc"


async def fails(context: AgentContext) -> str:
    await context.emit(TextDelta(text="a"))
    raise ProviderUnavailable("broke off")


async def has_a_bug(context: AgentContext) -> str:
    await context.emit(TextDelta(text="a"))
    raise KeyError("oops")


async def test_a_stream_gives_events_and_then_the_result() -> None:
    async with AgentExecutor(speaks).stream(ASKED) as stream:
        with pytest.raises(RuntimeError, match="has no result"):
            _ = stream.result
        events = [event async for event in stream]
    assert [type(event) for event in events] == [RunStarted, TextDelta, TextDelta, TextDelta, RunCompleted]
    assert stream.result.output == "abc" and stream.sequence == 5
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await anext(AgentExecutor(speaks).stream(ASKED))


@pytest.mark.parametrize(("agent", "error"), [(fails, ProviderUnavailable), (has_a_bug, KeyError)])
async def test_a_stream_raises_the_error_itself_after_the_events_that_came_before(
    agent: object, error: type[Exception]
) -> None:
    events: list[StreamEvent] = []
    async with AgentExecutor(agent).stream(ASKED) as stream:  # type: ignore[arg-type]  # a parameter of one of two types
        with pytest.raises(error):
            while True:
                events.append(await anext(stream))
        with pytest.raises(error):
            await anext(stream)
    assert [type(event) for event in events] == [RunStarted, TextDelta, RunFailed]


async def test_a_stream_that_is_never_read_starts_nothing() -> None:
    started = 0

    async def counts(context: AgentContext) -> str:
        nonlocal started
        started += 1
        return ""

    executor = AgentExecutor(counts)
    async with executor.stream(ASKED) as stream:
        pass
    assert (started, executor.runs) == (0, {})
    with pytest.raises((ConsumerGone, RunCancelled)):
        await anext(stream)


async def test_a_stream_whose_consumer_is_cancelled_never_looks_complete() -> None:
    async def consume() -> str:
        text = ""
        async with AgentExecutor(speaks).stream(ASKED) as stream:
            async for event in stream:
                text += event.text if isinstance(event, TextDelta) else ""
        return text

    for trial in await inject(consume):
        assert trial.outcome is Outcome.CANCELLED or trial.value == "abc"


async def test_a_stream_that_was_cancelled_with_its_consumer_says_so_afterwards() -> None:
    stream = AgentExecutor(speaks).stream(ASKED)
    with anyio.CancelScope() as scope:
        async with stream:
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(RunCancelled, match="before its end"):
        await anext(stream)


async def test_a_text_stream_gives_text_and_then_the_result() -> None:
    async with AgentExecutor(speaks) as executor:
        stream = executor.execute_stream(ASKED)
        assert [text async for text in stream] == ["a", "b", "c"]
        assert stream.result.output == "abc"


async def test_a_text_stream_raises_the_error_of_the_run() -> None:
    async with AgentExecutor(fails) as executor:
        stream = executor.execute_stream(ASKED)
        assert await anext(stream) == "a"
        with pytest.raises(ProviderUnavailable):
            await anext(stream)


async def test_a_text_stream_of_a_closed_executor_is_refused_each_time() -> None:
    executor = AgentExecutor(speaks)
    async with executor:
        pass
    stream = executor.execute_stream(ASKED)
    for _ in range(2):
        with pytest.raises(RuntimeClosed):
            await anext(stream)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_text_stream_on_trio_needs_the_lifespan() -> None:
    stream = AgentExecutor(speaks).execute_stream(ASKED)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="lifespan"):
            await anext(stream)


async def test_a_text_stream_cut_short_by_the_shutdown_says_so() -> None:
    async def endless(context: AgentContext) -> str:
        await context.emit(TextDelta(text="a"))
        await anyio.sleep_forever()
        return ""

    async with AgentExecutor(endless, shutdown_grace=0.01) as executor:
        stream = executor.execute_stream(ASKED)
        assert await anext(stream) == "a"
    with pytest.raises(RunCancelled):
        await anext(stream)


async def test_a_text_stream_that_was_dropped_or_closed_ends_its_run() -> None:
    ended: list[str] = []

    async def endless(context: AgentContext) -> str:
        try:
            await context.emit(TextDelta(text="a"))
            await anyio.sleep_forever()
        finally:
            ended.append(context.run_id)
        return ""

    async def read(stream: TextStream) -> None:
        assert await anext(stream) == "a"

    async with AgentExecutor(endless) as executor, no_leaks():
        await read(executor.execute_stream(ASKED))
        gc.collect()
        closed = executor.execute_stream(ASKED)
        await read(closed)
        await closed.aclose()
        while executor.runs:
            await checkpoint()
        assert len(ended) == 2
        with pytest.raises(ConsumerGone):
            await anext(closed)


async def test_a_text_stream_that_is_closed_before_it_began_starts_nothing() -> None:
    async with AgentExecutor(has_a_bug) as executor:
        stream = executor.execute_stream(ASKED)
        await stream.aclose()
        with pytest.raises(ConsumerGone):
            await anext(stream)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_awaits_a_cancelled_task_does_not_cancel_its_consumer() -> None:
    async def stray(context: AgentContext) -> str:
        await context.emit(TextDelta(text="a"))
        task = asyncio.create_task(anyio.sleep_forever())
        task.cancel()
        await task
        return "never"

    async with AgentExecutor(stray).stream(ASKED) as stream:
        with pytest.raises(asyncio.CancelledError):
            async for _ in stream:
                pass
        await checkpoint()
    with pytest.raises(RuntimeError, match="has no result"):
        _ = stream.result


async def test_an_error_of_the_body_leaves_as_it_is_and_a_layer_cleans_up_first() -> None:
    told: list[str] = []

    async def cleans_up(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            told.append("cleaned up")

    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        async with AgentExecutor(speaks, middleware=[cleans_up]).stream(ASKED) as stream:
            await anext(stream)
            raise error
    assert caught.value is error and told == ["cleaned up"]
