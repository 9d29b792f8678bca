"""Many workers resume one run at the same moment: `python -m tests.faults.race -n 200 --store sqlite`.

Exactly one of them may have it. The others are told that it is held, or, when they had to wait, that it is finished. On
the memory store the workers are tasks, otherwise processes.
"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.to_thread import run_sync
from tests.faults import audit
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import DURABLE, STORES
from tests.faults.processes import PATIENCE, context, started
from tests.faults.witness import Witness, WitnessedStore
from tests.faults.worker import STARTED, alone
from tests.faults.workload import OWNER, PLAN, Shop, breaks_off_at, context_for, executor_for

from agent_runtime import Limits, OnBusy, Resume, SessionStore

WORKERS = 8
LIMITS = Limits(lease=5.0, lease_renewal=1.0)
SEVERAL = "runs with two owners"
NOBODY = "runs without an owner"
STRANGE = "workers told something else"


class Race(msgspec.Struct, frozen=True):
    """One run that was cut short, for which the workers race."""

    session: str
    on_busy: OnBusy
    step: int  # at which it was cut short


def races(count: int, seed: int) -> list[Race]:
    chance = random.Random(seed)
    return [Race(f"race{n}", "wait" if n % 2 else "reject", chance.randrange(1, len(PLAN) - 1)) for n in range(count)]


async def prepare(store: SessionStore, witness: Witness, race: Race) -> None:
    """A run that broke off; where the workers wait, somebody who is gone holds its session for a moment."""
    shop = Shop(witness, pause=0)
    told: Any = WitnessedStore(store, witness)
    executor = executor_for(told, shop.tools, limits=LIMITS, model=breaks_off_at(race.step))
    result = await executor.execute(context_for(race.session, 0))
    assert not result.success
    if race.on_busy == "wait":
        await store.acquire(OWNER, race.session, "gone", seconds=0.05, ttl=3600.0)


async def compete(store: SessionStore, witness: Witness, race: Race) -> None:
    shop = Shop(witness, reconciles=False)
    told: Any = WitnessedStore(store, witness)
    executor = executor_for(told, shop.tools, limits=LIMITS, on_busy=race.on_busy)
    result = await executor.execute(context_for(race.session, 0), resume=Resume())
    witness.say("ended", session=race.session, run=result.run_id, text=str(result.error_type or "completed"))


def worker(store: str, folder: str, raced: Sequence[Race], barrier: Barrier, told: Connection) -> None:
    """A process that takes part in every race."""
    alone()
    told.send_bytes(STARTED)
    anyio.run(_worker, store, Path(folder), raced, barrier)


async def _worker(store: str, folder: Path, raced: Sequence[Race], barrier: Barrier) -> None:
    witness = Witness(folder / "witness")
    async with STORES[store](folder) as opened:
        for race in raced:
            await run_sync(barrier.wait, PATIENCE)
            await compete(opened, witness, race)


async def _in_processes(store: str, folder: Path, witness: Witness, raced: Sequence[Race]) -> None:
    barrier = context.Barrier(WORKERS + 1)
    async with STORES[store](folder) as opened:
        workers = [await started(worker, store, str(folder), raced, barrier) for _ in range(WORKERS)]
        for race in raced:
            await prepare(opened, witness, race)
            await run_sync(barrier.wait, PATIENCE)
        for each in workers:
            await each.outcome()
        return None


async def race(store: str, count: int, seed: int) -> Figure:
    """Have `count` races; figure R5."""
    since = time.perf_counter()
    tally = Tally(SEVERAL, NOBODY, STRANGE, *audit.AT_THE_END)
    raced = races(count, seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        witness = Witness(folder / "witness")
        async with STORES[store](folder) as opened:
            if store in DURABLE:
                await _in_processes(store, folder, witness, raced)
            else:
                for each in raced:
                    await prepare(opened, witness, each)
                    async with anyio.create_task_group() as group:
                        for _ in range(WORKERS):
                            group.start_soon(compete, opened, witness, each)
            for each in raced:
                judge(witness, each, tally)
                await audit.at_the_end(opened, witness, each.session, 1, tally)
        witness.close()
    return tally.figure("R5", store, count, f"races of {WORKERS}", seed=seed, since=since)


def judge(witness: Witness, race: Race, tally: Tally) -> None:
    """One worker has completed the run, and the others were told why not they."""
    told = Counter(line.text for line in witness.lines(race.session) if line.what == "ended")
    owners = told.pop("completed", 0)
    if owners != 1:
        tally.wrong(SEVERAL if owners else NOBODY, f"{race.session}: {owners} owners, and {dict(told)}")
    for text, count in told.items():
        tally.saw(f"told {text}", count)
        if text not in ("conflict", "not_found") or (race.on_busy == "wait" and text != "not_found"):
            tally.wrong(STRANGE, f"{race.session} ({race.on_busy}): {text}")


if __name__ == "__main__":
    main(race, STORES, count=200, description=__doc__)
