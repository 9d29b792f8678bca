import asyncio
import sys
from collections.abc import Iterator

import anyio
import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    ConfigurationError,
    ErrorType,
    InvalidInput,
    Principal,
    RunCancelled,
)


def asked(*tasks: str) -> list[AgentContext]:
    return [AgentContext(user_id="ann", current_task=task) for task in tasks]


async def echoes(context: AgentContext) -> str:
    if context.current_task == "bug":
        raise KeyError("secret")
    return context.current_task


async def test_results_come_in_the_order_of_the_contexts_each_failing_alone() -> None:
    results = await AgentExecutor(echoes).execute_batch(asked("a", "bug", " ", "d"), max_concurrency=2)
    assert [result.output for result in results] == ["a", "", "", "d"]
    assert [result.error_type for result in results] == [None, ErrorType.INTERNAL, ErrorType.VALIDATION, None]
    assert isinstance(results[1].exception, KeyError) and results[1].error == "internal error (KeyError)"
    assert isinstance(results[2].exception, InvalidInput)


async def test_no_contexts_give_no_results() -> None:
    assert await AgentExecutor(echoes).execute_batch([]) == []


async def test_a_thing_that_is_no_context_fails_alone() -> None:
    contexts = [*asked("a"), None, *asked("c")]
    results = await AgentExecutor(echoes).execute_batch(contexts, max_concurrency=1)  # type: ignore[arg-type]  # untyped code
    assert [result.success for result in results] == [True, False, True]


async def test_a_concurrency_below_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        await AgentExecutor(echoes).execute_batch(asked("a"), max_concurrency=0)


async def test_the_principal_is_that_of_every_run() -> None:
    async def whose(context: AgentContext) -> str:
        return context.user_id

    contexts = [AgentContext(current_task="x")] * 2
    results = await AgentExecutor(whose).execute_batch(contexts, principal=Principal(subject="ann"))
    assert [result.output for result in results] == ["ann", "ann"]


async def test_results_can_be_had_as_they_end() -> None:
    slow_may_end = anyio.Event()

    async def waits(context: AgentContext) -> str:
        if context.current_task == "slow":
            await slow_may_end.wait()
        return context.current_task

    order: list[tuple[int, str]] = []
    async with AgentExecutor(waits).batch(asked("slow", "fast")) as done:
        async for index, result in done:
            order.append((index, result.output))
            slow_may_end.set()
    assert order == [(1, "fast"), (0, "slow")]


async def test_leaving_early_cancels_what_still_runs() -> None:
    ended: list[str] = []

    async def waits(context: AgentContext) -> str:
        if context.current_task == "first":
            return "first"
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(context.current_task)
        return ""

    executor = AgentExecutor(waits)
    async with executor.batch(asked("first", "b", "c"), max_concurrency=2) as done:
        async for _ in done:
            break
    assert "b" in ended and executor.runs == {}


async def test_contexts_are_taken_when_there_is_room_for_them() -> None:
    taken = 0

    def endless() -> Iterator[AgentContext]:
        nonlocal taken
        while True:
            taken += 1
            yield AgentContext(current_task="x")

    async with AgentExecutor(echoes).batch(endless(), max_concurrency=2) as done:
        for _ in range(5):
            await anext(done)
            await anyio.wait_all_tasks_blocked()
    assert taken == 5 + 2 * 2  # two run or wait to be handed over, and two are handed over


async def test_a_concurrency_without_an_end_starts_no_more_than_there_is() -> None:
    results = await AgentExecutor(echoes).execute_batch((item for item in asked("a", "b")), max_concurrency=sys.maxsize)
    assert [result.output for result in results] == ["a", "b"]


async def test_what_the_iterable_raises_is_raised_after_the_results_before_it() -> None:
    def broken() -> Iterator[AgentContext]:
        yield from asked("a", "b", "c")
        raise OSError("the disk is gone")

    results: list[str] = []
    with pytest.raises(OSError, match="the disk is gone"):
        async with AgentExecutor(echoes).batch(broken(), max_concurrency=2) as done:
            async for _, result in done:
                results.append(result.output)
    assert sorted(results) == ["a", "b", "c"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_awaits_a_cancelled_task_fails_alone_too() -> None:
    async def stray(context: AgentContext) -> str:
        if context.current_task == "stray":
            task = asyncio.create_task(anyio.sleep_forever())
            task.cancel()
            await task
        return "fine"

    results = await AgentExecutor(stray).execute_batch(asked("a", "stray", "c"), max_concurrency=1)
    assert [result.output for result in results] == ["fine", "", "fine"]
    assert isinstance(results[1].exception, RunCancelled) and results[1].error_type == ErrorType.CANCELLED
