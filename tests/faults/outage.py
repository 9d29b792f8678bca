"""A store call fails, whichever it is, before or after its effect: `python -m tests.faults.outage --store sqlite`.

A conversation of two turns is held again for each of its store calls, which fails once, or with the three after it. With
`-n 7` only every seventh call is tried.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import anyio
from tests.faults import audit
from tests.faults.caller import STUCK, Caller
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import STORES
from tests.faults.witness import Witness
from tests.faults.workload import OWNER
from tests.stores.failing import READS, FailingStore, How

from agent_runtime import AgentRuntimeError, Message, SessionManager, SessionStore

TURNS = 2
AT_ONCE = 8
_FEWER = 50  # calls of conversations that are left out for each of those that are repeated
DIFFERENT = "repeated writes that were not harmless"
HOWS: Sequence[How] = get_args(How)


class Outages:
    """The conversations of one program, each with a store that fails at another place."""

    def __init__(self, store: SessionStore, folder: Path) -> None:
        self.tally = Tally(STUCK, DIFFERENT, *audit.AFTER_A_CRASH, *audit.AT_THE_END)
        self.trials = 0
        self._store = store
        self._folder = folder
        self._room = anyio.Semaphore(AT_ONCE)

    async def conversation(self, at: int, how: How = HOWS[0], times: int = 1) -> int:
        """How many calls it took."""
        async with self._room:
            self.trials += 1
            session = f"s{self.trials}"
            witness = Witness(self._folder / session)
            failing = FailingStore(self._store, at, how, times=times)
            caller = Caller(failing, self._store, witness, session, self.tally)
            for turn in range(TURNS):
                await caller.complete(turn)
            await caller.end(TURNS)
            witness.close()
            return failing.calls

    async def conversations(self, stride: int) -> None:
        calls = await self.conversation(0)
        async with anyio.create_task_group() as group:
            for at in range(1, calls + 1, stride):
                for how in HOWS:
                    for times in (1, 4):
                        group.start_soon(self.conversation, at, how, times)

    async def repetitions(self, stride: int) -> None:
        """Of no write of a session manager is the outcome known, at first: it is repeated, and nothing is different."""
        sound = FailingStore(self._store, 0, HOWS[0])
        expected = await self._upkeep(sound)
        for at in range(1, sound.calls + 1, stride):
            for how in HOWS[2:]:
                failing = FailingStore(self._store, at, how)
                try:
                    found = await self._upkeep(failing)
                except AgentRuntimeError as error:
                    if failing.failed[0] not in READS | {"expire"}:
                        self.tally.wrong(DIFFERENT, f"{failing.failed}, {how}: {error}")
                else:
                    if found != expected:
                        self.tally.wrong(DIFFERENT, f"{failing.failed}, {how}")
                self.trials += 1

    async def _upkeep(self, failing: FailingStore) -> list[object]:
        store: Any = failing
        await self._store.delete_all(OWNER)
        return await upkeep(SessionManager(store))


async def upkeep(sessions: SessionManager) -> list[object]:
    """Every write of a session manager that can be repeated, and what is there afterwards."""
    name = "upkeep"
    await sessions.create(owner=OWNER, agent_id="a", session_id=name)
    await sessions.append_messages(name, [Message(role="user", content="hello")], owner=OWNER)
    await sessions.update_metadata(name, lambda old: {"n": old.get("n", 0) + 1}, owner=OWNER)
    await sessions.save_checkpoint(name, {"n": 1}, owner=OWNER, checkpoint_id="c")
    fork = await sessions.fork(name, "c", owner=OWNER)
    copied = await sessions.import_session(await sessions.export(name, owner=OWNER), owner=OWNER)
    async with sessions.lease(name, owner=OWNER) as lease:
        await sessions.append_messages(name, [Message(role="user", content="held")], owner=OWNER, lease=lease)
    await sessions.close(name, owner=OWNER)
    found: list[object] = []
    for session_id in (name, fork.session_id, copied.session_id):
        session = await sessions.get(session_id, owner=OWNER)
        assert session is not None
        found += [session.metadata, session.version, session.closed]
        found += await sessions.messages(session_id, owner=OWNER)
        found += [checkpoint.sequence for checkpoint in await sessions.list_checkpoints(session_id, owner=OWNER)]
    return [*found, await sessions.count(owner=OWNER)]


async def outage(store: str, count: int, seed: int) -> Figure:
    """Fail every `count`-th call; figure R2. Nothing is random."""
    since = time.perf_counter()
    options = {"synchronous": "NORMAL"} if store == "sqlite" else {}
    with tempfile.TemporaryDirectory() as place:
        async with STORES[store](Path(place), **options) as opened:
            outages = Outages(opened, Path(place))
            await outages.conversations(count)
            await outages.repetitions(max(1, count // _FEWER))
    return outages.tally.figure("R2", store, outages.trials, "failing store calls", seed=None, since=since)


if __name__ == "__main__":
    main(outage, STORES, count=1, description=__doc__)
