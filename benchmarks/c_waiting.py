"""C: many runs that wait at the same time."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial

from agent_runtime import AgentContext, AgentExecutor
from benchmarks import bare, onion
from benchmarks.harness import Case, Measure, Sides

WAIT = 0.05  # seconds that each run waits
LAYERS = 10
IN_MEMORY = 1_000  # runs whose memory is measured
TUNED = (50_000, 10, 10)  # thresholds of the garbage collector, as the documentation advises for many runs at once


async def waiting(context: AgentContext) -> str:
    await asyncio.sleep(WAIT)
    return "hi"


async def bare_waiting(context: bare.Context) -> str:
    await asyncio.sleep(WAIT)
    return "hi"


async def by_hand() -> str:
    return bare.Answer(output=await bare_waiting(bare.context())).output


Answer = Callable[[], Coroutine[object, object, str]]


async def answering(layers: int) -> Answer:
    """Our side of one run, checked."""
    executor = AgentExecutor(waiting, agent_id="agent", middleware=onion.layers(onion.Passing(), layers))
    await onion.assert_called(executor, onion.Passing.process, "hi")
    context = onion.context()

    async def run() -> str:
        return (await executor.execute(context)).output

    return run


def at_once(run: Answer, runs: int) -> Measure:
    """Microseconds of one of that many runs at once, over the time that each waits."""

    async def measured(number: int) -> float:
        total = 0.0
        for _ in range(number):
            started = time.perf_counter()
            answers = await asyncio.gather(*(run() for _ in range(runs)))
            total += time.perf_counter() - started - WAIT
            assert answers.count("hi") == runs
        return total / number / runs * 1e6

    return measured


@contextmanager
def tuned() -> Generator[None]:
    """What the documentation advises: what is alive is never looked at again, and young objects are looked at later."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*TUNED)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@asynccontextmanager
async def concurrently(runs: int, *, with_tuning: bool) -> AsyncGenerator[Sides]:
    ours = await answering(LAYERS)
    with tuned() if with_tuning else nullcontext():
        yield Sides(limit=at_once(by_hand, runs), ours=at_once(ours, runs))


def memory(run: Answer) -> Measure:
    """KiB that one waiting run holds."""

    async def measured(_: int) -> float:
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tasks = [asyncio.create_task(run()) for _ in range(IN_MEMORY)]
            await asyncio.sleep(WAIT / 2)
            held = tracemalloc.get_traced_memory()[0] - before
            assert not any(task.done() for task in tasks)
        finally:
            tracemalloc.stop()
        await asyncio.gather(*tasks)
        return held / IN_MEMORY / 1024

    return measured


@asynccontextmanager
async def held(layers: int) -> AsyncGenerator[Sides]:
    yield Sides(limit=memory(by_hand), ours=memory(await answering(layers)))


CASES = (
    Case("C1", "µs", partial(concurrently, 1_000, with_tuning=False)),
    Case("C1, tuned GC", "µs", partial(concurrently, 1_000, with_tuning=True)),
    Case("C2", "µs", partial(concurrently, 10_000, with_tuning=False)),
    Case("C2, tuned GC", "µs", partial(concurrently, 10_000, with_tuning=True)),
    Case("C3, no layers", "KiB", partial(held, 0), counted=True),
    Case("C3, 10 layers", "KiB", partial(held, LAYERS), counted=True),
)
