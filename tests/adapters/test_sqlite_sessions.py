"""What the contract of session stores cannot ask: several processes, kill -9, damaged bytes, and what a turn costs."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.adapters.programs import run_python

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    ExpiredSession,
    InvalidInput,
    LeaseToken,
    Message,
    MessageBatch,
    Owner,
    Refusal,
    SessionContent,
    SessionFields,
    SessionManager,
    SessionQuota,
    StoredCheckpoint,
    StoredLease,
    StoreUnavailable,
)
from agent_runtime.testing import no_leaks
from agent_runtime_adapters.sqlite import SQLiteDatabase, SQLiteSessionStore

ANN = Owner(tenant_id=None, user_id="ann")
BOB = Owner(tenant_id="acme", user_id="bob")
FIELDS = SessionFields(agent_id="support", data=b"fields")
TTL = 100.0
QUOTA = SessionQuota(ttl=TTL)
TURN = MessageBatch.of([Message(role="user", content="What?"), Message(role="assistant", content="That.")])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncGenerator[SQLiteSessionStore]:
    async with opened(path, clock) as store:
        yield store


def opened(path: Path, clock: Callable[[], float]) -> SQLiteSessionStore:
    return SQLiteSessionStore(path, clock=clock, synchronous="NORMAL")


async def append(store: SQLiteSessionStore, operation: str, batch: MessageBatch = TURN, name: str = "s") -> int:
    count = await store.append(ANN, name, batch, expected=None, ttl=TTL, operation=operation)
    assert not isinstance(count, Refusal)
    return count


async def converse(store: SQLiteSessionStore, name: str = "s", turns: int = 2) -> None:
    """A session with so many turns."""
    await store.create(ANN, name, FIELDS, QUOTA, operation="create")
    async with anyio.create_task_group() as group:
        for number in range(turns):
            group.start_soon(append, store, f"turn-{number}", TURN, name)


async def furnish(store: SQLiteSessionStore, owner: Owner = ANN, name: str = "s") -> LeaseToken:
    """A session with two turns, two checkpoints, and a run of two entries that is held."""
    await store.create(owner, name, FIELDS, QUOTA, operation="create")
    for number in range(2):
        await store.append(owner, name, TURN, expected=None, ttl=TTL, operation=f"turn-{number}")
        await store.put_checkpoint(owner, name, f"c{number}", b"state" * 5, ttl=TTL)
    leased = await store.acquire(owner, name, "run", seconds=30, ttl=TTL, entry=b"first")
    assert isinstance(leased, StoredLease)
    await store.record(owner, name, "run", 2, b"second", ttl=TTL, lease=leased.token)
    return leased.token


async def picture(store: SQLiteSessionStore, owner: Owner, name: str) -> object:
    """All that can be read of a session, in every way in which it can be read."""
    return (
        await store.sessions(owner),
        await store.count(owner),
        await store.read(owner, name),
        await store.messages(owner, name),
        await store.messages(owner, name, last=1),
        await store.checkpoints(owner, name),
        await store.checkpoints(owner, name, checkpoint_id="c0"),
        await store.runs(owner, name),
        await store.entries(owner, name, "run"),
        await store.append(owner, name, TURN, expected=None, ttl=TTL, operation="turn-1"),
    )


# One file for several stores


async def test_stores_share_a_database_which_they_do_not_close(path: Path) -> None:
    async with no_leaks(), SQLiteDatabase(path) as database:
        one, two = SQLiteSessionStore(database), SQLiteSessionStore(database)
        async with one:
            await one.create(ANN, "s", FIELDS, QUOTA, operation="create")
        await one.aclose()
        assert await two.count(ANN) == 1


def test_options_are_set_where_the_database_is_made(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="busy_timeout, synchronous: set where the database"):
        SQLiteSessionStore(SQLiteDatabase(path), busy_timeout=1.0, synchronous="NORMAL")
    with pytest.raises(ConfigurationError, match="seconds from 0 on"):
        SQLiteSessionStore(path, busy_timeout=-1.0)


# Several processes

WORKER = """
    import sys, anyio
    from agent_runtime import Message, MessageBatch, Owner, Refusal, SessionFields, SessionQuota
    from agent_runtime_adapters.sqlite import SQLiteSessionStore

    path, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    owner, fields = Owner(tenant_id=None, user_id="ann"), SessionFields(agent_id="support", data=b"fields")

    async def work():
        async with SQLiteSessionStore(path, synchronous="NORMAL", busy_timeout=30) as store:  # a slow disk is not the point
            await store.create(owner, "s", fields, SessionQuota(ttl=3_600.0), operation="create")
            for number in range(times):
                batch = MessageBatch.of([Message(role="user", content=f"{name}-{number}-{part}") for part in range(2)])
                while True:
                    count = (await store.read(owner, "s")).message_count
                    done = await store.append(
                        owner, "s", batch, expected=count, ttl=3_600.0, operation=f"{name}-{number}"
                    )
                    if done is not Refusal.CHANGED:
                        break
                assert done == count + 2
                print(number, flush=True)

    anyio.run(work)
