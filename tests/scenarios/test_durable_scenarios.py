"""Sessions that outlive a process, and two workers that want the same one: in memory, and in a file with real processes."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.scenarios.worker import OWNER, SESSION, TTL, listener, planner, service, task
from tests.stores.mortal import Mortal

from agent_runtime import (
    Lease,
    MemorySessionStore,
    ProviderUnavailable,
    Resume,
    SessionConflict,
    SessionManager,
)
from agent_runtime_adapters.sqlite import SQLiteSessionStore

ROOT = Path(__file__).parents[2]


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def worker(*arguments: str | Path) -> Generator[subprocess.Popen[str]]:
    """A process, killed with the block."""
    command = (sys.executable, "-m", "tests.scenarios.worker", *arguments)
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await anyio.to_thread.run_sync(process.stdout.readline)).strip()


def lines_of(world: Path) -> list[str]:
    return world.read_text("utf-8").splitlines()


async def test_s56_in_memory_a_conversation_goes_on_in_another_executor(tmp_path: Path) -> None:
    store = MemorySessionStore()
    for said, heard in (("I am Ann.", "I am Ann."), ("Who am I?", "I am Ann. / Who am I?")):
        async with service(store, listener(), tmp_path / "world") as executor:
            assert (await executor.execute(task(said))).output == heard


async def test_s56_in_a_file_a_conversation_goes_on_in_another_process(tmp_path: Path) -> None:
    for said, heard in (("I am Ann.", "I am Ann."), ("Who am I?", "I am Ann. / Who am I?")):
        with worker("say", tmp_path / "sessions.db", said) as process:
            assert await line_of(process) == heard


async def test_s56_in_memory_a_run_cut_short_between_tools_repeats_none(tmp_path: Path) -> None:
    clock, world = Clock(), tmp_path / "world"
    store = MemorySessionStore(clock=clock)
    mortal = Mortal(store)

    def die() -> Exception:
        mortal.die()
        return ProviderUnavailable("nobody hears this")

    await service(mortal.as_store, planner(die), world).execute(task("Book and pay."))
    assert lines_of(world) == ["booked"]
    clock.now += TTL + 0.1
    result = await service(store, planner(), world).execute(task(), resume=Resume())
    assert (result.output, lines_of(world)) == ("You fly.", ["booked", "paid"])


async def test_s56_in_a_file_a_process_killed_between_tools_repeats_none(tmp_path: Path) -> None:
    file, world = tmp_path / "sessions.db", tmp_path / "world"
    with worker("begin", file) as process:
        assert await line_of(process) == "between the tools"
        process.kill()
    assert lines_of(world) == ["booked"]
    with worker("go_on", file) as process:
        assert await line_of(process) == "You fly."
    assert lines_of(world) == ["booked", "paid"]


async def test_s57_in_memory_the_lock_of_a_crashed_worker_ends_and_its_writes_are_fenced_off() -> None:
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    first, second = SessionManager(store), SessionManager(store)
    session = await first.create(owner=OWNER, agent_id="a", session_id=SESSION)
    held = await first.acquire(SESSION, owner=OWNER, holder="first", seconds=TTL)  # and nobody renews it
    stale = Lease(session=session, holder=held.token.holder, fence=held.token.fence)
    with pytest.raises(SessionConflict, match="held"):
        await second.acquire(SESSION, owner=OWNER, holder="second", seconds=TTL)
    clock.now += TTL
    async with second.lease(SESSION, owner=OWNER, ttl=TTL) as lease:
        assert lease.fence > stale.fence
        await second.update_metadata(SESSION, {"by": "the second"}, owner=OWNER, lease=lease)
        with pytest.raises(SessionConflict, match="taken over"):
            await first.update_metadata(SESSION, {"by": "the first"}, owner=OWNER, lease=stale)
    assert (await second.refresh(SESSION, owner=OWNER)).metadata == {"by": "the second"}


async def test_s57_in_a_file_the_lock_of_a_killed_process_ends(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    async with SessionManager(SQLiteSessionStore(file)) as sessions:
        await sessions.create(owner=OWNER, agent_id="a", session_id=SESSION)
        with worker("hold", file) as process:
            fence = int(await line_of(process))
            with pytest.raises(SessionConflict, match="held"):
                async with sessions.lease(SESSION, owner=OWNER, ttl=TTL):
                    pass
            process.kill()
        async with sessions.lease(SESSION, owner=OWNER, ttl=TTL, wait=10) as lease:
            assert lease.fence > fence


async def test_s57_in_a_file_a_process_that_slept_through_its_lock_is_fenced_off(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    async with SessionManager(SQLiteSessionStore(file)) as sessions:
        await sessions.create(owner=OWNER, agent_id="a", session_id=SESSION)
        with worker("hold", file) as process:
            await line_of(process)
            async with sessions.lease(SESSION, owner=OWNER, ttl=TTL, wait=10) as lease:
                await sessions.update_metadata(SESSION, {"by": "the second"}, owner=OWNER, lease=lease)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert await line_of(process) == "fenced off"
        session = await sessions.get(SESSION, owner=OWNER)
    assert session is not None
    assert session.metadata == {"by": "the second"}
