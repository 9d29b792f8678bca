"""Stores whose clock steps by an hour, also backwards, between any two calls: `python -m tests.faults.skew -n 500`.

Order never comes from the clock, so what is latest stays latest. What lives for a time lives that long by the clock as the
store saw it: where it has stepped back over the end, having been past it, either answer is right.
"""

import random
import tempfile
import time
from pathlib import Path

from tests.faults.figures import Figure, Tally, main
from tests.faults.places import STORES
from tests.faults.workload import OWNER

from agent_runtime import (
    LeaseToken,
    Message,
    MessageBatch,
    NotFound,
    Refusal,
    SessionManager,
    SessionStore,
    StoredLease,
)

HOUR = 3600.0
CALLS = 40
LATEST = "wrong latest"
EARLY = "expired before the time"
LATE = "there after the time"
LEASED = "leases against the clock"


class SteppingClock:
    """The time, and the latest that anybody was told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Simulation:
    """One session, and what it must have."""

    def __init__(self, store: SessionStore, clock: SteppingClock, name: str, seed: int, tally: Tally) -> None:
        self._random = random.Random(seed)
        self._ttl = self._random.choice([100.0, HOUR, 2.5 * HOUR, 24 * HOUR])
        self._store = store
        self._sessions = SessionManager(store, ttl=self._ttl)
        self._clock = clock
        self._name = name
        self._tally = tally
        self._forget()

    def _forget(self) -> None:
        self._expires_at = -1.0
        self._seen = self._clock.now  # the latest time at which it was looked at, since it was written
        self._messages = 0
        self._states: list[int] = []
        self._runs: list[str] = []
        self._lease: LeaseToken | None = None
        self._until = -1.0

    async def run(self) -> None:
        for number in range(CALLS):
            self._clock.now += self._random.choice([0.0, 0.001, 1.0, 60.0, HOUR, -HOUR, -1.0, -0.001])
            await self._check_time()
            if self._expires_at < 0:
                await self._sessions.create(owner=OWNER, agent_id="a", session_id=self._name)
                self._written()
            await self._random.choice([self._append, self._save, self._begin, self._take])(number)
            await self._check_order()

    def _written(self) -> None:
        self._seen = self._clock.now
        self._expires_at = max(self._clock.now + self._ttl, self._until)

    async def _check_time(self) -> None:
        if self._expires_at < 0:
            return
        now = self._clock.now
        self._seen = max(self._seen, now)
        there = await self._sessions.exists(self._name, owner=OWNER)
        if there and now >= self._expires_at:
            self._tally.wrong(LATE, f"{self._name}: {now - self._expires_at:g} s")
        if not there and self._seen < self._expires_at:
            self._tally.wrong(EARLY, f"{self._name}: {self._expires_at - self._seen:g} s")
        if not there:
            await self._sessions.cleanup_expired()
            self._forget()

    async def _append(self, number: int) -> None:
        message = Message(role="user", content=str(self._messages))
        outcome = await self._store.append(
            OWNER,
            self._name,
            MessageBatch.of([message]),
            expected=None,
            ttl=self._ttl,
            operation=f"append{number}",
            lease=self._lease,
        )
        if isinstance(outcome, Refusal):
            self._tally.wrong(LEASED, f"{self._name}: append {outcome}")
        self._messages += 1
        self._written()

    async def _save(self, number: int) -> None:
        await self._sessions.save_checkpoint(self._name, {"number": number}, owner=OWNER)
        self._states.append(number)
        self._written()

    async def _begin(self, number: int) -> None:
        """A run is begun by whoever holds the session."""
        if self._lease is None:
            await self._take(number)
        assert self._lease is not None
        run = f"run{number}"
        outcome = await self._store.record(OWNER, self._name, run, 1, b"x", ttl=self._ttl, lease=self._lease)
        if isinstance(outcome, Refusal):
            self._tally.wrong(LEASED, f"{self._name}: record {outcome}")
        self._runs.insert(0, run)
        self._written()

    async def _take(self, number: int) -> None:
        """Somebody else asks for the session: it is held until the end of the lease, by the store's clock."""
        seconds = self._random.choice([1.0, 30.0, 2 * HOUR])
        outcome = await self._store.acquire(OWNER, self._name, f"holder{number}", seconds=seconds, ttl=self._ttl)
        is_held = self._lease is not None and self._clock.now < self._until
        if is_held != (outcome is Refusal.HELD):
            self._tally.wrong(LEASED, f"{self._name}: {outcome}, {self._until - self._clock.now:g} s before the end")
        if isinstance(outcome, StoredLease):
            self._lease = outcome.token
            self._until = self._clock.now + seconds
            self._written()

    async def _check_order(self) -> None:
        latest = await self._sessions.latest_checkpoint(self._name, owner=OWNER)
        if (None if latest is None else latest.state["number"]) != (self._states[-1] if self._states else None):
            self._tally.wrong(LATEST, f"{self._name}: checkpoint {latest}")
        messages = await self._sessions.messages(self._name, owner=OWNER)
        if [message.content for message in messages] != [str(place) for place in range(self._messages)]:
            self._tally.wrong(LATEST, f"{self._name}: messages")
        runs = [run.run_id for run in await self._store.runs(OWNER, self._name)]
        if runs != self._runs[:32]:
            self._tally.wrong(LATEST, f"{self._name}: runs {runs}")


async def skew(store: str, count: int, seed: int) -> Figure:
    """Simulate `count` sessions; figure R7."""
    since = time.perf_counter()
    tally = Tally(LATEST, EARLY, LATE, LEASED)
    with tempfile.TemporaryDirectory() as place:
        clock = SteppingClock()
        options = {"synchronous": "NORMAL"} if store == "sqlite" else {}
        async with STORES[store](Path(place), clock=clock, **options) as opened:
            for number in range(count):
                try:
                    await Simulation(opened, clock, f"s{number}", seed * 1_000_003 + number, tally).run()
                except NotFound as error:
                    tally.wrong(EARLY, f"s{number}: {error}")
    return tally.figure("R7", store, count, f"simulations of {CALLS} steps", seed=seed, since=since)


if __name__ == "__main__":
    main(skew, STORES, count=500, description=__doc__)