"""


def worker(path: Path, name: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", dedent(WORKER), str(path), name, str(times)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def texts(path: Path) -> list[str]:
    async def read() -> list[str]:
        async with SQLiteSessionStore(path) as store:
            messages = await store.messages(ANN, "s")
            assert messages is not None
            return [message.content for message in messages]

    return anyio.run(read)


def test_processes_that_start_and_append_at_the_same_time_lose_nothing_and_mix_nothing(path: Path) -> None:
    workers = {f"w{number}": worker(path, f"w{number}", 10) for number in range(8)}
    for process in workers.values():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    found = texts(path)
    assert [text[-1] for text in found] == ["0", "1"] * 80
    for name in workers:
        assert [text for text in found if text.startswith(name)] == [
            f"{name}-{n}-{part}" for n in range(10) for part in (0, 1)
        ]


def test_what_was_acknowledged_survives_kill_9_and_nothing_is_there_in_part(path: Path) -> None:
    expected: list[str] = []
    for number in range(10):
        name = f"w{number}"
        with worker(path, name, 10_000) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline() for _ in range(random.Random(number).randint(1, 30))]
            process.send_signal(signal.SIGKILL)
            acknowledged += process.stdout.readlines()
        of_this = [text for text in texts(path) if text.startswith(f"{name}-")]
        assert len(of_this) // 2 - len(acknowledged) in (0, 1)
        assert of_this == [f"{name}-{n}-{part}" for n in range(len(of_this) // 2) for part in (0, 1)]
        expected += of_this
    assert texts(path) == expected


# Damage


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a file with two sessions."""
    path = tmp_path_factory.mktemp("furnished") / "sessions.db"

    async def make() -> None:
        async with opened(path, Clock()) as store:
            for owner in (ANN, BOB):
                await furnish(store, owner)

    anyio.run(make)
    return path.read_bytes()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_is_told_or_changes_nothing(
    furnished: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    used = [place for place, byte in enumerate(furnished) if byte]
    damaged = bytearray(furnished)
    for place in data.draw(
        st.lists(st.sampled_from(used) | st.integers(0, len(furnished) - 1), min_size=1, max_size=3)
    ):
        damaged[place] ^= data.draw(st.integers(1, 255))

    async def read(content: bytes) -> list[object] | AgentRuntimeError:
        path = tmp_path_factory.mktemp("damaged") / "sessions.db"
        await anyio.Path(path).write_bytes(content)
        store = opened(path, Clock())
        try:
            return [await picture(store, owner, "s") for owner in (ANN, BOB)]
        except AgentRuntimeError as error:
            return error
        finally:
            await store.aclose()

    told = anyio.run(read, bytes(damaged))
    if isinstance(told, AgentRuntimeError):
        assert isinstance(told, CorruptRecord | StoreUnavailable | ConfigurationError)
        assert "sessions.db" in str(told)
        assert "What?" not in str(told)
    else:
        assert told == anyio.run(read, furnished)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET record = x''",
        "UPDATE sessions SET record = 'text'",
        "UPDATE sessions SET record = substr(record, 1, length(record) - 1) || x'00'",
        "UPDATE sessions SET record = (SELECT record FROM checkpoints LIMIT 1)",
        "UPDATE sessions SET record = (SELECT record FROM sessions WHERE session_id = 'other')",
        "UPDATE sessions SET agent_id = 'sales'",
        "UPDATE sessions SET expires_at = expires_at + 1",
        "UPDATE messages SET data = 'text'",
        "UPDATE messages SET data = x'00'",
        "UPDATE messages SET first = 'text' WHERE first = 0",
        "UPDATE messages SET first = 'text' WHERE first > 0",
        "UPDATE messages SET first = first + 1 WHERE first > 0",
        "DELETE FROM messages WHERE first = 0",
        "DELETE FROM messages WHERE first > 0",
        "UPDATE checkpoints SET record = x'00'",
        "UPDATE checkpoints SET record = (SELECT record FROM runs LIMIT 1)",
        "UPDATE checkpoints SET record = (SELECT record FROM checkpoints ORDER BY id LIMIT 1)",
        "UPDATE checkpoints SET record = (SELECT record FROM checkpoints ORDER BY id DESC LIMIT 1) WHERE checkpoint_id = 'c0'",
        "UPDATE runs SET record = (SELECT record FROM runs ORDER BY id LIMIT 1)",
        "UPDATE entries SET record = (SELECT record FROM entries ORDER BY id LIMIT 1)",
        "DELETE FROM entries WHERE number = 2",
        "DROP TABLE entries",
    ],
)
async def test_a_row_that_was_changed_is_told_as_damage(store: SQLiteSessionStore, path: Path, statement: str) -> None:
    await furnish(store, BOB, "other")
    await furnish(store)
    await store.database.write(lambda connection: execute(connection, statement))
    with pytest.raises(CorruptRecord, match=r"sessions\.db"):
        await picture(store, ANN, "s")


