"""A worker is paused for longer than its lease, another one takes over, the first goes on: `python -m tests.faults.fence`.

Whatever the paused one then sends to the store must be refused, and it must end with `SessionConflict`.
"""

import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
from tests.faults import audit
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import DURABLE
from tests.faults.processes import Worker, started
from tests.faults.witness import Line, Witness, digest
from tests.faults.worker import ACQUIRED, Errand, finished_turns, work
from tests.faults.workload import OWNER, true_answers

from agent_runtime import SessionManager

LEASE = 0.3
LANES = 4
OPTIONS = {"sqlite": {"busy_timeout": 0.6}}
ACCEPTED = "stale writes accepted"
NO_CONFLICT = "stale runs that did not end with a conflict"
NOT_TAKEN = "pauses in the middle of a commit, which keep the file locked"


class Fences:
    def __init__(self, store: str, wanted: int, seed: int) -> None:
        self.store = store
        self.wanted = wanted
        self.done = 0
        self.begun = 0
        self.tally = Tally(ACCEPTED, NO_CONFLICT, *audit.AT_THE_END)
        self.random = random.Random(seed)

    async def lane(self, folder: Path) -> None:
        witness = Witness(folder / "witness")
        while self.done < self.wanted:
            self.begun += 1
            await Pause(self, folder, witness, f"pause{self.begun}").run()
        witness.close()


class Pause:
    """One session with one turn, whose worker is paused in the middle of it.

    It goes on when another has taken over and is paused in its turn before it could write much, or when that has ended.
    """

    def __init__(self, fences: Fences, folder: Path, witness: Witness, session: str) -> None:
        self._fences = fences
        self._tally = fences.tally
        self._folder = folder
        self._witness = witness
        self._session = session
        self._errand = Errand(
            store=fences.store,
            folder=str(folder),
            session=session,
            lease=LEASE,
            reconciles=False,  # an answer that holds takes an outside world that knows of the pause
            options=OPTIONS.get(fences.store, {}),
        )

    async def run(self) -> None:
        paused = await started(work, self._errand)
        if await paused.tells() != ACQUIRED or await paused.tells(self._fences.random.uniform(0, 0.12)) is not None:
            await paused.outcome()
            return
        paused.signal(signal.SIGSTOP)
        other = await started(work, self._errand)
        if self._fences.random.random() < 0.5 and await other.tells() == ACQUIRED:
            stale = await self._while_the_other_is_paused(paused, other)
        else:
            await other.outcome()
            paused.signal(signal.SIGCONT)
            await paused.outcome()
            stale = self._judge(paused, _loaded(self._lines(), paused.pid))
        await self._complete(stale)
        self._fences.done += bool(stale)

    async def _while_the_other_is_paused(self, paused: Worker, other: Worker) -> set[int]:
        other.signal(signal.SIGSTOP)
        run = next(line.run for line in self._lines() if line.what == "acquired")
        async with DURABLE[self._fences.store](self._folder, **OPTIONS.get(self._fences.store, {})) as store:
            had = [digest(entry) for entry in await store.entries(OWNER, self._session, run)]
        paused.signal(signal.SIGCONT)
        await paused.outcome()
        other.signal(signal.SIGCONT)
        await other.outcome()
        if had:
            self._tally.saw("while the other had only just taken over")
        return self._judge(paused, had or None, other_paused=True)

    async def _complete(self, stale: set[int]) -> None:
        async with DURABLE[self._fences.store](self._folder) as store:
            sessions = SessionManager(store)
            # A turn that the other one has begun, after one that was finished when its worker was paused, is completed too.
            while await finished_turns(sessions, self._session) == 0 or await store.runs(OWNER, self._session):
                asked = next(line.asked for line in reversed(self._lines()) if line.what == "ended")
                answers = true_answers(self._witness, self._session, asked)
                worker = await started(work, msgspec.structs.replace(self._errand, answers=answers))
                await worker.outcome()
            turns = await finished_turns(sessions, self._session)
            await audit.at_the_end(store, self._witness, self._session, turns, self._tally, stale=stale)

    def _lines(self) -> list[Line]:
        return self._witness.lines(self._session)

    def _judge(self, paused: Worker, had: list[str] | None, *, other_paused: bool = False) -> set[int]:
        """Its process id, where the run `had` these entries when another took it over; and what it did then."""
        if had is None:  # it was in the middle of a commit, or had finished
            self._tally.saw(NOT_TAKEN)
            return set()
        lines = self._lines()
        own = [line for line in lines if line.pid == paused.pid]
        self._tally.saw("stale writes refused", sum(line.what == "refused" and line.fence > 0 for line in own))
        for line in own:
            if line.what == "acknowledged" and had[line.number - 1 : line.number] != line.digests:
                self._tally.wrong(ACCEPTED, f"{self._session}: entry {line.number}")
        ended = [line.text for line in own if line.what == "ended"]
        if any(line.what == "finished" for line in own):
            self._tally.wrong(ACCEPTED, f"{self._session}: finish")
        elif ended == ["store"] and other_paused:
            self._tally.saw("told that the file is locked, by the other one that is paused in a commit")
        elif ended != ["conflict"]:
            self._tally.wrong(NO_CONFLICT, f"{self._session}: {ended}")
        return {paused.pid}


def _loaded(lines: Sequence[Line], paused: int) -> list[str] | None:
    """What the run had when another worker took it over, if one did."""
    taken: set[int] = set()
    for line in lines:
        if line.what == "acquired" and line.pid != paused:
            taken.add(line.pid)
        if line.what == "loaded" and line.pid in taken:
            return line.digests
    return None


async def fence(store: str, count: int, seed: int) -> Figure:
    """Pause `count` workers; figure R6."""
    since = time.perf_counter()
    fences = Fences(store, count, seed)
    with tempfile.TemporaryDirectory() as place:
        async with anyio.create_task_group() as group:
            for number in range(LANES):
                folder = Path(place) / str(number)
                folder.mkdir()
                group.start_soon(fences.lane, folder)
    return fences.tally.figure("R6", store, fences.done, "pauses", seed=seed, since=since)


if __name__ == "__main__":
    main(fence, DURABLE, count=100, description=__doc__)
