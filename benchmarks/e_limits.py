"""E: what counting against a limit costs, in memory."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agent_runtime import Charge, MemoryRateLimitStore, RateLimit
from benchmarks.harness import Case, Sides, per_call

RATE = 100 / 60  # units a second
NEVER_FULL = 1e12  # units at once: every check is admitted, however long the round
USERS = 1_000


class BareLimiter:
    """GCRA with one time per key (ITU-T I.371), as somebody would write it who needs one limit and no more."""

    def __init__(self, rate: float, burst: float) -> None:
        self._interval = 1.0 / rate
        self._tolerance = burst / rate
        self._times: dict[str, float] = {}

    async def take(self, key: str) -> float:
        """0 when admitted, otherwise seconds to wait."""
        now = time.monotonic()
        due = max(self._times.get(key, now), now) + self._interval
        wait = due - now - self._tolerance
        if wait > 0:
            return wait
        self._times[key] = due
        return 0.0


async def assert_exact() -> None:
    """Both admit what the limit says, and not one more."""
    store, bare = MemoryRateLimitStore(), BareLimiter(rate=1e-3, burst=3)
    charge = Charge(key=("u",), limit=RateLimit(rate=1e-3, period=1.0, burst=3))
    assert [(await store.take([charge])).allowed for _ in range(4)] == [True, True, True, False]
    assert [await bare.take("u") == 0.0 for _ in range(4)] == [True, True, True, False]


def checks(limits: int) -> Sides:
    """One check of so many limits at once, of one of many users after the other."""
    store = MemoryRateLimitStore()
    bare = BareLimiter(rate=RATE, burst=NEVER_FULL)
    limit = RateLimit(rate=RATE, period=1.0, burst=NEVER_FULL)
    users = [str(number) for number in range(USERS)]
    turn = 0

    def next_user() -> str:
        nonlocal turn
        turn = (turn + 1) % USERS
        return users[turn]

    async def ours() -> bool:
        user = next_user()
        taken = await store.take([Charge(key=(None, user, str(n)), limit=limit) for n in range(limits)])
        return taken.allowed

    async def hand_written() -> bool:
        user = next_user()
        for n in range(limits):
            if await bare.take(f"{user}:{n}"):
                return False
        return True

    return Sides(limit=per_call(hand_written), ours=per_call(ours))


@asynccontextmanager
async def one_limit() -> AsyncGenerator[Sides]:
    await assert_exact()
    yield checks(1)


@asynccontextmanager
async def three_limits() -> AsyncGenerator[Sides]:
    await assert_exact()
    yield checks(3)


CASES = (
    Case("E2", "µs", one_limit),
    Case("E2, 3 limits", "µs", three_limits),
)
