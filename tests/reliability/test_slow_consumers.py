"""A consumer that is slow, stops, hangs or fails: memory stays bounded, nothing is lost, and the run ends in time."""

import os
import tracemalloc
from collections import Counter

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.reliability.watched import ASKED, CONFIG, LOOK, Watched, watched

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    CallNext,
    CallTimeout,
    ConsumerGone,
    ErrorType,
    Layer,
    Limits,
    ModelRequest,
    ModelResponse,
    ReasoningDelta,
    RunCompleted,
    RunStarted,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolFinished,
    ToolResult,
    ToolStarted,
    model_middleware,
    tool,
    tool_middleware,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, no_leaks

SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
MEBIBYTE = 1 << 20


class Fountain:
    """Streams `count` pieces and knows how far it is ahead of its consumer, who counts up `taken`."""

    def __init__(self, count: int, piece: str = "x", kind: type[TextDelta | ReasoningDelta] = TextDelta) -> None:
        self.count = count
        self.piece = piece
        self.kind = kind
        self.begun = 0
        self.taken = 0
        self.ahead = 0

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        for _ in range(self.count):
            self.begun += 1
            self.ahead = max(self.ahead, self.begun - self.taken)
            await request.emit(self.kind(text=self.piece, step=request.step))
        return ModelResponse.of("done")

    def executor(self, limits: Limits) -> AgentExecutor:
        return AgentExecutor(config=CONFIG, llm_client=self, limits=limits)


@pytest.mark.parametrize("kind", [TextDelta, ReasoningDelta])
@pytest.mark.parametrize("events", [1, 2, 7, 64])
async def test_the_model_is_never_further_ahead_than_the_buffer_has_places(
    events: int, kind: type[TextDelta | ReasoningDelta]
) -> None:
    fountain = Fountain(300, kind=kind)
    async with fountain.executor(Limits(stream_events=events)).stream(ASKED) as stream:
        async for event in stream:
            fountain.taken += isinstance(event, kind)
            if fountain.taken % 50 == 0:
                await anyio.wait_all_tasks_blocked()
    assert (fountain.taken, fountain.ahead <= events) == (300, True)


async def test_nor_than_it_has_bytes_and_one_piece() -> None:
    fountain = Fountain(100, piece="x" * 300)
    async with fountain.executor(Limits(stream_bytes=1_000)).stream(ASKED) as stream:
        async for event in stream:
            fountain.taken += isinstance(event, TextDelta)
            await anyio.wait_all_tasks_blocked()
    assert (fountain.taken, fountain.ahead) == (100, 4)


async def test_the_model_goes_on_when_half_of_the_buffer_is_taken() -> None:
    fountain = Fountain(100)
    async with fountain.executor(Limits(stream_events=8)).stream(ASKED) as stream:
        seen: list[int] = []
        for _ in range(12):
            await anyio.wait_all_tasks_blocked()
            seen.append(fountain.begun)
            await anext(stream)
    # Two control events come first, and fill two places.
    assert seen == [6, 6, 6, 6, 10, 10, 10, 10, 14, 14, 14, 14]


async def test_a_stopped_consumer_stops_the_model_and_costs_no_memory() -> None:
    pieces = 1_000_000 if SOAK else 20_000
    fountain = Fountain(pieces, piece="a piece of text")
    async with fountain.executor(Limits(run=3_600)).stream(ASKED) as stream:
        await anext(stream)
        await anyio.wait_all_tasks_blocked()
        assert fountain.begun < 64
        tracemalloc.start()
        try:
            async for event in stream:
                fountain.taken += isinstance(event, TextDelta)
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert fountain.taken == pieces
    assert grown < MEBIBYTE


@pytest.mark.parametrize("buffer", [1, 2, 5])
async def test_no_event_is_lost_whoever_is_slow(buffer: int) -> None:
    async with watched() as scene, scene.executor.stream(ASKED) as stream:
        quick = [event async for event in stream]
    slow: list[StreamEvent] = []
    async with watched(Limits(stream_events=buffer)) as scene, scene.executor.stream(ASKED) as stream:
        async for event in stream:
            slow.append(event)
            await anyio.wait_all_tasks_blocked()
    assert isinstance(quick[0], RunStarted) and isinstance(slow[0], RunStarted)
    assert isinstance(quick[-1], RunCompleted) and isinstance(slow[-1], RunCompleted)
    assert Counter(slow[1:-1]) == Counter(quick[1:-1])  # tools of one step may come in any order
    assert [event for event in slow if isinstance(event, TextDelta)] == [
        event for event in quick if isinstance(event, TextDelta)
    ]


async def test_a_consumer_that_gives_up_waiting_loses_no_event() -> None:
    fountain, taken, patience = Fountain(40), 0, 0
    async with fountain.executor(Limits(stream_events=3)).stream(ASKED) as stream:
        while taken < 44:
            with anyio.CancelScope() as scope:
                if patience % 2:
                    scope.cancel()
                patience += 1
                await anext(stream)
                taken += 1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_tools_at_once_are_ahead_by_one_event_each_at_most() -> None:
    begun, calls = 0, 20

    @tool
    async def look(where: str, call: ToolCall) -> str:
        nonlocal begun
        for _ in range(10):
            begun += 1
            await call.context.emit(ReasoningDelta(text=where))
        return where

    client = ScriptedLLMClient([ScriptedReply(tool_calls=(LOOK,) * calls), "done"])
    executor = AgentExecutor(config=CONFIG, llm_client=client, tools=[look], limits=Limits(stream_events=4))
    taken, ahead = 0, 0
    async with executor.stream(ASKED) as stream:
        async for event in stream:
            taken += isinstance(event, ReasoningDelta)
            await anyio.wait_all_tasks_blocked()
            ahead = max(ahead, begun - taken)
    assert taken == calls * 10
    assert ahead <= 4 + calls


