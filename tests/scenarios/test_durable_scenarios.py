"""Sessions that outlive a process, and workers that want the same thing at the same time, with real processes."""

import secrets
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.faults.places import PLACES
from tests.scenarios.worker import OWNER, SESSION, TTL, listener, planner, service, task
from tests.stores.mortal import Mortal

from agent_runtime import (
    Lease,
    MemorySessionStore,
    ProviderUnavailable,
    Resume,
    SessionConflict,
    SessionManager,
    Stores,
    open_stores,
)
from agent_runtime.types import Value

ROOT = Path(__file__).parents[2]


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Place(Value, frozen=True, kw_only=True):
    """Where the stores are that the processes of one test share."""

    url: str
    options: Mapping[str, str]

    def stores(self) -> Stores:
        return open_stores(self.url, **self.options)


@pytest.fixture(params=["sqlite", *PLACES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A file, or a part of a server that nobody else has."""
    kind: str = request.param
    if kind == "sqlite":
        return Place(url=f"sqlite:///{tmp_path / 'sessions.db'}", options={})
    url = request.getfixturevalue(f"{kind}_url")
    return Place(url=url, options={PLACES[kind]: f"s{secrets.token_hex(8)}"})


durable = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""Who starts the processes has one event loop; theirs is asyncio's."""


@contextmanager
def worker(command: str, place: Place, world: Path, *more: str) -> Generator[subprocess.Popen[str]]:
    """A process, killed with the block."""
    options = msgspec.json.encode(place.options).decode()
    line = (sys.executable, "-m", "tests.scenarios.worker", command, place.url, options, str(world), *more)
    with subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen[str]) -> None:
    """Let it go on that waits to be told."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


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


@durable
async def test_s56_a_conversation_goes_on_in_another_process(place: Place, tmp_path: Path) -> None:
    for said, heard in (("I am Ann.", "I am Ann."), ("Who am I?", "I am Ann. / Who am I?")):
        with worker("say", place, tmp_path / "world", said) as process:
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


@durable
async def test_s56_a_process_killed_between_tools_repeats_none(place: Place, tmp_path: Path) -> None:
    world = tmp_path / "world"
    with worker("begin", place, world) as process:
        assert await line_of(process) == "between the tools"
        process.kill()
    assert lines_of(world) == ["booked"]
    with worker("go_on", place, world) as process:
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


@durable
async def test_s57_the_lock_of_a_killed_process_ends(place: Place, tmp_path: Path) -> None:
    async with place.stores() as stores:
        sessions = SessionManager(stores.sessions)
        await sessions.create(owner=OWNER, agent_id="a", session_id=SESSION)
        with worker("hold", place, tmp_path / "world") as process:
            fence = int(await line_of(process))
            with pytest.raises(SessionConflict, match="held"):
                async with sessions.lease(SESSION, owner=OWNER, ttl=TTL):
                    pass
            process.kill()
        async with sessions.lease(SESSION, owner=OWNER, ttl=TTL, wait=10) as lease:
            assert lease.fence > fence


@durable
async def test_s57_a_process_that_slept_through_its_lock_is_fenced_off(place: Place, tmp_path: Path) -> None:
    async with place.stores() as stores:
        sessions = SessionManager(stores.sessions)
        await sessions.create(owner=OWNER, agent_id="a", session_id=SESSION)
        with worker("hold", place, tmp_path / "world") as process:
            await line_of(process)
            async with sessions.lease(SESSION, owner=OWNER, ttl=TTL, wait=10) as lease:
                await sessions.update_metadata(SESSION, {"by": "the second"}, owner=OWNER, lease=lease)
            go(process)
            assert await line_of(process) == "fenced off"
        session = await sessions.get(SESSION, owner=OWNER)
    assert session is not None
    assert session.metadata == {"by": "the second"}


@durable
async def test_s37_a_hundred_at_once_in_each_of_two_processes_are_one_call(place: Place, tmp_path: Path) -> None:
    assert await _both("ask", place, tmp_path / "world", "100") == [100, 100]
    assert lines_of(tmp_path / "world") == ["asked"]


@durable
async def test_s67_two_processes_enforce_one_limit(place: Place, tmp_path: Path) -> None:
    assert sum(await _both("knock", place, tmp_path / "world", "80", "100")) == 100


async def _both(command: str, place: Place, world: Path, *more: str) -> list[int]:
    """What two processes count that begin at the same moment."""
    with worker(command, place, world, *more) as one, worker(command, place, world, *more) as other:
        assert [await line_of(one), await line_of(other)] == ["ready", "ready"]
        go(one)
        go(other)
        return [int(await line_of(one)), int(await line_of(other))]
