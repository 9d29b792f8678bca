"""Owners with names that look alike use sessions of the same ids in one store: `python -m tests.faults.isolation -n 5000`.

Each one is answered, call by call, as if it were alone: the same calls are made in a store of its own, and every answer is
compared. All methods of a session manager that take an owner are called, and runs that ask, wait and are resumed.
"""

import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.figures import Figure, Tally, main
from tests.faults.places import STORES

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentRuntimeError,
    Lease,
    MemorySessionStore,
    Message,
    Owner,
    Resume,
    SessionManager,
    SessionStore,
    reaches,
)

DIFFERENT = "answers that another owner has changed"
CROSSED = "leases, runs and exports that worked for another owner"
CALLS = 14
NAMES = ("s1", "s2", "s3")
NOW = 1_700_000_000.0

Call = Callable[["View", str, int], Awaitable[object]]


class View:
    """A store as one owner uses it."""

    def __init__(self, store: SessionStore, owner: Owner) -> None:
        self.store = store
        self.owner = owner
        self.sessions = SessionManager(store, max_sessions_per_user=3)
        self.mark = repr(owner)  # what is in all that this owner stores
        self.executor = AgentExecutor(asks, agent_id="asker", session_manager=self.sessions)
        self.exported: bytes | None = None

    def context(self, name: str) -> AgentContext:
        return AgentContext(
            user_id=self.owner.user_id, tenant_id=self.owner.tenant_id, session_id=name, current_task=self.mark
        )


@reaches(resumable=True)
async def asks(context: AgentContext) -> str:
    """An agent that asks once, and then says what it has been told."""
    told = await context.ask("What now?", key="now")
    return f"{told} after {len(context.messages)} messages"


async def create(view: View, name: str, number: int) -> object:
    return await view.sessions.create(
        owner=view.owner, agent_id=f"agent{number % 2}", session_id=name, metadata={"mark": view.mark}
    )


async def open_(view: View, name: str, number: int) -> object:
    return await view.sessions.open(name, owner=view.owner, agent_id="opener")


async def get(view: View, name: str, number: int) -> object:
    return await view.sessions.get(name, owner=view.owner)


async def exists(view: View, name: str, number: int) -> object:
    return await view.sessions.exists(name, owner=view.owner)


async def update(view: View, name: str, number: int) -> object:
    return await view.sessions.update(name, owner=view.owner, metadata={"mark": view.mark, "n": number}, expected=1)


async def update_metadata(view: View, name: str, number: int) -> object:
    return await view.sessions.update_metadata(name, lambda old: {**old, "n": number}, owner=view.owner)


async def refresh(view: View, name: str, number: int) -> object:
    return await view.sessions.refresh(name, owner=view.owner)


async def close(view: View, name: str, number: int) -> object:
    return await view.sessions.close(name, owner=view.owner)


async def delete(view: View, name: str, number: int) -> object:
    return await view.sessions.delete(name, owner=view.owner)


async def list_by_user(view: View, name: str, number: int) -> object:
    found = await view.sessions.list_by_user(owner=view.owner)
    return sorted((msgspec.to_builtins(session) for session in found), key=lambda session: session["session_id"])


async def count(view: View, name: str, number: int) -> object:
    return await view.sessions.count(owner=view.owner)


async def delete_by_user(view: View, name: str, number: int) -> object:
    return await view.sessions.delete_by_user(owner=view.owner)


async def delete_by_agent(view: View, name: str, number: int) -> object:
    return await view.sessions.delete_by_agent(f"agent{number % 2}", owner=view.owner)


async def append_messages(view: View, name: str, number: int) -> object:
    said = [Message(role="user", content=f"{view.mark} {number}")]
    return await view.sessions.append_messages(name, said, owner=view.owner)


async def messages(view: View, name: str, number: int) -> object:
    return await view.sessions.messages(name, owner=view.owner)


async def save_checkpoint(view: View, name: str, number: int) -> object:
    state = {"mark": view.mark, "n": number % 3}
    return await view.sessions.save_checkpoint(name, state, owner=view.owner, checkpoint_id=f"c{number % 3}")


async def get_checkpoint(view: View, name: str, number: int) -> object:
    return await view.sessions.get_checkpoint(name, f"c{number % 3}", owner=view.owner)


