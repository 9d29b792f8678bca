"""Waiting for one thing that another task does: a bare future on asyncio, an event on trio."""

import asyncio
from collections.abc import Awaitable

import anyio


class Wakeup:
    """`await wakeup.wait()` returns once `set` was called. For one waiter, in asyncio; cancelled, the wait leaves nothing.

    An `anyio.Event` costs ten times as much to make and wait for, and a streamed run makes one for each hand-over.
    """

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._done


def new_wakeup() -> Wakeup | anyio.Event:
    """A wake-up for the running event loop."""
    try:
        return Wakeup()
    except RuntimeError:  # no asyncio loop: trio
        return anyio.Event()
