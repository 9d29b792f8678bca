"""What a user does with sessions and checkpoints, and what must be seen, with each store. The clock is the test's."""

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime import (
    Checkpoint,
    EventBus,
    EventType,
    LimitExceeded,
    MemorySessionStore,
    Message,
    NotFound,
    Owner,
    SessionManager,
    SessionStore,
    StoredSession,
    StoreUnavailable,
    SystemEvent,
)
from agent_runtime_adapters.sqlite import SQLiteSessionStore

ANN = Owner(tenant_id=None, user_id="ann")
BOB = Owner(tenant_id=None, user_id="bob")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> AsyncGenerator[SessionStore]:
    if request.param == "memory":
        yield MemorySessionStore(clock=clock)
        return
    async with SQLiteSessionStore(tmp_path / "sessions.db", clock=clock) as store:
        yield store


class Outage(MemorySessionStore):
    """A store that can lose its server."""

    down = False

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        if self.down:
            raise StoreUnavailable("the session store does not answer")
        return await super().read(owner, session_id)


async def together(times: int, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for n in range(times):
            group.start_soon(call, n)


async def test_s48_the_life_of_a_session(store: SessionStore, clock: Clock) -> None:
    sessions = SessionManager(store, ttl=60)
    session = await sessions.create(owner=ANN, agent_id="support", metadata={"lang": "de"})
    assert (session.owner, session.agent_id, session.metadata) == (ANN, "support", {"lang": "de"})
    assert (session.version, session.message_count, session.closed) == (1, 0, False)
    assert session.expires_at - session.created_at == timedelta(seconds=60)
    assert await sessions.get(session.session_id, owner=ANN) == session

    changed = await sessions.update_metadata(session.session_id, {"vip": True}, owner=ANN)
    assert (changed.metadata, changed.version) == ({"lang": "de", "vip": True}, 2)

    clock.now += 40
    refreshed = await sessions.refresh(session.session_id, owner=ANN)
    assert refreshed.expires_at - session.expires_at == timedelta(seconds=40)
    assert refreshed.created_at == session.created_at

    second = await sessions.create(owner=ANN, agent_id="sales")
    assert [item.session_id for item in await sessions.list_by_user(owner=ANN)] == [
        second.session_id,
        session.session_id,
    ]
    assert (await sessions.count(owner=ANN), await sessions.count(owner=BOB)) == (2, 0)
    assert await sessions.exists(session.session_id, owner=ANN) is True
    assert await sessions.delete(session.session_id, owner=ANN) is True
    assert await sessions.delete(session.session_id, owner=ANN) is False
    assert await sessions.exists(session.session_id, owner=ANN) is False
    assert await sessions.get(session.session_id, owner=ANN) is None


async def test_s48_ids_cannot_be_guessed(store: SessionStore) -> None:
    sessions = SessionManager(store)
    ids: list[str] = []

    async def create(_: int) -> None:
        ids.append((await sessions.create(owner=ANN, agent_id="a")).session_id)

    await together(1_000, create)
    assert len(set(ids)) == 1_000
    assert all(len(session_id) == 32 for session_id in ids)
    # No digit is the same in all of them, as it would be in a clock or a counter.
    assert all(len({session_id[place] for session_id in ids}) == 16 for place in range(32))


async def test_s49_a_session_expires_once_and_an_update_does_not_make_it_permanent(
    store: SessionStore, clock: Clock
) -> None:
    expired: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.SESSION_EXPIRED, expired.append)
        sessions = SessionManager(store, ttl=1, event_bus=bus)
        await sessions.create(owner=ANN, agent_id="a", session_id="s")
        clock.now += 0.99
        assert await sessions.exists("s", owner=ANN)
        await sessions.update_metadata("s", {"late": True}, owner=ANN)
        clock.now += 0.99
        assert await sessions.exists("s", owner=ANN)
        clock.now += 0.02
        assert await sessions.get("s", owner=ANN) is None
        assert await sessions.get("s", owner=ANN) is None
        assert await sessions.cleanup_expired() == 0
        await bus.drain()
    [event] = expired
    assert (event.session_id, event.user_id, event.agent_id) == ("s", "ann", "a")


async def test_s50_fifty_increments_at_once_give_fifty(store: SessionStore) -> None:
    sessions = SessionManager(store)
    await sessions.create(owner=ANN, agent_id="a", session_id="s", metadata={"n": 0})

    async def increment(_: int) -> None:
        await sessions.update_metadata("s", lambda old: {"n": old["n"] + 1}, owner=ANN)

    await together(50, increment)
    session = await sessions.get("s", owner=ANN)
    assert session is not None
    assert session.metadata == {"n": 50}


