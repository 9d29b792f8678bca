"""What a test may not leave behind: tasks, threads, file descriptors."""

import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType

import anyio
import pytest

from agent_runtime.types import Value

_DESCRIPTORS = Path("/dev/fd")
_POOLS = frozenset({"anyio", "trio", "concurrent"})  # modules that have a pool of threads,
_WAITING = frozenset({"threading", "queue"})  # and that its idle threads wait in


class Leak(AssertionError):
    """Something is still there that was not there before."""


class _Census(Value, frozen=True, kw_only=True):
    tasks: dict[int, str]
    threads: dict[int, str]
    descriptors: dict[int, str]

    def beyond(self, before: "_Census") -> list[str]:
        """What is here and was not there."""
        kinds = ("tasks", "threads", "descriptors")
        return [
            f"{kind}: {name}"
            for kind in kinds
            for key, name in getattr(self, kind).items()
            if key not in getattr(before, kind)
        ]


@asynccontextmanager
async def no_leaks(*, within: float = 1.0) -> AsyncGenerator[None]:
    """Raise `Leak` when tasks, threads or file descriptors of the body are still there `within` seconds after it.

    Tasks are those of this event loop. An idle thread of anyio's, trio's or asyncio's pool is no leak, a busy one is.
    Descriptors are counted where the system lists them (Linux, macOS). A body that raises is not checked.
    """
    before = _census()
    yield
    give_up = anyio.current_time() + within
    while left := _census().beyond(before):
        if anyio.current_time() > give_up:
            raise Leak(f"left behind after {within:g} s: " + "; ".join(left))
        await anyio.sleep(0.005)  # nothing tells when a thread or a descriptor is gone


@pytest.fixture
async def leak_free(anyio_backend: object) -> AsyncGenerator[None]:
    """`no_leaks()` around a test. Import it into a `conftest.py`; it needs anyio's pytest plugin."""
    async with no_leaks():
        yield


def _census() -> _Census:
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented, in spite of its name
    return _Census(
        tasks={task.id: str(task.name) for task in anyio.get_running_tasks() if not _is_runner(task)},
        threads={
            id(thread): thread.name for thread in threading.enumerate() if not _is_idle(frames.get(thread.ident or 0))
        },
        descriptors=_descriptors(),
    )


def _is_runner(task: anyio.TaskInfo) -> bool:
    """Whether it is a task of anyio's pytest plugin; the one that waits for a fixture is another at its end."""
    return "TestRunner" in str(getattr(task.coro, "__qualname__", ""))


def _is_idle(frame: FrameType | None) -> bool:
    """Whether a thread runs nothing but its pool's own loop, or has ended."""
    modules: set[str] = set()
    while frame is not None:
        modules.add(str(frame.f_globals.get("__name__")).partition(".")[0])
        frame = frame.f_back
    return not modules or (modules <= _WAITING | _POOLS and not modules.isdisjoint(_POOLS))


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    if _DESCRIPTORS.is_dir():
        for link in tuple(_DESCRIPTORS.iterdir()):
            with suppress(OSError):  # the one that lists them is closed by now
                found[int(link.name)] = f"{link.name} ({link.readlink()})"
    return found
