"""A stream that is left, at any event and in any way: nothing starts later, everything cleans up, nothing is left."""

import gc
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import pytest
from tests.reliability.watched import ASKED, CONFIG, LOOK, PIECES, Watched, watched

from agent_runtime import (
    AgentExecutor,
    BaseMiddleware,
    CallNext,
    Limits,
    ModelRequest,
    ModelResponse,
    ModelStarted,
    Stage,
    StreamEvent,
    ToolCall,
    ToolResult,
    ToolStarted,
    tool,
)
from agent_runtime.testing import Outcome, ScriptedLLMClient, ScriptedReply, Trial, cancellations, inject, no_leaks

Leave: TypeAlias = Callable[[Watched, int], Awaitable[None]]

BUFFERS = (1, 3, 64)


class BodyFailed(Exception):
    pass


async def breaks(scene: Watched, after: int) -> None:
    async with scene.executor.stream(ASKED) as stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == after:
                scene.leave()
                break


async def raises(scene: Watched, after: int) -> None:
    failure = BodyFailed()
    with pytest.raises(BodyFailed) as caught:
        async with scene.executor.stream(ASKED) as stream:
            for _ in range(after):
                await anext(stream)
            scene.leave()
            raise failure
    assert caught.value is failure


async def is_cancelled(scene: Watched, after: int) -> None:
    with anyio.CancelScope() as scope:
        async with scene.executor.stream(ASKED) as stream:
            try:
                for _ in range(after):
                    await anext(stream)
                scope.cancel()
                await anyio.sleep_forever()
            finally:
                scene.leave()
    assert scope.cancelled_caught


async def closes_the_text(scene: Watched, after: int) -> None:
    texts = scene.executor.execute_stream(ASKED)
    for _ in range(after):
        await anext(texts)
    scene.leave()
    await texts.aclose()


async def drops_the_text(scene: Watched, after: int) -> None:
    texts = scene.executor.execute_stream(ASKED)
    for _ in range(after):
        await anext(texts)
    scene.leave()
    del texts
    gc.collect()


async def events_of_a_whole_run() -> list[StreamEvent]:
    async with watched() as scene, scene.executor.stream(ASKED) as stream:
        return [event async for event in stream]


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("leave", [breaks, raises, is_cancelled])
async def test_a_stream_that_is_left_after_any_event_ends_its_run_before_the_block_is_over(
    leave: Leave, buffer: int
) -> None:
    for after in range(1, len(await events_of_a_whole_run())):
        async with no_leaks(), watched(Limits(stream_events=buffer)) as scene:
            await leave(scene, after)
            assert scene.executor.runs == {}
            await scene.over()


async def test_a_stream_that_is_left_at_once_enters_no_layer() -> None:
    async with no_leaks(), watched() as scene:
        async with scene.executor.stream(ASKED):
            scene.leave()
        await scene.over()
        assert (scene.layers[0].runs, scene.client.calls) == ([], 0)


async def test_a_text_stream_that_nobody_reads_is_no_run() -> None:
    async with no_leaks(), watched() as scene, scene.executor:
        await scene.executor.execute_stream(ASKED).aclose()
        await scene.bus.drain()
        assert scene.told == []


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("leave", [closes_the_text, drops_the_text])
async def test_a_text_stream_that_is_left_after_any_piece_ends_its_run(leave: Leave, buffer: int) -> None:
    for after in range(1, len(PIECES)):
        async with no_leaks(), watched(Limits(stream_events=buffer)) as scene, scene.executor:
            await leave(scene, after)
            await scene.over()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("leave", [closes_the_text, drops_the_text])
async def test_outside_of_a_lifespan_too(leave: Leave) -> None:
    for after in range(1, len(PIECES)):
        async with no_leaks(), watched() as scene:
            await leave(scene, after)
            await scene.over()


async def test_a_consumer_that_is_cancelled_at_any_of_its_awaits_leaves_nothing_behind() -> None:
    scenes: list[Watched] = []
    whole = len(await events_of_a_whole_run())

    async def consume() -> int:
        async with watched(Limits(stream_events=1)) as scene:
            scenes.append(scene)
            async with scene.executor.stream(ASKED) as stream:
                try:
                    return len([event async for event in stream])
                finally:
                    scene.leave()

    async def check(trial: Trial) -> None:
        assert trial.outcome is Outcome.CANCELLED or trial.value == whole  # struck when all was over
        await scenes[-1].over()

    async with no_leaks():
        for fault in cancellations():
            trials = await inject(consume, check, fault=fault)
            assert len(trials) > whole


class Gate(BaseMiddleware):
    """Holds every call of one stage until it is opened."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.opened = anyio.Event()

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        if self.stage is Stage.MODEL:
            await self.opened.wait()
        return await call_next(request)

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if self.stage is Stage.TOOL:
            await self.opened.wait()
        return await call_next(call)


@pytest.mark.parametrize(("stage", "begun", "calls"), [(Stage.MODEL, ModelStarted, 0), (Stage.TOOL, ToolStarted, 1)])
async def test_a_layer_that_goes_on_in_the_turn_in_which_the_consumer_leaves_starts_nothing(
    stage: Stage, begun: type[StreamEvent], calls: int
) -> None:
    gate, started = Gate(stage), 0

    @tool
    async def look(where: str) -> str:
        nonlocal started
        started += 1
        return where

    client = ScriptedLLMClient([ScriptedReply(tool_calls=(LOOK, LOOK)), "done"])
    executor = AgentExecutor(config=CONFIG, llm_client=client, tools=[look], middleware=[gate])
    async with executor.stream(ASKED) as stream:
        async for event in stream:
            if isinstance(event, begun):
                await anyio.wait_all_tasks_blocked()
                gate.opened.set()  # the layers are woken, and have not gone on yet
                break
    assert (client.calls, started) == (calls, 0)
