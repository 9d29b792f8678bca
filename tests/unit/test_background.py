import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import ConfigurationError, RuntimeClosed
from agent_runtime.background import Background, cancel_requested


async def test_entered_jobs_run_beside_the_caller_and_end_with_it() -> None:
    ended = anyio.Event()

    async def job(started: anyio.Event) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with Background() as background:
        started = anyio.Event()
        background.start(job, started, name="job")
        await started.wait()
        assert len(background) == 1
    assert ended.is_set()
    assert len(background) == 0


async def test_on_end_is_called_once() -> None:
    calls: list[str] = []
    async with Background() as background:
        background.start(anyio.sleep, 0, on_end=lambda: calls.append("done"))
        background.start(anyio.sleep_forever, on_end=lambda: calls.append("cancelled"))
        await anyio.wait_all_tasks_blocked()
        assert calls == ["done"]
    assert calls == ["done", "cancelled"]


async def test_a_failing_job_is_kept_and_logged_and_bothers_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async with Background() as background:
        background.start(fail)
        await anyio.wait_all_tasks_blocked()
        assert [repr(error) for error in background.errors] == ["ValueError('broken')"]
    assert [record.message for record in caplog.records] == ["background job failed"]


async def test_an_error_in_the_body_is_not_wrapped_in_a_group() -> None:
    with pytest.raises(ValueError, match="body"):
        async with Background() as background:
            background.start(anyio.sleep_forever)
            raise ValueError("body")


async def test_aclose_ends_jobs_inside_the_lifespan_and_spares_the_body() -> None:
    async with Background() as background:
        background.start(anyio.sleep_forever)
        await background.aclose()
        await background.aclose()
        assert len(background) == 0
        await checkpoint()
        with pytest.raises(RuntimeClosed, match="closed"):
            background.start(anyio.sleep_forever)


async def test_two_callers_may_close_at_once() -> None:
    async def slow_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)

    async with Background() as background:
        background.start(slow_end)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(background.aclose)
            group.start_soon(background.aclose)
        assert len(background) == 0


async def test_a_cancelled_aclose_leaves_nothing_running() -> None:
    ended = False

    async def slow_end() -> None:
        nonlocal ended
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            ended = True

    async with Background() as background:
        background.start(slow_end)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await background.aclose()
        assert scope.cancelled_caught
        assert ended


def test_outside_a_lifespan_asyncio_runs_jobs_until_aclose() -> None:
    async def main() -> None:
        background = Background()
        ended = asyncio.Event()
        background.start(anyio.sleep, 0, on_end=ended.set)
        await ended.wait()
        background.start(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        await background.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    anyio.run(main)


def test_outside_a_lifespan_trio_is_told_to_use_one() -> None:
    async def main() -> None:
        background = Background()
        with pytest.raises(ConfigurationError, match="async with"):
            background.start(anyio.sleep_forever)
        assert len(background) == 0
        await background.aclose()

    anyio.run(main, backend="trio")


def test_a_job_that_the_loop_cancels_before_its_first_step_has_ended() -> None:
    ended: list[str] = []
    background = Background()

    async def main() -> None:
        background.start(anyio.sleep_forever, on_end=lambda: ended.append("job"))

    anyio.run(main)
    assert ended == ["job"]
    assert len(background) == 0


@pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning"
)  # anyio's group made it and dropped it
def test_a_job_of_a_lifespan_that_never_began_has_ended_with_it() -> None:
    ended: list[str] = []

    async def main() -> None:
        async with Background() as background:
            background.start(anyio.sleep_forever, on_end=lambda: ended.append("job"))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    anyio.run(main)
    gc.collect()
    assert ended == ["job"]


def test_a_second_event_loop_is_refused_while_jobs_live(anyio_backend: str) -> None:
    async def main() -> None:
        async with Background() as background:
            background.start(anyio.sleep_forever)
            with pytest.raises(RuntimeError, match="another event loop"):
                await anyio.to_thread.run_sync(anyio.run, start_in, background)

    async def start_in(background: Background) -> None:
        background.start(anyio.sleep_forever)

    anyio.run(main, backend=anyio_backend)


def test_a_second_event_loop_is_welcome_when_no_job_lives() -> None:
    background = Background()

    async def main() -> None:
        background.start(anyio.sleep, 0)
        await anyio.wait_all_tasks_blocked()

    anyio.run(main)
    anyio.run(main)


def test_a_job_that_awaited_a_cancelled_task_does_not_cancel_the_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    async def await_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        async with Background() as background:
            background.start(await_cancelled)
            await anyio.wait_all_tasks_blocked()
            await checkpoint()

    with caplog.at_level(logging.WARNING):
        anyio.run(main)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("requested", [True, False])
def test_cancel_requested_tells_ones_own_cancel_from_another_tasks(requested: bool) -> None:
    answers: list[bool] = []

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        with anyio.CancelScope() as scope:
            (scope if requested else future).cancel()
            await ask(future)

    async def ask(future: Awaitable[None]) -> None:
        try:
            await future
        except asyncio.CancelledError:
            answers.append(cancel_requested())

    anyio.run(main)
    assert answers == [requested]


def test_a_host_that_is_cancelled_takes_its_jobs_along(anyio_backend: str) -> None:
    ended: list[str] = []

    async def main() -> None:
        with anyio.move_on_after(0.01):
            async with Background() as background:
                background.start(_until_cancelled, lambda: ended.append("job"))
                await anyio.sleep_forever()

    anyio.run(main, backend=anyio_backend)
    assert ended == ["job"]


async def _until_cancelled(at_end: Callable[[], None]) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        at_end()
