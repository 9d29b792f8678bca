"""A service under load is told to end, with SIGTERM: `python -m tests.faults.drain -n 50`.

It leaves `async with executor:`, which waits for the runs in flight and then cancels them. Afterwards each run has ended or
can be resumed, by anybody and at once.
"""

import random
import signal
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import msgspec
from tests.faults import audit
from tests.faults.caller import STUCK, Caller
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import DURABLE, STORES
from tests.faults.processes import started
from tests.faults.witness import Witness, WitnessedStore
from tests.faults.worker import STARTED, alone, finished_turns
from tests.faults.workload import OWNER, Shop, context_for, executor_for

from agent_runtime import AgentExecutor, ErrorType, Limits, RunStatus, SessionManager, SessionStore

SESSIONS = tuple(f"session{number}" for number in range(8))
GRACES = (0.02, 0.2, 1.0)
MARGIN = 1.0
LANES = 2
SLOW = "services that ended too late"
UNCLEAN = "services that did not end cleanly"
OPEN = "runs without an end, or sessions still held"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What a service is to do: hold conversations until it is told to end."""

    store: str
    folder: str
    grace: float


def serve(service: Service, told: Connection) -> None:
    """The process's main function."""
    alone()
    anyio.run(_serve, service, told)


async def _serve(service: Service, told: Connection) -> None:
    folder = Path(service.folder)
    witness = Witness(folder / "witness")
    async with STORES[service.store](folder) as store:
        witnessed: Any = WitnessedStore(store, witness)
        tools = Shop(witness, pause=0.02).tools
        executor = executor_for(witnessed, tools, limits=Limits(), shutdown_grace=service.grace)
        async with anyio.create_task_group() as clients:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                async with executor:
                    for session in SESSIONS:
                        clients.start_soon(_converse, executor, session)
                    told.send_bytes(STARTED)
                    async for _ in signals:
                        break


async def _converse(executor: AgentExecutor, session: str) -> None:
    turn = 0
    while (await executor.execute(context_for(session, turn))).error_type not in _ENDS:
        turn += 1


_ENDS = (ErrorType.CLOSED, ErrorType.CANCELLED)


class Drains:
    def __init__(self, store: str, wanted: int, seed: int) -> None:
        self.store = store
        self.left = wanted
        self.tally = Tally(SLOW, UNCLEAN, OPEN, STUCK, *audit.AFTER_A_CRASH, *audit.AT_THE_END)
        self.random = random.Random(seed)

    async def lane(self, place: Path) -> None:
        while self.left:
            self.left -= 1
            folder = place / str(self.left)
            folder.mkdir()
            await self._end_one(folder, self.random.choice(GRACES))

    async def _end_one(self, folder: Path, grace: float) -> None:
        worker = await started(serve, Service(store=self.store, folder=str(folder), grace=grace))
        await anyio.sleep(self.random.uniform(0, 1.0))
        since = time.perf_counter()
        worker.signal(signal.SIGTERM)
        code = await worker.ended()
        took = time.perf_counter() - since
        self.tally.most("longest end beyond the grace, s", took - grace)
        if took > grace + MARGIN:
            self.tally.wrong(SLOW, f"{folder.name}: {took:.2f} s, and {grace} s were given")
        if code != 0:
            self.tally.wrong(UNCLEAN, f"{folder.name}: {code}")
        async with STORES[self.store](folder) as store, anyio.create_task_group() as group:
            witness = Witness(folder / "witness")
            for session in SESSIONS:
                group.start_soon(self._look, store, witness, session)

    async def _look(self, store: SessionStore, witness: Witness, session: str) -> None:
        sessions = SessionManager(store)
        caller = Caller(store, store, witness, session, self.tally)
        await caller.look()
        stored = await store.read(OWNER, session)
        if stored is not None and stored.holder is not None:
            self.tally.wrong(OPEN, f"{session} is held")
        turns = await finished_turns(sessions, session)
        for run in await sessions.unfinished_runs(session, owner=OWNER):
            self.tally.saw(f"runs left {run.status}")
            if run.status is RunStatus.RUNNING:
                self.tally.wrong(OPEN, f"{session}: {run.run_id}")
        await caller.complete(turns)
        self.tally.saw("turns completed", turns + 1)
        await caller.end(turns + 1)


async def drain(store: str, count: int, seed: int) -> Figure:
    """End `count` services; figure R17."""
    since = time.perf_counter()
    drains = Drains(store, count, seed)
    with tempfile.TemporaryDirectory() as place:
        async with anyio.create_task_group() as group:
            for _ in range(min(LANES, count)):
                group.start_soon(drains.lane, Path(place))
    return drains.tally.figure("R17", store, count, "services ended", seed=seed, since=since)


if __name__ == "__main__":
    main(drain, DURABLE, count=50, description=__doc__)
