"""A rate limit store in memory that is watched, waited for, and made to fail."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from agent_runtime import Charge, MemoryRateLimitStore, Settlement, Taken


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class WatchedLimits:
    """Keeps what it is asked; `before_take` and `before_settle` are awaited first, and may raise or never return.

    Attributes:
        calls: How often it was called, failures included.
        charges: What was taken, or refused.
        used: What charges were settled to.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls = 0
        self.charges: list[Charge] = []
        self.used: list[float] = []
        self.before_take: Callable[[], Awaitable[object]] = checkpoint
        self.before_settle: Callable[[], Awaitable[object]] = checkpoint
        self._store = MemoryRateLimitStore(clock=self.clock)

    async def take(self, charges: Sequence[Charge]) -> Taken:
        self.calls += 1
        await self.before_take()
        self.charges += charges
        return await self._store.take(charges)

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        return await self._store.peek(charges)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        self.calls += 1
        await self.before_settle()
        self.used += [settlement.used for settlement in settlements]
        await self._store.settle(settlements)

    async def left(self) -> float:
        """What is left of the limit of the last charge."""
        [allowance] = (await self.peek([msgspec.structs.replace(self.charges[-1], cost=0)])).allowances
        return allowance.remaining


def fails_with(error: Exception) -> Callable[[], Awaitable[object]]:
    async def fail() -> None:
        await checkpoint()
        raise error

    return fail


async def at_once() -> None:
    """Not even a turn of the event loop."""


async def hangs() -> None:
    await anyio.sleep_forever()
