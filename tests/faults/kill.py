"""Workers are killed with SIGKILL at any moment, and others go on: `python -m tests.faults.kill -n 200 --seed 7`.

Each lane has a conversation, and one worker at a time. The first lanes share one file, the others have one each.
"""

import random
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import anyio
import msgspec
from tests.faults import audit
from tests.faults.figures import Figure, Tally, main
from tests.faults.keeper import STEPS, Keeping, keep, next_step
from tests.faults.places import DURABLE, FILE
from tests.faults.processes import PATIENCE, Worker, started
from tests.faults.witness import Line, Witness
from tests.faults.worker import ACQUIRED, ENDED, Errand, finished_turns, work
from tests.faults.workload import true_answers

from agent_runtime import Durability, SessionManager

LEASE = 0.3
LANES, SHARED = 6, 4
TURNS = 3
EARLY = 0.1  # this part of the kills strikes at any time from the start on, the others while the session is held
PAUSE = 0.3  # seconds between two kills of a worker that takes no lease, so that the others are killed as often
SLACK = 4.0  # seconds in which a worker starts, and finds that a lease is over, on a machine that is busy


class Kills:
    """What the lanes of one program share."""

    def __init__(self, store: str, wanted: int, seed: int, durability: Durability) -> None:
        self.store = store
        self.wanted = wanted
        self.durability: Durability = durability
        self.done = 0
        self.tally = Tally(*audit.AFTER_A_CRASH, *audit.AT_THE_END, audit.HELD, audit.HALF, audit.DAMAGED, audit.ENDED)
        self.random = random.Random(seed)
        self._durations: deque[float] = deque([0.1], maxlen=20)

    async def lane(self, folder: Path, number: int) -> None:
        """Conversations, one after the other, until enough was killed."""
        witness = Witness(folder / "witness")
        count = 0
        while self.done < self.wanted:
            count += 1
            await Conversation(self, folder, witness, f"lane{number}_{count}").run()
        witness.close()

    async def keeper(self, folder: Path, seed: int) -> None:
        """Kills a worker in the middle of writes of many parts, about one for each of the others' kills in a lane."""
        witness = Witness(folder / f"keeper{seed}")
        first: int | None = 0
        while first is not None and first < STEPS and self.done < self.wanted:
            keeping = Keeping(store=self.store, folder=str(folder), seed=seed, first=first)
            worker = await started(keep, keeping)
            await worker.tells()
            await anyio.sleep(self.random.uniform(0, 0.05))
            self.done += await worker.kill()
            async with DURABLE[self.store](folder) as store:
                first = await next_step(store, witness, seed)
            if first is None:
                self.tally.wrong(audit.HALF, f"keeper {seed}")
            await anyio.sleep(PAUSE)
        self.tally.saw("steps of a writer that was killed", first or 0)
        witness.close()

    async def strike(self, worker: Worker) -> bool:
        """Kill the worker at some moment, unless it ends before; whether it was killed."""
        if self.done >= self.wanted:
            await worker.outcome()
            return False
        told = await worker.tells(self.random.uniform(0, 0.1) if self.random.random() < EARLY else PATIENCE)
        if told == ACQUIRED:
            since = time.perf_counter()
            told = await worker.tells(self.random.uniform(0, 1.2 * statistics.median(self._durations)))
            if told == ENDED:
                self._durations.append(time.perf_counter() - since)
        if told is not None:
            await worker.outcome()
            return False
        if not await worker.kill():
            return False
        self.done += 1
        return True


class Conversation:
    """One session: its turns, each by as many workers as it takes."""

    def __init__(self, kills: Kills, folder: Path, witness: Witness, session: str) -> None:
        self._kills = kills
        self._tally = kills.tally
        self._folder = folder
        self._witness = witness
        self._session = session
        self._doubts: set[str] = set()
        self._errand = Errand(
            store=kills.store, folder=str(folder), session=session, lease=LEASE, durability=kills.durability
        )

    async def run(self) -> None:
        answers: dict[str, Any] | None = {}
        killed_at: list[float] = []
        while answers is not None:
            worker = await started(work, msgspec.structs.replace(self._errand, answers=answers))
            if await self._kills.strike(worker):
                killed_at.append(time.time())
                answers = {}
                await self._look()
            else:
                answers = await self._next()
        async with DURABLE[self._kills.store](self._folder) as store:
            # One more than planned, where a worker was killed when its last turn was done and it had not said so.
            turns = await finished_turns(SessionManager(store), self._session)
            await audit.at_the_end(store, self._witness, self._session, max(turns, TURNS), self._tally)
        self._check_surfaced()
        self._check_held(killed_at)

    async def _look(self) -> None:
        """What the store has after a kill."""
        async with DURABLE[self._kills.store](self._folder) as store:
            doubts = await audit.after_a_crash(store, self._witness, self._session, self._tally)
        if doubts:
            self._tally.saw("kills after which a call was in doubt")
        self._doubts |= doubts

    async def _next(self) -> dict[str, Any] | None:
        """After an execution that came to its end: the answers for the next one, `None` when there is nothing to do."""
        last = self._last()
        if last is None or last.text in ("conflict", "store"):
            self._tally.saw("runs that lost their lease, or found the file locked, on a busy machine")
            return {}
        if last.text == "suspended":
            self._tally.saw("questions asked", len(last.asked))
            return true_answers(self._witness, self._session, last.asked)
        if last.text != "completed":
            self._tally.wrong(audit.ENDED, f"{self._session}: {last.text}")
        async with DURABLE[self._kills.store](self._folder) as store:
            turns = await finished_turns(SessionManager(store), self._session)
        self._tally.saw("turns completed")
        return None if turns >= TURNS else {}

    def _last(self) -> Line | None:
        lines = [line for line in self._witness.lines(self._session) if line.what == "ended"]
        return lines[-1] if lines else None

    def _check_surfaced(self) -> None:
        decided = {key for line in self._witness.lines(self._session) if line.what == "decided" for key in line.keys}
        self._tally.saw("calls in doubt", len(self._doubts))
        self._tally.saw("of them reported", len(self._doubts & decided))
        for key in self._doubts - decided:
            self._tally.wrong(audit.SILENT, f"{self._session}: {key}")

    def _check_held(self, killed_at: list[float]) -> None:
        taken = [line.at for line in self._witness.lines(self._session) if line.what == "acquired"]
        for moment in killed_at:
            waited = min((at - moment for at in taken if at > moment), default=0.0)
            self._tally.most("longest wait for a lease, s", waited)
            if waited > LEASE + SLACK:
                self._tally.wrong(audit.HELD, f"{self._session}: {waited:.2f} s")


async def kill(store: str, count: int, seed: int, durability: Durability = "sync") -> Figure:
    """Kill `count` workers; figure R3."""
    since = time.perf_counter()
    kills = Kills(store, count, seed, durability)
    with tempfile.TemporaryDirectory() as place:
        lanes = LANES if count > LANES * TURNS else SHARED
        folders = [Path(place) / f"files{max(0, lane - SHARED + 1)}" for lane in range(lanes)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        async with anyio.create_task_group() as group:
            for number, folder in enumerate(folders):
                group.start_soon(kills.lane, folder, number)
            group.start_soon(kills.keeper, folders[0], seed)
        for folder in set(folders) if store == "sqlite" else ():
            audit.of_the_file(folder / FILE, kills.tally)
    return kills.tally.figure("R3", store, kills.done, "kills", seed=seed, since=since)


if __name__ == "__main__":
    main(kill, DURABLE, count=200, description=__doc__)
