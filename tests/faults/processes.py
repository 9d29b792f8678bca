"""Workers as processes, each in a group of its own, that are stopped, continued and killed at will."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import anyio
from anyio.to_thread import run_sync

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["__main__", "tests.faults.worker"])  # so that a worker is there in milliseconds

PATIENCE = 60.0  # seconds after which a worker that has not ended counts as one that hangs


class Worker:
    """A process, and the pipe by which it tells how far it has come."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self._told, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=target, args=(*args, theirs), daemon=True)
        self._theirs = theirs

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        _alive.add(self)
        await run_sync(_locked, self._process.start)
        self._theirs.close()  # so that the pipe ends when the process does

    async def tells(self, within: float = PATIENCE) -> bytes | None:
        """The next thing that it tells; empty when it has ended, `None` when nothing came in time."""
        return await run_sync(_received, self._told, within)

    def signal(self, number: signal.Signals) -> None:
        """To its process group, which it has told that it has; too late where it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def outcome(self) -> None:
        """Wait until it has ended by itself, in good order."""
        code = await self.ended()
        assert code == 0, "a worker hangs" if code is None else f"a worker ended with {code}"

    async def kill(self) -> bool:
        """End it at once, with all that it has started; false when it had ended by itself, in good order."""
        self.signal(signal.SIGKILL)
        code = await self.ended()
        assert code in (0, -signal.SIGKILL), f"a worker ended with {code}"
        return code != 0

    async def ended(self, within: float = PATIENCE) -> int | None:
        """Its exit code; negative for a signal, `None` when it is still there."""
        while told := await self.tells(within):
            pass
        if told is None:
            return None
        await run_sync(_locked, self._process.join)
        _alive.discard(self)
        self._told.close()
        return self._process.exitcode


_lock = threading.Lock()
_alive: set[Worker] = set()


@atexit.register
def _kill_the_rest() -> None:
    """Where a program has failed: one that is paused would never end, and whoever waits for it neither."""
    for worker in _alive:
        worker.signal(signal.SIGKILL)


def _locked(call: Callable[[], object]) -> None:
    """Of what starts and ends processes, one at a time: of two threads that look after a process, one misses its end."""
    with _lock:
        call()


def _received(told: Connection, within: float) -> bytes | None:
    try:
        return told.recv_bytes() if told.poll(within) else None
    except EOFError:
        return b""


async def started(target: Callable[..., None], *args: Any) -> Worker:
    """A worker that is in its own process group."""
    worker = Worker(target, *args)
    await worker.start()
    with anyio.fail_after(PATIENCE):
        assert await worker.tells(), "a worker died before it had begun"
    return worker