def execute(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)


async def test_an_entry_and_a_run_that_were_changed_are_told_when_they_are_written_again(
    store: SQLiteSessionStore,
) -> None:
    lease = await furnish(store)
    await store.database.write(lambda connection: execute(connection, "DELETE FROM entries WHERE number = 2"))
    with pytest.raises(CorruptRecord, match="an entry of a run is damaged"):
        await store.record(ANN, "s", "run", 2, b"second", ttl=TTL, lease=lease)
    await store.database.write(lambda connection: execute(connection, "UPDATE runs SET run_id = 'other'"))
    with pytest.raises(CorruptRecord, match="a run is damaged: another one is in its place"):
        await store.record(ANN, "s", "other", 1, b"", ttl=TTL, lease=lease)


async def test_a_turn_whose_place_was_changed_is_told_when_it_is_repeated(store: SQLiteSessionStore) -> None:
    await converse(store)
    await store.database.write(
        lambda connection: execute(connection, "UPDATE messages SET first = 'x' WHERE first = 0")
    )
    with pytest.raises(CorruptRecord, match="the place of a part is no number"):
        for number in range(2):
            await append(store, f"turn-{number}")


async def test_an_expired_session_whose_owner_cannot_be_read_is_told(store: SQLiteSessionStore, clock: Clock) -> None:
    await furnish(store)
    await store.database.write(lambda connection: execute(connection, "UPDATE sessions SET owner = x'00'"))
    clock.now += 2 * TTL
    with pytest.raises(CorruptRecord, match="whose it is cannot be read"):
        await store.expire()


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_log_leaves_a_state_that_was_there(path: Path, seed: int) -> None:
    program = """
        import os, sys, anyio
        from agent_runtime import Message, MessageBatch, Owner, SessionFields, SessionQuota
        from agent_runtime_adapters.sqlite import SQLiteSessionStore

        async def work():
            store = SQLiteSessionStore(sys.argv[1])
            owner = Owner(tenant_id=None, user_id="ann")
            await store.create(owner, "s", SessionFields(agent_id="a", data=b""), SessionQuota(ttl=3_600.0), operation="c")
            for number in range(20):
                batch = MessageBatch.of([Message(role="user", content=str(number))])
                await store.append(owner, "s", batch, expected=None, ttl=3_600.0, operation=f"o{number}")
            os._exit(0)

        anyio.run(work)
    """
    run_python(program, path)
    log = path.with_name("sessions.db-wal")
    damaged, number = bytearray(log.read_bytes()), random.Random(seed)
    damaged[number.randrange(len(damaged))] ^= number.randint(1, 255)
    log.write_bytes(damaged)

    async def read() -> list[str] | None:
        async with SQLiteSessionStore(path) as store:
            messages = await store.messages(ANN, "s")
            return None if messages is None else [message.content for message in messages]

    found = anyio.run(read)
    assert found is None or found == [str(number) for number in range(len(found))]


