"""A process that does the next thing of a session: begins its next turn, or resumes the one that was cut short."""

import logging
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import msgspec
from tests.faults.places import STORES
from tests.faults.witness import Witness, WitnessedStore
from tests.faults.workload import OWNER, Shop, context_for, executor_for

from agent_runtime import Limits, NotFound, Resume, SessionManager, StoreUnavailable

STARTED, ACQUIRED, ENDED = b"s", b"a", b"e"


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do. `folder` has the store and the witness."""

    store: str
    folder: str
    session: str
    answers: dict[str, Any] = {}
    lease: float = 0.3
    on_busy: Any = "wait"
    durability: Any = "sync"
    pause: float = 0.006
    reconciles: bool = True
    options: dict[str, Any] = {}  # of the store


def alone() -> None:
    """Put this process into a group of its own, so that a signal to it reaches nobody else; it says nothing."""
    os.setpgid(0, 0)
    logging.disable(logging.WARNING)  # what could not be stored: here that is the plan


def work(errand: Errand, told: Connection) -> None:
    """The process's main function."""
    alone()
    told.send_bytes(STARTED)
    anyio.run(_work, errand, told)


async def _work(errand: Errand, told: Connection) -> None:
    witness = Witness(Path(errand.folder) / "witness")
    try:
        async with STORES[errand.store](Path(errand.folder), **errand.options) as store:
            witnessed: Any = WitnessedStore(store, witness, lambda: told.send_bytes(ACQUIRED))
            await go_on(errand, witnessed, witness)
    except StoreUnavailable:  # before the run had begun
        witness.say("ended", session=errand.session, text="store")
    told.send_bytes(ENDED)


async def go_on(errand: Errand, store: Any, witness: Witness) -> None:
    """One execution: what it was and how it ended is told to the witness."""
    sessions = SessionManager(store)
    turn = await finished_turns(sessions, errand.session)
    unfinished = await sessions.unfinished_runs(errand.session, owner=OWNER)
    shop = Shop(witness, pause=errand.pause, reconciles=errand.reconciles)
    executor = executor_for(
        store,
        shop.tools,
        limits=Limits(lease=errand.lease, lease_renewal=errand.lease / 3),
        on_busy=errand.on_busy,
        durability=errand.durability,
    )
    result = await executor.execute(
        context_for(errand.session, turn), resume=Resume(answers=errand.answers) if unfinished else None
    )
    witness.say(
        "ended",
        session=errand.session,
        run=result.run_id,
        text=str(result.error_type or "completed"),
        asked={question.key: question.details for question in result.questions},
    )


async def finished_turns(sessions: SessionManager, session: str) -> int:
    try:
        messages = await sessions.messages(session, owner=OWNER)
    except NotFound:
        return 0
    return sum(message.role == "user" for message in messages)