async def latest_checkpoint(view: View, name: str, number: int) -> object:
    return await view.sessions.latest_checkpoint(name, owner=view.owner)


async def list_checkpoints(view: View, name: str, number: int) -> object:
    return await view.sessions.list_checkpoints(name, owner=view.owner)


async def delete_checkpoint(view: View, name: str, number: int) -> object:
    return await view.sessions.delete_checkpoint(name, f"c{number % 3}", owner=view.owner)


async def clear_checkpoints(view: View, name: str, number: int) -> object:
    return await view.sessions.clear_checkpoints(name, owner=view.owner)


async def fork(view: View, name: str, number: int) -> object:
    new = await view.sessions.fork(name, f"c{number % 3}", owner=view.owner)
    found = await view.sessions.messages(new.session_id, owner=view.owner)
    await view.sessions.delete(new.session_id, owner=view.owner)
    return new.agent_id, new.metadata, found


async def export(view: View, name: str, number: int) -> object:
    view.exported = await view.sessions.export(name, owner=view.owner)
    return view.exported


async def import_session(view: View, name: str, number: int) -> object:
    return await view.sessions.import_session(view.exported or b"", owner=view.owner, session_id=name)


async def lease(view: View, name: str, number: int) -> object:
    async with view.sessions.lease(name, owner=view.owner) as held:
        said = [Message(role="user", content=f"{view.mark} held")]
        return await view.sessions.append_messages(name, said, owner=view.owner, lease=held)


async def execute(view: View, name: str, number: int) -> object:
    result = await view.executor.execute(view.context(name))
    return result.error_type, [question.key for question in result.questions]


async def resume(view: View, name: str, number: int) -> object:
    result = await view.executor.execute(view.context(name), resume=Resume(answers={"now": view.mark}))
    return result.error_type, result.output


async def unfinished_runs(view: View, name: str, number: int) -> object:
    runs = await view.sessions.unfinished_runs(name, owner=view.owner)
    return [(run.task, run.status, run.steps, run.held, [question.key for question in run.questions]) for run in runs]


async def discard_run(view: View, name: str, number: int) -> object:
    runs = await view.sessions.unfinished_runs(name, owner=view.owner)
    return [await view.sessions.discard_run(name, run.run_id, owner=view.owner) for run in runs[:1]]


CALLED: Mapping[str, Call] = {
    "append_messages": append_messages,
    "clear_checkpoints": clear_checkpoints,
    "close": close,
    "count": count,
    "create": create,
    "delete": delete,
    "delete_by_agent": delete_by_agent,
    "delete_by_user": delete_by_user,
    "delete_checkpoint": delete_checkpoint,
    "discard_run": discard_run,
    "execute": execute,
    "exists": exists,
    "export": export,
    "fork": fork,
    "get": get,
    "get_checkpoint": get_checkpoint,
    "import_session": import_session,
    "latest_checkpoint": latest_checkpoint,
    "lease": lease,
    "list_by_user": list_by_user,
    "list_checkpoints": list_checkpoints,
    "messages": messages,
    "open": open_,
    "refresh": refresh,
    "resume": resume,
    "save_checkpoint": save_checkpoint,
    "unfinished_runs": unfinished_runs,
    "update": update,
    "update_metadata": update_metadata,
}
OFTEN = ("create", "append_messages", "save_checkpoint", "execute", "messages", "list_by_user")
WORDS = (
    "a",
    "a:b",
    "b",
    ":",
    "*",
    "a*",
    "%",
    "a%",
    "_",
    "'",
    "a' OR '1'='1",
    "../a",
    "ä",
    "a\u0308",
    "💥",
    " a",
    "None",
)


def owners(chance: random.Random, example: int) -> list[Owner]:
    """From two to five owners of this example that a careless key, or a careless query, takes for one another."""
    first, second, third = chance.choices(WORDS, k=3)
    first, join = f"{example}{first}", chance.choice(["", ":", "/", "|", " "])
    alike = {
        Owner(tenant_id=None, user_id=join.join([first, second, third])): None,
        Owner(tenant_id=first, user_id=join.join([second, third])): None,
        Owner(tenant_id=join.join([first, second]), user_id=third): None,
        Owner(tenant_id=first, user_id=third): None,
        Owner(tenant_id=first, user_id=second): None,
        Owner(tenant_id=None, user_id=third): None,
        Owner(tenant_id="None", user_id=join.join([first, second, third])): None,
        Owner(tenant_id=first.swapcase(), user_id=third.swapcase()): None,
    }
    found = list(alike)
    chance.shuffle(found)
    return found[: chance.randint(2, 5)]