async def test_without_room_reading_goes_on_and_writing_again_when_there_is_some(store: SQLiteSessionStore) -> None:
    await converse(store)

    def bound(connection: sqlite3.Connection) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    await store.database.write(bound)
    large = MessageBatch.of([Message(role="user", content="x" * 100_000)])
    with pytest.raises(StoreUnavailable, match="there is no room"):
        await append(store, "large", large)
    assert await append(store, "small") == 6
    await store.database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").close())
    assert await append(store, "large", large) == 7


async def test_a_store_that_cannot_be_read_is_never_taken_for_an_absent_session(path: Path) -> None:
    await anyio.Path(path).write_bytes(b"no database" * 1_000)
    sessions = SessionManager(SQLiteSessionStore(path), ttl=TTL)
    with pytest.raises(CorruptRecord):
        await sessions.exists("s", owner=ANN)


# What a turn costs


async def steps(store: SQLiteSessionStore, call: Callable[[], Awaitable[object]]) -> int:
    """How many steps SQLite takes for the call."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    await store.database.read(lambda connection: connection.set_progress_handler(step, 1))
    await call()
    await store.database.read(lambda connection: connection.set_progress_handler(None, 0))
    return count


async def test_a_turn_and_a_window_cost_the_same_after_ten_turns_and_after_thousands(store: SQLiteSessionStore) -> None:
    await converse(store, "short", 10)
    await converse(store, "long", 3_000)

    async def costs(name: str) -> list[int]:
        return [
            await steps(store, lambda: append(store, "new", TURN, name)),
            await steps(store, lambda: append(store, "new", TURN, name)),
            await steps(store, lambda: store.messages(ANN, name, last=10)),
            await steps(store, lambda: store.read(ANN, name)),
        ]

    assert await costs("long") == pytest.approx(await costs("short"), abs=5)


async def test_expired_sessions_are_found_by_an_index(store: SQLiteSessionStore) -> None:
    for number in range(10):
        await converse(store, f"few-{number}")
    few = await steps(store, store.expire)
    for number in range(200):
        await converse(store, f"many-{number}")
    assert await steps(store, store.expire) == few


# Times


async def test_a_session_that_lives_on_is_not_expired_by_the_time_it_was_given_first(
    store: SQLiteSessionStore, clock: Clock
) -> None:
    await furnish(store)
    clock.now += TTL - 1
    await append(store, "late")
    clock.now += TTL - 1
    assert await store.expire() == []
    assert await store.count(ANN) == 1
    clock.now += 1
    assert await store.count(ANN) == 0
    assert await store.expire() == [ExpiredSession(owner=ANN, session_id="s", agent_id="support")]


async def test_a_session_that_is_given_less_time_is_expired_then(store: SQLiteSessionStore, clock: Clock) -> None:
    await store.create(ANN, "s", FIELDS, QUOTA, operation="create")
    await store.append(ANN, "s", TURN, expected=None, ttl=1.0, operation="o")
    clock.now += 1
    assert [session.session_id for session in await store.expire()] == ["s"]


async def test_an_expired_session_is_told_of_after_its_id_was_taken_again_and_the_store_opened_again(
    path: Path, clock: Clock
) -> None:
    async with opened(path, clock) as store:
        await furnish(store)
        clock.now += 2 * TTL
        await store.create(ANN, "s", SessionFields(agent_id="sales", data=b""), QUOTA, operation="again")
        assert await store.messages(ANN, "s") == ()
    async with opened(path, clock) as store:
        assert await store.expire() == [ExpiredSession(owner=ANN, session_id="s", agent_id="support")]
        assert await store.expire() == []
        assert await store.count(ANN) == 1


async def test_a_clock_that_is_set_back_makes_nothing_expire(store: SQLiteSessionStore, clock: Clock) -> None:
    await converse(store)
    clock.now -= 10 * TTL
    assert await store.expire() == []
    assert await append(store, "earlier") == 6


# What is kept, and what is not


async def test_nothing_is_left_of_a_deleted_session(store: SQLiteSessionStore) -> None:
    await furnish(store)
    await store.write(ANN, "s", FIELDS, expected=1, ttl=TTL, operation="w")
    assert await store.delete(ANN, "s") is True

    def rows(connection: sqlite3.Connection) -> dict[str, Any]:
        tables = ("sessions", "messages", "checkpoints", "runs", "entries", "writes", "expired")
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}

    assert set((await store.database.read(rows)).values()) == {0}


async def test_a_session_may_begin_without_messages_and_a_run_end_without(store: SQLiteSessionStore) -> None:
    nothing = MessageBatch.of([])
    content = SessionContent(messages=nothing)
    await store.create(ANN, "s", FIELDS, QUOTA, operation="create", content=content)
    leased = await store.acquire(ANN, "s", "run", seconds=30, ttl=TTL, entry=b"first")
    assert isinstance(leased, StoredLease)
    assert await store.finish(ANN, "s", "run", nothing, ttl=TTL, lease=leased.token) == 0
    assert await append(store, "o") == 2


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
async def test_a_fork_may_end_in_the_middle_of_what_was_imported_at_once(store: SQLiteSessionStore, count: int) -> None:
    messages = [Message(role="user", content=str(number)) for number in range(5)]
    checkpoint = StoredCheckpoint(checkpoint_id="c", data=b"", sequence=1, message_count=count, created_at=0.0)
    content = SessionContent(messages=MessageBatch.of(messages), checkpoints=(checkpoint,))
    await store.create(ANN, "s", FIELDS, QUOTA, operation="create", content=content)
    forked = await store.fork(ANN, "s", "c", "new", QUOTA, operation="fork")
    assert not isinstance(forked, Refusal)
    assert forked.message_count == min(count, 5)
    assert list(await store.messages(ANN, "new") or ()) == messages[:count]
    assert await append(store, "o", TURN, "new") == min(count, 5) + 2
    assert list(await store.messages(ANN, "s") or ()) == messages


@pytest.mark.parametrize("name", ["nul\0nul", "💥" * 255, "'; DROP TABLE sessions; --", "a\u0308", "%"])
async def test_text_is_only_text(store: SQLiteSessionStore, name: str) -> None:
    owner, fields = Owner(tenant_id=name, user_id=name), SessionFields(agent_id=name, data=b"")
    await store.create(owner, name, fields, QUOTA, operation=name)
    await store.append(owner, name, TURN, expected=0, ttl=TTL, operation=name)
    [session] = await store.sessions(owner)
    assert (session.session_id, session.fields) == (name, fields)
    for like in (name + " ", name[:-1], name.upper(), name + "\0"):
        if like != name:
            assert await store.count(Owner(tenant_id=name, user_id=like)) == 0
            assert await store.read(owner, like) is None
            assert await store.delete_all(owner, agent_id=like) == 0
    assert await store.delete_all(owner, agent_id=name) == 1


async def test_text_that_is_not_unicode_is_refused(store: SQLiteSessionStore) -> None:
    for owner, name in ((Owner(tenant_id=None, user_id="\ud800"), "s"), (ANN, "\ud800")):
        with pytest.raises(InvalidInput, match="text that is not Unicode"):
            await store.create(owner, name, FIELDS, QUOTA, operation="create")


def test_a_script_runs_once_more_in_the_same_store_and_reads_what_was_said(path: Path) -> None:
    async def agent(context: AgentContext) -> str:
        return f"turn {len(context.messages) // 2}"

    sessions = SessionManager(SQLiteSessionStore(path))
    executor = AgentExecutor(agent, session_manager=sessions)
    context = AgentContext(user_id="ann", session_id="s", current_task="go")
    assert [executor.run_sync(context).output for _ in range(3)] == ["turn 0", "turn 1", "turn 2"]
    found = anyio.run(lambda: sessions.messages("s", owner=ANN))
    assert [message.content for message in found if message.role == "assistant"] == ["turn 0", "turn 1", "turn 2"]