async def test_s51_another_user_is_answered_as_if_there_were_nothing(store: SessionStore) -> None:
    sessions = SessionManager(store)
    await sessions.create(owner=ANN, agent_id="a", session_id="s")
    await sessions.append_messages("s", [Message(role="user", content="private")], owner=ANN)
    await sessions.save_checkpoint("s", {"step": 1}, owner=ANN, checkpoint_id="c")

    async def answers(session_id: str) -> list[object]:
        def name(error: NotFound) -> str:
            return str(error).replace(repr(session_id), "it")

        found: list[object] = [
            await sessions.get(session_id, owner=BOB),
            await sessions.exists(session_id, owner=BOB),
            await sessions.get_checkpoint(session_id, "c", owner=BOB),
            await sessions.latest_checkpoint(session_id, owner=BOB),
            await sessions.list_checkpoints(session_id, owner=BOB),
            await sessions.delete_checkpoint(session_id, "c", owner=BOB),
            await sessions.clear_checkpoints(session_id, owner=BOB),
            await sessions.delete(session_id, owner=BOB),
        ]
        calls: list[Awaitable[object]] = [
            sessions.messages(session_id, owner=BOB),
            sessions.append_messages(session_id, [Message(role="user", content="x")], owner=BOB),
            sessions.append_messages(session_id, [], owner=BOB),
            sessions.update(session_id, owner=BOB, agent_id="b"),
            sessions.update_metadata(session_id, {"x": 1}, owner=BOB),
            sessions.refresh(session_id, owner=BOB),
            sessions.close(session_id, owner=BOB),
            sessions.save_checkpoint(session_id, {}, owner=BOB),
            sessions.fork(session_id, "c", owner=BOB),
        ]
        for call in calls:
            with pytest.raises(NotFound) as refused:
                await call
            found.append(name(refused.value))
        return found

    assert await answers("s") == await answers("nothing")
    assert await sessions.count(owner=BOB) == 0
    assert len(await sessions.messages("s", owner=ANN)) == 1
    assert await sessions.latest_checkpoint("s", owner=ANN) is not None


async def test_s52_in_memory_an_outage_is_not_an_absent_session() -> None:
    store = Outage()
    sessions = SessionManager(store)
    store.down = True
    for call in (sessions.get("s", owner=ANN), sessions.open("s", owner=ANN, agent_id="a")):
        with pytest.raises(StoreUnavailable):
            await call
    store.down = False
    assert await sessions.count(owner=ANN) == 0
    opened = await sessions.open("s", owner=ANN, agent_id="a")
    assert await sessions.open("s", owner=ANN, agent_id="a") == opened


async def test_s52_a_file_that_another_process_keeps_locked_is_not_an_absent_session(tmp_path: Path) -> None:
    file = tmp_path / "sessions.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    store = SQLiteSessionStore(file, busy_timeout=0.01)
    sessions = SessionManager(store)
    for call in (sessions.get("s", owner=ANN), sessions.open("s", owner=ANN, agent_id="a")):
        with pytest.raises(StoreUnavailable, match="locked"):
            await call
    other.close()
    async with store:
        assert await sessions.count(owner=ANN) == 0
        opened = await sessions.open("s", owner=ANN, agent_id="a")
        assert await sessions.open("s", owner=ANN, agent_id="a") == opened


async def test_s53_a_full_store_says_so(store: SessionStore) -> None:
    sessions = SessionManager(store, max_sessions=2)
    for owner in (ANN, BOB):
        await sessions.create(owner=owner, agent_id="a")
    with pytest.raises(LimitExceeded, match="max_sessions") as refused:
        await sessions.open("s", owner=BOB, agent_id="a")
    assert refused.value.details == {"field": "max_sessions", "limit": 2, "remaining": 0}


async def test_s53_the_limit_per_user_holds_when_many_create_at_once(store: SessionStore) -> None:
    sessions = SessionManager(store, max_sessions_per_user=5)
    refusals = 0

    async def create(_: int) -> None:
        nonlocal refusals
        try:
            await sessions.create(owner=ANN, agent_id="a")
        except LimitExceeded:
            refusals += 1

    await together(20, create)
    assert (await sessions.count(owner=ANN), refusals) == (5, 15)
    await sessions.create(owner=BOB, agent_id="a")


@pytest.mark.parametrize("trial", range(20))
async def test_s54_checkpoints_are_listed_newest_first(trial: int, store: SessionStore, clock: Clock) -> None:
    sessions = SessionManager(store)
    await sessions.create(owner=ANN, agent_id="a", session_id="s")
    saved: list[Checkpoint] = []
    for step in range(5):
        clock.now -= trial  # the order does not come from a clock
        saved.append(await sessions.save_checkpoint("s", {"step": step}, owner=ANN))
    assert [item.sequence for item in saved] == [1, 2, 3, 4, 5]
    assert await sessions.list_checkpoints("s", owner=ANN) == tuple(reversed(saved))
    assert await sessions.latest_checkpoint("s", owner=ANN) == saved[4]
    for item in saved:
        assert await sessions.get_checkpoint("s", item.checkpoint_id, owner=ANN) == item
    assert await sessions.delete_checkpoint("s", saved[2].checkpoint_id, owner=ANN) is True
    assert await sessions.get_checkpoint("s", saved[2].checkpoint_id, owner=ANN) is None
    assert await sessions.clear_checkpoints("s", owner=ANN) == 4
    assert await sessions.latest_checkpoint("s", owner=ANN) is None


async def test_s55_a_checkpoint_needs_a_session_and_its_events_are_published(store: SessionStore) -> None:
    seen: list[SystemEvent] = []
    async with EventBus() as bus:
        for event_type in (EventType.SESSION_CREATED, EventType.CHECKPOINT_SAVED, EventType.CHECKPOINT_RESTORED):
            await bus.subscribe(event_type, seen.append)
        sessions = SessionManager(store, event_bus=bus)
        with pytest.raises(ValueError, match="no session"):
            await sessions.save_checkpoint("s", {}, owner=ANN)
        await bus.drain()
        assert seen == []
        await sessions.create(owner=ANN, agent_id="a", session_id="s")
        await sessions.save_checkpoint("s", {"step": 1}, owner=ANN, checkpoint_id="c")
        await sessions.latest_checkpoint("s", owner=ANN)
        await bus.drain()
    told = sorted((str(event.event_type), event.session_id, event.metadata.get("checkpoint_id")) for event in seen)
    assert told == [
        ("checkpoint_restored", "s", "c"),
        ("checkpoint_saved", "s", "c"),
        ("session_created", "s", None),
    ]
