"""A thousand runs at once at the edge of their quotas: `python -m tests.faults.limits -n 100 --store sqlite`.

In each round as many runs of one user are let in as the quota says, and not one more; tokens that are used never pass
theirs. On the memory store the runs are tasks of one process, otherwise of four processes that share a file or a server.
"""

import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
from anyio.to_thread import run_sync
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import SERVERS, stores_on
from tests.faults.processes import PATIENCE, context, started
from tests.faults.worker import STARTED, alone

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    Limits,
    MemoryRateLimitStore,
    ModelRequest,
    ModelResponse,
    RateLimitStore,
    Usage,
)
from agent_runtime_adapters.sqlite import SQLiteRateLimitStore
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

CALLERS = 1_000
PROCESSES = 4
ADMITTED = 100  # runs of one round
TOKENS = 5_000  # of one round
CALL = 70  # tokens that a call reserves and uses
PER = 1e9  # seconds: nothing comes back within a round
OVER = "runs let in beyond a quota"
UNDER = "runs refused that fit"
OVERSHOT = "tokens used beyond a quota"
STRANGE = "runs told something else"


class Round(msgspec.Struct):
    """How one round went in one process."""

    admitted: int = 0
    tokens: int = 0
    strange: int = 0

    def __add__(self, other: "Round") -> "Round":
        return Round(self.admitted + other.admitted, self.tokens + other.tokens, self.strange + other.strange)


class Model:
    """Uses what was set aside for it, to the last token."""

    def __init__(self) -> None:
        self.tokens = 0

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        await anyio.lowlevel.checkpoint()
        self.tokens += CALL
        return ModelResponse.of("fine", usage=Usage(input_tokens=1, output_tokens=CALL - 1))


def executor_for(store: RateLimitStore, model: Model, quota: Quota) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="a", retry_attempts=1, max_tokens=CALL - 1),
        llm_client=model,
        middleware=[RateLimitMiddleware([quota], store=store, on_store_failure="refuse")],
        limits=Limits(store=PATIENCE),
    )


async def rush(store: RateLimitStore, number: int, callers: int) -> Round:
    """So many runs at once, half of the rounds at a quota of requests, half at one of tokens."""
    requests = number % 2 == 0
    quota = Quota(requests=ADMITTED, per=PER) if requests else Quota(tokens=TOKENS, per=PER)
    model, went = Model(), Round()
    executor = executor_for(store, model, quota)
    asked = [AgentContext(user_id=f"round {number}", current_task="four") for _ in range(callers)]
    for result in await executor.execute_batch(asked, max_concurrency=callers):
        went.admitted += result.success
        went.strange += not result.success and result.error_type != "rate_limit"
    went.tokens = model.tokens
    return went


def judge(number: int, went: Round, tally: Tally) -> None:
    fits = ADMITTED if number % 2 == 0 else TOKENS // CALL
    where = f"round {number}: {went}"
    if went.admitted > fits:
        tally.wrong(OVER, where)
    if went.admitted < fits:
        tally.wrong(UNDER, where)
    if number % 2 and went.tokens > TOKENS:
        tally.wrong(OVERSHOT, where)
    if went.strange:
        tally.wrong(STRANGE, where)
    tally.saw("let in", went.admitted)


@asynccontextmanager
async def memory(folder: Path) -> AsyncGenerator[RateLimitStore]:
    yield MemoryRateLimitStore()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncGenerator[RateLimitStore]:
    async with SQLiteRateLimitStore(folder / "limits.db") as store:
        yield store


@asynccontextmanager
async def on_server(name: str, folder: Path) -> AsyncGenerator[RateLimitStore]:
    async with stores_on(name, folder) as stores:
        yield stores.rate_limits


STORES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[RateLimitStore]]] = {
    "memory": memory,
    "sqlite": sqlite,
    **{name: partial(on_server, name) for name in SERVERS},
}


def worker(store: str, folder: str, rounds: int, barrier: Barrier, told: Connection) -> None:
    """A process that takes part in every round."""
    alone()
    told.send_bytes(STARTED)
    anyio.run(_worker, store, Path(folder), rounds, barrier, told)


async def _worker(store: str, folder: Path, rounds: int, barrier: Barrier, told: Connection) -> None:
    async with STORES[store](folder) as opened:
        for number in range(rounds):
            await run_sync(barrier.wait, PATIENCE)
            told.send_bytes(msgspec.json.encode(await rush(opened, number, CALLERS // PROCESSES)))


async def _in_processes(store: str, folder: Path, rounds: int, tally: Tally) -> None:
    barrier = context.Barrier(PROCESSES)
    workers = [await started(worker, store, str(folder), rounds, barrier) for _ in range(PROCESSES)]
    for number in range(rounds):
        went = Round()
        for each in workers:
            went += msgspec.json.decode(await each.tells() or b"", type=Round)
        judge(number, went, tally)
    for each in workers:
        await each.outcome()


async def limits(store: str, count: int, seed: int) -> Figure:
    """Have `count` rounds; figure R18."""
    since = time.perf_counter()
    tally = Tally(OVER, UNDER, OVERSHOT, STRANGE)
    with tempfile.TemporaryDirectory() as folder:
        if store == "memory":
            counted = MemoryRateLimitStore()
            for number in range(count):
                judge(number, await rush(counted, number, CALLERS), tally)
        else:
            await _in_processes(store, Path(folder), count, tally)
    return tally.figure("R18", store, count, f"rounds of {CALLERS:,} runs at once", seed=None, since=since)


if __name__ == "__main__":
    main(limits, STORES, count=100, description=__doc__)
