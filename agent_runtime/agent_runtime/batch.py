"""Many contexts through one executor, a few at a time."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import chain, islice
from typing import TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from agent_runtime.background import Background, cancel_requested
from agent_runtime.context import AgentContext
from agent_runtime.errors import ConfigurationError, ErrorType, RunCancelled, safe_text
from agent_runtime.types import AgentResult

Execute: TypeAlias = Callable[[AgentContext], Awaitable[AgentResult]]
Item: TypeAlias = tuple[int, AgentResult]


@asynccontextmanager
async def as_completed(
    execute: Execute, contexts: Iterable[AgentContext], *, max_concurrency: int
) -> AsyncGenerator[AsyncIterator[Item]]:
    """Run `contexts`, at most `max_concurrency` at once; inside, iterate over `(index, result)` as they end.

    A context is taken when there is room for it, so that a generator may give any number of them. A failed item is a
    failed result, a bug too (`error_type="internal"`, its exception attached); the others go on. Leaving early cancels
    what still runs. What the iterable itself raises ends the batch: it is raised after what was taken before has ended.
    """
    if max_concurrency < 1:
        raise ConfigurationError(f"max_concurrency is {max_concurrency}; it must be at least 1")
    source = iter(contexts)
    first = list(islice(source, max_concurrency))
    work = enumerate(chain(first, source))
    broken: list[Exception] = []
    send, receive = anyio.create_memory_object_stream[Item](max_concurrency)

    async def worker(done: MemoryObjectSendStream[Item]) -> None:
        async with done:
            while (item := _next(work, broken)) is not None:
                index, context = item
                await done.send((index, await _isolated(execute, context)))

    async with receive, Background() as background:
        async with send:
            for _ in first:
                background.start(worker, send.clone())
        yield receive
    if broken:
        raise broken[0]


async def in_order(execute: Execute, contexts: Iterable[AgentContext], *, max_concurrency: int) -> list[AgentResult]:
    """The results of `contexts` in their order."""
    async with as_completed(execute, contexts, max_concurrency=max_concurrency) as done:
        results = [item async for item in done]
    return [result for _, result in sorted(results, key=lambda item: item[0])]


def _next(work: Iterator[tuple[int, AgentContext]], broken: list[Exception]) -> tuple[int, AgentContext] | None:
    try:
        return next(work, None)
    except Exception as error:  # noqa: BLE001 - a bug of the iterable's, for the caller; no run is at fault
        broken.append(error)
        return None


async def _isolated(execute: Execute, context: AgentContext) -> AgentResult:
    try:
        return await execute(context)
    except Exception as error:  # noqa: BLE001 - a bug fails its own item only; it is in `exception`
        return AgentResult(success=False, error=safe_text(error), error_type=ErrorType.INTERNAL, exception=error)
    except anyio.get_cancelled_exc_class():
        if cancel_requested():
            raise
        stray = RunCancelled("the run awaited a task that was cancelled")
        return AgentResult(success=False, error=str(stray), error_type=stray.error_type, exception=stray)
