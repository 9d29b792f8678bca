"""B: what a chunk of a stream costs on its way from the agent to the consumer, and how soon the first one is there."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from agent_runtime import (
    Agent,
    AgentConfig,
    AgentContext,
    AgentExecutor,
    LLMAgent,
    ModelRequest,
    ModelResponse,
    StreamEvent,
    TextDelta,
)
from benchmarks import bare, onion
from benchmarks.harness import Case, Measure, Sides, calls, per_call, scaled

CHUNKS = 1_000  # of one stream
PATIENCE = 0.02  # seconds in which a producer that nobody holds back shows how far it runs


class Talking:
    """An agent that emits `CHUNKS` chunks, and lets the event loop take a turn before each if it `yields`."""

    name = "agent"

    def __init__(self, *, yields: bool = False) -> None:
        self.produced = 0
        self._yields = yields

    async def run(self, context: AgentContext, /) -> str:
        for _ in range(CHUNKS):
            if self._yields:
                await asyncio.sleep(0)
            self.produced += 1
            await context.emit(TextDelta(text="x"))
        return "x" * CHUNKS


class TalkingClient:
    """A model that streams `CHUNKS` chunks, with a turn for the event loop before each."""

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        for _ in range(CHUNKS):
            await asyncio.sleep(0)
            await request.emit(TextDelta(text="x", step=request.step))
        return ModelResponse.of("x" * CHUNKS)


async def talk(emit: bare.Emit) -> None:
    for _ in range(CHUNKS):
        await emit(bare.Chunk(text="x"))


async def talk_by_turns(emit: bare.Emit) -> None:
    for _ in range(CHUNKS):
        await asyncio.sleep(0)
        await emit(bare.Chunk(text="x"))


async def consumed(executor: AgentExecutor) -> int:
    """Stream one run to its end; how many chunks came."""
    count = 0
    async with executor.stream(onion.context()) as stream:
        async for event in stream:
            if type(event) is TextDelta:
                count += 1
    assert stream.result.success
    return count


async def pushed(executor: AgentExecutor) -> int:
    """Push one run's chunks into a sink of the caller's own; how many came."""
    count = 0

    async def send(event: StreamEvent) -> None:
        nonlocal count
        if type(event) is TextDelta:
            count += 1

    await executor.execute(onion.context(), emit=send)
    return count


async def bare_pushed(talk: Callable[[bare.Emit], Awaitable[None]]) -> int:
    count = 0

    async def send(chunk: bare.Chunk) -> None:
        nonlocal count
        count += 1

    await talk(send)
    return count


async def per_chunk(limit: Callable[[], Awaitable[int]], ours: Callable[[], Awaitable[int]]) -> Sides:
    """Microseconds for one chunk of a whole stream, after both sides gave all chunks."""
    assert (await limit(), await ours()) == (CHUNKS, CHUNKS)
    return Sides(limit=scaled(per_call(limit), CHUNKS), ours=scaled(per_call(ours), CHUNKS))


async def layered(agent: Agent, kind: type[onion.Passing], layers: int) -> AgentExecutor:
    executor = AgentExecutor(agent, middleware=onion.layers(kind(), layers))
    await onion.assert_called(executor, kind.process, "x" * CHUNKS)
    return executor


@asynccontextmanager
async def passed_through(layers: int) -> AsyncGenerator[Sides]:
    executor = await layered(Talking(), onion.Passing, layers)
    yield await per_chunk(partial(bare.handed_over, talk), partial(consumed, executor))


@asynccontextmanager
async def touched() -> AsyncGenerator[Sides]:
    executor = await layered(Talking(), onion.Touching, 5)
    limit = partial(bare.handed_over, lambda emit: talk(bare.touching(emit, 5)))
    yield await per_chunk(limit, partial(consumed, executor))


@asynccontextmanager
async def by_turns() -> AsyncGenerator[Sides]:
    executor = await layered(Talking(yields=True), onion.Passing, 5)
    yield await per_chunk(partial(bare.handed_over, talk_by_turns), partial(consumed, executor))


@asynccontextmanager
async def by_turns_into_own_emit() -> AsyncGenerator[Sides]:
    executor = await layered(Talking(yields=True), onion.Passing, 5)
    yield await per_chunk(partial(bare_pushed, talk_by_turns), partial(pushed, executor))


@asynccontextmanager
async def model_by_turns() -> AsyncGenerator[Sides]:
    executor = await layered(LLMAgent(AgentConfig(name="agent"), TalkingClient()), onion.Passing, 5)
    yield await per_chunk(partial(bare.handed_over, talk_by_turns), partial(consumed, executor))


def typical(once: Callable[[], Awaitable[float]]) -> Measure:
    """Microseconds that `once` reports of itself, the median: not all that it does belongs to the figure."""

    async def measured(number: int) -> float:
        return statistics.median([await once() for _ in range(number)]) * 1e6

    return measured


async def first_streamed(executor: AgentExecutor) -> float:
    started = time.perf_counter()
    async with executor.stream(onion.context()) as stream:
        async for event in stream:
            if type(event) is TextDelta:
                return time.perf_counter() - started
    raise AssertionError("the stream had no chunk")


async def first_pushed(executor: AgentExecutor) -> float:
    arrived: list[float] = []

    async def send(event: StreamEvent) -> None:
        if type(event) is TextDelta:
            arrived.append(time.perf_counter())

    started = time.perf_counter()
    await executor.execute(onion.context(), emit=send)
    return arrived[0] - started


class OneChunk:
    """An agent that says one thing and then waits, as one does whose model goes on."""

    name = "agent"

    async def run(self, context: AgentContext, /) -> str:
        await context.emit(TextDelta(text="x"))
        await asyncio.sleep(0)
        return "x"


def first_by_hand(layers: int) -> Callable[[], Awaitable[float]]:
    arrived = 0.0

    async def send(chunk: bare.Chunk) -> None:
        nonlocal arrived
        arrived = time.perf_counter()

    async def agent(_: bare.Context) -> str:
        await send(bare.Chunk(text="x"))
        await asyncio.sleep(0)
        return "x"

    handler = bare.onion(agent, layers)

    async def run() -> float:
        started = time.perf_counter()
        assert await handler(bare.context()) == "x"
        return arrived - started

    return run


@asynccontextmanager
async def first_chunk(ours: Callable[[AgentExecutor], Awaitable[float]]) -> AsyncGenerator[Sides]:
    executor = AgentExecutor(OneChunk(), middleware=onion.layers(onion.Passing(), 10))
    await onion.assert_called(executor, onion.Passing.process, "x")
    limit = first_by_hand(10)
    assert await calls(bare.passing, limit) == 10
    yield Sides(limit=typical(limit), ours=typical(partial(ours, executor)))


@asynccontextmanager
async def read_ahead() -> AsyncGenerator[Sides]:
    """Chunks that were produced while the consumer slept on the first one."""

    async def limit(_: int) -> float:
        produced = 0

        async def chunks() -> AsyncGenerator[bare.Chunk]:
            nonlocal produced
            while True:
                produced += 1
                yield bare.Chunk(text="x")

        stream = chunks()
        await anext(stream)
        await asyncio.sleep(PATIENCE)
        await stream.aclose()
        return produced

    async def ours(_: int) -> float:
        agent = Talking()
        async with AgentExecutor(agent).stream(onion.context()) as stream:
            async for event in stream:
                if type(event) is TextDelta:
                    await asyncio.sleep(PATIENCE)
                    return agent.produced
        raise AssertionError("the stream had no chunk")

    yield Sides(limit=limit, ours=ours)


CASES = (
    Case("B1, no layers", "µs", partial(passed_through, 0)),
    Case("B1, 10 layers", "µs", partial(passed_through, 10)),
    Case("B2", "µs", touched),
    Case("B3, stream()", "µs", by_turns),
    Case("B3, own emit", "µs", by_turns_into_own_emit),
    Case("B3, built-in agent, stream()", "µs", model_by_turns),
    Case("B4, stream()", "µs", partial(first_chunk, first_streamed)),
    Case("B4, own emit", "µs", partial(first_chunk, first_pushed)),
    Case("B5", "chunks", read_ahead, counted=True),
)