async def test_the_clocks_for_silence_stand_still_while_the_consumer_is_the_slow_one() -> None:
    limits = Limits(stream_events=2, first_token=0.5, idle=0.5)
    async with Fountain(10).executor(limits).stream(ASKED) as stream:
        await anyio.sleep(0.7)
        for _ in range(5):
            await anext(stream)
        await anyio.sleep(0.7)
        rest = [event async for event in stream]
    assert isinstance(rest[-1], RunCompleted) and stream.result.output == "done"


async def test_and_go_on_afterwards() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", "b", "c", 60.0))])
    limits = Limits(stream_events=2, idle=0.05)
    executor = AgentExecutor(config=CONFIG.model_copy(update={"retry_attempts": 1}), llm_client=client, limits=limits)
    async with executor.stream(ASKED) as stream:
        await anyio.sleep(0.1)
        with pytest.raises(CallTimeout, match="idle"), anyio.fail_after(5):
            async for _ in stream:
                pass


async def events_of_a_whole_run() -> list[StreamEvent]:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    async with watched() as scene:
        await scene.executor.execute(ASKED, emit=emit)
        await scene.over()
    return events


class SocketClosed(Exception):
    pass


class Receiver:
    """Takes `count` events; at the next one it fails."""

    def __init__(self, scene: Watched, count: int) -> None:
        self.seen = 0
        self.failure = SocketClosed()
        self._scene = scene
        self._count = count

    async def __call__(self, event: StreamEvent) -> None:
        await checkpoint()
        self.seen += 1
        if self.seen > self._count:
            self._scene.leave()
            raise self.failure


async def test_a_receiver_that_fails_at_any_event_ends_the_run() -> None:
    whole = len(await events_of_a_whole_run())
    for count in range(whole):
        async with no_leaks(), watched() as scene:
            receiver = Receiver(scene, count)
            result = await scene.executor.execute(ASKED, emit=receiver)
            assert receiver.seen == count + 1
            if count < whole - 1:
                assert isinstance(result.exception, ConsumerGone)
                assert result.exception.__cause__ is receiver.failure
                assert (result.error_type, result.retryable) == (ErrorType.CONSUMER_GONE, False)
            else:
                assert result.success  # all was done, and only the news of it did not arrive
            await scene.over()


@pytest.mark.parametrize("limit", ["idle", "first_token"])
async def test_a_receiver_that_hangs_in_a_model_call_ends_the_run(limit: str) -> None:
    limits = Limits(idle=0.5) if limit == "idle" else Limits(idle=0.5, first_token=0.5)

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            scene.leave()
            await anyio.sleep_forever()

    async with no_leaks(), watched(limits) as scene:
        with anyio.fail_after(5):
            result = await scene.executor.execute(ASKED, emit=emit)
        assert isinstance(result.exception, ConsumerGone) and "took no event" in str(result.error)
        await scene.over()


async def run_again(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone:
        return await call_next(context)


async def run_swallows(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone:
        return AgentResult(output="never mind")


async def run_translates(context: AgentContext, call_next: CallNext) -> AgentResult:
    try:
        return await call_next(context)
    except ConsumerGone as error:
        raise AgentRuntimeError("the client went") from error


@model_middleware
async def model_again(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
    try:
        return await call_next(request)
    except ConsumerGone:
        return await call_next(request)


@model_middleware
async def model_swallows(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
    try:
        return await call_next(request)
    except ConsumerGone:
        return ModelResponse.of("never mind")


@tool_middleware
async def tool_swallows(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
    try:
        return await call_next(call)
    except ConsumerGone:
        return ToolResult(content="never mind")


@pytest.mark.parametrize("layer", [run_again, run_swallows, run_translates, model_again, model_swallows, tool_swallows])
async def test_no_layer_can_make_anything_of_a_receiver_that_is_gone(layer: Layer) -> None:
    for count in range(len(await events_of_a_whole_run()) - 1):
        async with watched() as scene:
            scene.executor.pipeline.add(layer, before="middle")
            receiver = Receiver(scene, count)
            result = await scene.executor.execute(ASKED, emit=receiver)
            assert isinstance(result.exception, ConsumerGone), f"at event {count}: {result.exception!r}"
            assert (result.exception.__cause__, receiver.seen) == (receiver.failure, count + 1)
            await scene.over()


async def test_events_of_tools_that_run_at_once_reach_the_receiver_one_at_a_time() -> None:
    inside, most, events = 0, 0, list[StreamEvent]()

    async def emit(event: StreamEvent) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(3):
            await checkpoint()
        events.append(event)
        inside -= 1

    script = (ScriptedReply(tool_calls=(LOOK,) * 8), ScriptedReply(text="done"))
    async with watched(script=script) as scene:
        result = await scene.executor.execute(ASKED, emit=emit)
    assert (result.success, most) == (True, 1)
    started = [event.id for event in events if isinstance(event, ToolStarted)]
    finished = [event.id for event in events if isinstance(event, ToolFinished)]
    assert len(started) == 8 and set(started) == set(finished)