async def answered(call: Awaitable[object]) -> object:
    """What a call gives, or its error, as plain values."""
    try:
        return msgspec.to_builtins(await call)
    except AgentRuntimeError as error:
        return type(error).__name__, str(error)


class Example:
    """Some owners, in one store and each alone."""

    def __init__(self, store: SessionStore, number: int, seed: int, tally: Tally) -> None:
        self._random = random.Random(seed)
        self._tally = tally
        self._owners = owners(self._random, number)
        self._together = [View(store, owner) for owner in self._owners]
        self._alone = [View(MemorySessionStore(clock=lambda: NOW), owner) for owner in self._owners]

    async def run(self) -> None:
        for number in range(CALLS):
            who, name = self._random.randrange(len(self._owners)), self._random.choice(NAMES)
            called = self._random.choice(OFTEN if self._random.random() < 0.5 else list(CALLED))
            together = await answered(CALLED[called](self._together[who], name, number))
            alone = await answered(CALLED[called](self._alone[who], name, number))
            if together != alone:
                self._tally.wrong(
                    DIFFERENT, f"{self._owners[who]!r}, {called}: {together!r:.200} instead of {alone!r:.200}"
                )
        await self._cross()
        for together, alone in zip(self._together, self._alone, strict=True):
            for name in NAMES:
                for look in (get, messages, list_checkpoints, unfinished_runs, list_by_user):
                    if await answered(look(together, name, 0)) != await answered(look(alone, name, 0)):
                        self._tally.wrong(DIFFERENT, f"{together.owner!r}, {look.__name__} in the end")
            await together.sessions.delete_by_user(owner=together.owner)

    async def _cross(self) -> None:
        """What one owner was given is tried by another, in a session of the same id."""
        mine, theirs = self._together[:2]
        for view in (mine, theirs):
            await view.sessions.delete_by_user(owner=view.owner)
            await view.sessions.create(owner=view.owner, agent_id="a", session_id="s1", metadata={"mark": view.mark})
        for view in self._alone[:2]:
            await view.sessions.delete_by_user(owner=view.owner)
            await view.sessions.create(owner=view.owner, agent_id="a", session_id="s1", metadata={"mark": view.mark})
        run = (await mine.executor.execute(mine.context("s1"))).run_id
        await self._alone[0].executor.execute(self._alone[0].context("s1"))
        async with mine.sessions.lease("s1", owner=mine.owner) as held:
            await self._refused("a lease", _write_with(theirs, held))
        result = await theirs.executor.execute(theirs.context("s1"), resume=Resume(run_id=run, answers={"now": ""}))
        if result.success or await theirs.sessions.discard_run("s1", run, owner=theirs.owner):
            self._tally.wrong(CROSSED, f"a run of {mine.owner!r} by {theirs.owner!r}")

    async def _refused(self, what: str, call: Awaitable[object]) -> None:
        try:
            await call
        except AgentRuntimeError:
            return
        self._tally.wrong(CROSSED, what)


async def _write_with(view: View, held: Lease) -> object:
    return await view.sessions.append_messages(
        "s1", [Message(role="user", content="stolen")], owner=view.owner, lease=held
    )


async def isolation(store: str, count: int, seed: int) -> Figure:
    """Try `count` examples; figure S3."""
    since = time.perf_counter()
    tally = Tally(DIFFERENT, CROSSED)
    options: dict[str, Any] = {"synchronous": "NORMAL"} if store == "sqlite" else {}
    with tempfile.TemporaryDirectory() as place:
        async with STORES[store](Path(place), clock=lambda: NOW, **options) as opened:
            for number in range(count):
                await Example(opened, number, seed * 1_000_003 + number, tally).run()
    return tally.figure("S3", store, count, f"examples of {CALLS} calls", seed=seed, since=since)


if __name__ == "__main__":
    main(isolation, STORES, count=5_000, description=__doc__)
