import asyncio
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import from_thread, to_thread

from agent_runtime.testing import Leak, leak_free, no_leaks

__all__ = ("leak_free",)  # a fixture is used by its name


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_left_running_is_found_by_name() -> None:
    loose: list[asyncio.Task[None]] = []
    try:
        with pytest.raises(Leak, match="tasks: loose"):
            async with no_leaks(within=0.02):
                loose.append(asyncio.create_task(anyio.sleep_forever(), name="loose"))
    finally:
        loose[0].cancel()
        with suppress(asyncio.CancelledError):
            await loose[0]


async def test_a_task_of_an_outer_group_is_found() -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(Leak, match="tasks: "):
            async with no_leaks(within=0.02):
                group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()


async def test_a_thread_is_found_and_an_idle_one_of_a_pool_is_no_leak() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="loose thread")
    with pytest.raises(Leak, match="threads: loose thread"):
        async with no_leaks(within=0.02):
            thread.start()
    release.set()
    thread.join()
    async with no_leaks():
        await to_thread.run_sync(int)


async def test_a_busy_thread_of_a_pool_is_found() -> None:
    release = threading.Event()

    def busy() -> None:
        from_thread.run_sync(scope.cancel)
        release.wait(5)

    with pytest.raises(Leak, match="threads"):
        async with no_leaks(within=0.05):
            with anyio.CancelScope() as scope:
                await to_thread.run_sync(busy, abandon_on_cancel=True)
    release.set()


async def test_a_file_that_is_left_open_is_found(tmp_path: Path) -> None:
    path = tmp_path / "loose.txt"
    path.write_text("")
    with ExitStack() as files:
        with pytest.raises(Leak, match=r"descriptors: .*loose\.txt"):
            async with no_leaks(within=0.02):
                files.enter_context(path.open())


async def test_what_ends_in_time_is_no_leak() -> None:
    async with anyio.create_task_group() as group, no_leaks():
        group.start_soon(anyio.sleep, 0.02)


async def test_an_error_of_the_body_is_not_hidden() -> None:
    async with anyio.create_task_group() as group:
        with pytest.raises(KeyError):
            async with no_leaks(within=0.02):
                group.start_soon(anyio.sleep_forever)
                raise KeyError
        group.cancel_scope.cancel()


@pytest.mark.usefixtures("leak_free")
async def test_the_fixture_lets_a_clean_test_pass() -> None:
    await anyio.lowlevel.checkpoint()


async def test_where_the_system_lists_no_descriptors_the_rest_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runtime.testing.leaks._DESCRIPTORS", Path("/nowhere"))
    async with no_leaks():
        await anyio.lowlevel.checkpoint()
