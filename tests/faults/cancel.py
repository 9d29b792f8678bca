"""A cancellation at every await of whole scenarios, by a scope and by asyncio's own: `python -m tests.faults.cancel`.

After each, nothing is left half written, nothing runs on, the session can be used at once, and a run that was cut short is
completed by whoever resumes it. With `-n 3` each await is tried three times: the pauses in models and tools differ.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.lowlevel import checkpoint
from tests.faults import audit
from tests.faults.caller import LIMITS, STUCK, Caller
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import STORES
from tests.faults.witness import Witness, WitnessedStore
from tests.faults.workload import Shop, breaks_off_at, context_for, executor_for, true_answers

from agent_runtime import Message, OutcomeUnknown, Owner, Resume, SessionManager, SessionStore, ToolCall
from agent_runtime.testing import Injection, Leak, Outcome, no_leaks

# By what, and every how many awaits: the second native one comes during the clean-up of the first, which no shield
# protects from it, so that the session stays held until its lease ends, and the trial takes so long.
FAULTS = {"scope": 1, "native": 1, "native twice": 5}
PATIENCE = 10.0  # seconds after which a trial hangs
LEAKED = "leaked tasks, threads or descriptors"
SWALLOWED = "swallowed cancellations"
ERRORS = "errors instead of a cancellation"
HANGS = "hangs"
HALF = "half-written records"
KEPT = "sessions not given back"
LATE = "native cancellations while the session was given back: held until the lease ends"


class Scene:
    """One session for one trial."""

    def __init__(self, store: SessionStore, witness: Witness, session: str, tally: Tally) -> None:
        told: Any = WitnessedStore(store, witness)
        self.store: SessionStore = told
        self.witness = witness
        self.session = session
        self.owner = Owner(tenant_id=None, user_id=session)
        self.sessions = SessionManager(told, limits=LIMITS)
        self.caller = Caller(store, store, witness, session, tally)
        self.tally = tally


async def nothing(scene: Scene) -> None:
    pass


async def execute(scene: Scene) -> object:
    return await scene.caller.executor.execute(context_for(scene.session, 0))


async def stream(scene: Scene) -> object:
    async with scene.caller.executor.stream(context_for(scene.session, 0)) as events:
        return [type(event).__name__ async for event in events]


async def break_off(scene: Scene) -> None:
    tools = Shop(scene.witness, pause=0).tools
    broken = executor_for(scene.store, tools, limits=LIMITS, model=breaks_off_at(3))
    await broken.execute(context_for(scene.session, 0))


async def resume(scene: Scene) -> object:
    return await scene.caller.executor.execute(context_for(scene.session, 0), resume=Resume())


class DoubtfulShop(Shop):
    """Its payments go out, and nobody hears of it."""

    async def pay(self, what: str, call: ToolCall) -> str:
        """Pay: a second time costs twice."""
        await super().pay(what, call)
        raise OutcomeUnknown("the line went dead")


async def suspend(scene: Scene) -> object:
    tools = DoubtfulShop(scene.witness, pause=0).tools
    result = await executor_for(scene.store, tools, limits=LIMITS).execute(context_for(scene.session, 0))
    assert result.questions
    return result


async def answer(scene: Scene) -> object:
    [run] = await scene.sessions.unfinished_runs(scene.session, owner=context_for(scene.session, 0).owner)
    asked = {question.key: question.details for question in run.questions}
    answers = true_answers(scene.witness, scene.session, asked)
    executor = scene.caller.executor
    return await executor.execute(context_for(scene.session, 0), resume=Resume(answers=answers))


def _said(count: int) -> list[Message]:
    return [Message(role="user", content=str(place)) for place in range(count)]


async def furnish(scene: Scene) -> None:
    await scene.sessions.create(owner=scene.owner, agent_id="a", session_id=scene.session)
    await scene.sessions.append_messages(scene.session, _said(3), owner=scene.owner)
    await scene.sessions.save_checkpoint(scene.session, {"n": 3}, owner=scene.owner, checkpoint_id="c3")


async def hold(scene: Scene) -> object:
    async with scene.sessions.lease(scene.session, owner=scene.owner, ttl=LIMITS.lease) as lease:
        await scene.sessions.append_messages(scene.session, _said(5)[3:], owner=scene.owner, lease=lease)
        return await scene.sessions.save_checkpoint(
            scene.session, {"n": 5}, owner=scene.owner, checkpoint_id="c5", lease=lease
        )


async def fork(scene: Scene) -> object:
    return await scene.sessions.fork(scene.session, "c3", owner=scene.owner)


async def transfer(scene: Scene) -> object:
    exported = await scene.sessions.export(scene.session, owner=scene.owner)
    return await scene.sessions.import_session(exported, owner=scene.owner)


async def whole(scene: Scene) -> None:
    """Each session of the owner is one that could be there: none has a part of something; and all can be used."""
    for session in await scene.sessions.list_by_user(owner=scene.owner):
        name = session.session_id
        messages = list(await scene.sessions.messages(name, owner=scene.owner))
        checkpoints = [c.checkpoint_id for c in await scene.sessions.list_checkpoints(name, owner=scene.owner)]
        if messages not in (_said(3), _said(5)) or checkpoints not in (["c3"], ["c5", "c3"]):
            scene.tally.wrong(HALF, f"{scene.session}: {len(messages)} messages, checkpoints {checkpoints}")
        async with scene.sessions.lease(name, owner=scene.owner, wait=2 * LIMITS.lease):
            await scene.sessions.update_metadata(name, {"used": True}, owner=scene.owner)


async def complete(scene: Scene) -> None:
    await scene.caller.look()
    await scene.caller.complete(0)
    await scene.caller.end(1)


class Scenario(msgspec.Struct, frozen=True):
    """What is there before, what is cancelled, and what must hold afterwards."""

    prepare: Callable[[Scene], Awaitable[object]]
    act: Callable[[Scene], Coroutine[Any, Any, object]]
    check: Callable[[Scene], Awaitable[None]]


SCENARIOS: Mapping[str, Scenario] = {
    "turn": Scenario(nothing, execute, complete),
    "streamed turn": Scenario(nothing, stream, complete),
    "resume": Scenario(break_off, resume, complete),
    "suspend": Scenario(nothing, suspend, complete),
    "answer": Scenario(suspend, answer, complete),
    "lease": Scenario(furnish, hold, whole),
    "fork": Scenario(furnish, fork, whole),
    "export and import": Scenario(furnish, transfer, whole),
}


class Cancellations:
    """The trials of one program."""

    def __init__(self, store: SessionStore, folder: Path) -> None:
        self.tally = Tally(LEAKED, SWALLOWED, ERRORS, HANGS, HALF, KEPT, STUCK, *audit.AFTER_A_CRASH, *audit.AT_THE_END)
        self.trials = 0
        self._store = store
        self._folder = folder

    async def at_each_await(self, name: str, fault: str, stride: int) -> None:
        at, struck = 1, True
        while struck:
            self.trials += 1
            session = f"s{self.trials}"
            witness = Witness(self._folder / session)
            scene = Scene(self._store, witness, session, self.tally)
            await SCENARIOS[name].prepare(scene)
            struck = await self._trial(scene, name, fault, at)
            await self._check_given_back(scene, name, fault, at)
            await SCENARIOS[name].check(scene)
            witness.close()
            at += stride
        self.tally.saw("awaits", at - 1)

    async def _trial(self, scene: Scene, name: str, fault: str, at: int) -> bool:
        ended: list[tuple[Outcome, bool]] = []
        try:
            async with no_leaks(), anyio.create_task_group() as group:
                group.start_soon(self._struck, scene, SCENARIOS[name].act, fault, at, ended)
        except Leak as leak:
            self.tally.wrong(LEAKED, f"{name}, {fault} at {at}: {leak}")
        [(outcome, struck)] = ended
        after = [line.what for line in scene.witness.lines(scene.session)]
        after = after[after.index("struck") :] if struck else []
        if outcome is Outcome.DONE and struck:
            self.tally.saw("too late to cancel anything")
            if "start" in after or ("finished" in after and len(after) > 2):  # one answer may have been on its way
                self.tally.wrong(SWALLOWED, f"{name}, {fault} at {at}: {after}")
        if outcome in (Outcome.ERROR, Outcome.HANG):
            self.tally.wrong(HANGS if outcome is Outcome.HANG else ERRORS, f"{name}, {fault} at {at}")
        return struck

    async def _struck(
        self,
        scene: Scene,
        act: Callable[[Scene], Coroutine[Any, Any, object]],
        fault: str,
        at: int,
        ended: list[tuple[Outcome, bool]],
    ) -> None:
        limit, scope = anyio.CancelScope(deadline=anyio.current_time() + PATIENCE), anyio.CancelScope()
        task = asyncio.current_task() if fault != "scope" else None

        def strike() -> None:
            scene.witness.say("struck", session=scene.session)
            if task is None:
                scope.cancel()
            else:
                task.cancel()

        injection = Injection(act(scene), at, strike, again=1 if fault == "native twice" else None)
        outcome = Outcome.CANCELLED
        try:
            with limit, scope:
                await injection
                outcome = Outcome.DONE
        except anyio.get_cancelled_exc_class():
            pass  # the native one; this is the task that it was meant for
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the trial gave
            outcome = Outcome.ERROR
            self.tally.first.append(repr(error))
        ended.append((Outcome.HANG if limit.cancel_called else outcome, injection.struck))

    async def _check_given_back(self, scene: Scene, name: str, fault: str, at: int) -> None:
        owner = scene.owner if SCENARIOS[name].check is whole else context_for(scene.session, 0).owner
        session = await self._store.read(owner, scene.session)
        if session is None or session.holder is None:
            return
        if fault.startswith("native"):
            self.tally.saw(LATE)
        else:
            self.tally.wrong(KEPT, f"{name}, {fault} at {at}")


async def cancel(store: str, count: int, seed: int, *, stride: int = 1) -> Figure:
    """Cancel each await, or every `stride`-th, `count` times; figure R1."""
    since = time.perf_counter()
    options = {"synchronous": "NORMAL"} if store == "sqlite" else {}
    with tempfile.TemporaryDirectory() as place:
        async with STORES[store](Path(place), **options) as opened:
            await _all_connected(opened)
            trials = Cancellations(opened, Path(place))
            for _ in range(count):
                for name in SCENARIOS:
                    for fault, every in FAULTS.items():  # all of them are asyncio's but the first
                        await trials.at_each_await(name, fault, stride * every)
    return trials.tally.figure("R1", store, trials.trials, "cancellations", seed=None, since=since)


async def _all_connected(store: SessionStore) -> None:
    """Calls that overlap in every way: a connection that a store keeps is no leak when the first one needs it."""
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(store.count, context_for("s", 0).owner)
            await checkpoint()


if __name__ == "__main__":
    main(cancel, STORES, count=3, description=__doc__)
