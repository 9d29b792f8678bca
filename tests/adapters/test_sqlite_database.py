"""The database's thread: what is committed together, what fails alone, who waits for whom, and what ends when."""

import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.adapters.programs import run_python

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    RuntimeClosed,
    StoreUnavailable,
)
from agent_runtime.testing import Outcome, Trial, cancellations, inject, no_leaks
from agent_runtime_adapters.sqlite import SQLiteDatabase
from agent_runtime_adapters.sqlite.schema import APPLICATION_ID, MIGRATIONS
from agent_runtime_adapters.sqlite.thread import AnyJob
from agent_runtime_adapters.sqlite.transactions import Transactions

Connection = sqlite3.Connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture
async def database(path: Path) -> AsyncGenerator[SQLiteDatabase]:
    """An open database with a table of numbers."""
    async with SQLiteDatabase(path, synchronous="NORMAL") as database:
        await database.write(make_table)
        yield database


def make_table(connection: Connection) -> None:
    connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, data BLOB)")


def add(connection: Connection, number: int, size: int = 0) -> int:
    connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, bytes(size)))
    return number


def numbers(connection: Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


def fail(connection: Connection, number: int) -> None:
    add(connection, number)
    raise KeyError(number)


def files_beside(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()]


class Gate:
    """A job that keeps the thread busy, so that what is asked for meanwhile is done at once."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _: Connection) -> None:
        self.reached.set()
        assert self.opened.wait(10)

    async def is_reached(self) -> None:
        await anyio.to_thread.run_sync(self.reached.wait)


async def together(database: SQLiteDatabase, jobs: Sequence[Callable[[Connection], object]]) -> list[object]:
    """What the jobs give or raise that are waiting when the thread has time for them."""
    gate, results = Gate(), dict[int, object]()

    async def one(place: int, job: Callable[[Connection], object]) -> None:
        try:
            results[place] = await database.write(job)
        except Exception as error:  # noqa: BLE001 - what it raises is its result
            results[place] = error

    async with anyio.create_task_group() as group:
        group.start_soon(database.read, gate)
        await gate.is_reached()
        for place, job in enumerate(jobs):
            group.start_soon(one, place, job)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
    return [results[place] for place in range(len(jobs))]


# What is committed together


async def test_what_is_asked_for_at_once_is_one_commit(database: SQLiteDatabase) -> None:
    statements: list[str] = []
    await database.read(lambda connection: connection.set_trace_callback(statements.append))
    assert await together(database, [partial(add, number=number) for number in range(50)]) == list(range(50))
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 3  # of two reads, and one for all of these
    assert await database.read(numbers) == list(range(50))


async def test_a_job_that_fails_undoes_only_itself(database: SQLiteDatabase) -> None:
    await database.write(partial(add, number=0))
    jobs: list[Callable[[Connection], object]]
    jobs = [partial(add, number=1), partial(fail, number=2), partial(add, number=3), partial(add, number=0)]
    one, two, three, four = await together(database, jobs)
    assert (one, three) == (1, 3)
    assert isinstance(two, KeyError)
    assert isinstance(
        four, CorruptRecord
    )  # the key is there: a store looks first, and finds it unless the file is damaged
    with pytest.raises(KeyError):
        await database.write(partial(fail, number=4))
    assert await database.read(numbers) == [0, 1, 3]


async def test_a_job_without_room_does_not_take_its_neighbours_along(database: SQLiteDatabase) -> None:
    def bound(connection: Connection) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")

    await database.write(bound)
    too_large = partial(add, number=2, size=1_000_000)
    one, two, three = await together(database, [partial(add, number=1), too_large, partial(add, number=3)])
    assert (one, three) == (1, 3)
    assert isinstance(two, StoreUnavailable)
    assert not two.retryable
    with pytest.raises(StoreUnavailable, match=r"no room for the database file '.*data\.db'"):
        await database.write(too_large)
    assert await database.read(numbers) == [1, 3]


async def test_reads_do_not_wait_for_the_commit_and_see_one_moment(database: SQLiteDatabase) -> None:
    gate, seen = Gate(), list[object]()

    async def read(job: Callable[[Connection], object]) -> None:
        seen.append(await database.read(job))

    async with anyio.create_task_group() as group:
        group.start_soon(database.read, gate)
        await gate.is_reached()
        group.start_soon(database.write, partial(add, number=1))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(read, numbers)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
    assert seen == [[]]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["add", "fail", "drop"])), max_size=12))
def test_any_jobs_at_once_leave_what_those_that_succeeded_made(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, str]]
) -> None:
    async def check() -> None:
        path = tmp_path_factory.mktemp("any") / "data.db"
        async with SQLiteDatabase(path, synchronous="NORMAL") as database:
            await database.write(make_table)
            gate, done = Gate(), list[int]()

            async def one(number: int, kind: str, scope: anyio.CancelScope) -> None:
                with scope:
                    with suppress(KeyError, CorruptRecord):
                        await database.write(partial(fail if kind == "fail" else add, number=number))
                        done.append(number)

            async with anyio.create_task_group() as group:
                group.start_soon(database.read, gate)
                await gate.is_reached()
                for number, kind in plan:
                    scope = anyio.CancelScope()
                    group.start_soon(one, number, kind, scope)
                    await anyio.wait_all_tasks_blocked()
                    if kind == "drop":
                        scope.cancel()
                await anyio.wait_all_tasks_blocked()
                gate.opened.set()
            expected = {number for number, kind in plan if kind == "add"}
            assert await database.read(numbers) == sorted(done) == sorted(expected)

    anyio.run(check)


# Cancellation


async def test_what_was_not_begun_when_its_caller_was_cancelled_is_never_done(database: SQLiteDatabase) -> None:
    gate, scope = Gate(), anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await database.write(partial(add, number=1))

    async with anyio.create_task_group() as group:
        group.start_soon(database.read, gate)
        await gate.is_reached()
        group.start_soon(cancelled)
        group.start_soon(database.write, partial(add, number=2))
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
    assert scope.cancelled_caught
    assert await database.read(numbers) == [2]


async def test_a_neighbour_in_the_same_commit_that_was_not_begun_is_never_done_either(database: SQLiteDatabase) -> None:
    before, within, scope = Gate(), Gate(), anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await database.write(partial(add, number=1))

    async with anyio.create_task_group() as group:
        group.start_soon(database.read, before)
        await before.is_reached()
        group.start_soon(database.write, within)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        before.opened.set()
        await within.is_reached()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        within.opened.set()
    assert await database.read(numbers) == []


async def test_what_was_begun_is_done_as_a_whole(database: SQLiteDatabase) -> None:
    gate, scope = Gate(), anyio.CancelScope()

    def slow(connection: Connection) -> None:
        add(connection, 1)
        gate(connection)
        add(connection, 2)

    async def cancelled() -> None:
        with scope:
            await database.write(slow)

    async with anyio.create_task_group() as group:
        group.start_soon(cancelled)
        await gate.is_reached()
        scope.cancel()
    gate.opened.set()
    assert await database.read(numbers) == [1, 2]


async def test_a_cancellation_at_any_await_leaves_nothing_behind(tmp_path: Path) -> None:
    turn = iter(range(1_000))

    async def session() -> list[int]:
        async with SQLiteDatabase(tmp_path / f"{next(turn)}.db", synchronous="NORMAL") as database:
            await database.write(make_table)
            await database.write(partial(add, number=1))
            return await database.read(numbers)

    async def check(trial: Trial) -> None:
        assert trial.outcome in (Outcome.DONE, Outcome.CANCELLED), trial

    async with no_leaks():
        for fault in cancellations():
            trials = await inject(session, check, fault=fault)
            assert len(trials) > 4
            assert trials[-1].value == [1]


# Threads and event loops


async def test_it_works_without_a_lifespan_and_the_collector_ends_the_thread(path: Path) -> None:
    async with no_leaks():
        database = SQLiteDatabase(path)
        await database.write(make_table)
        del database
        gc.collect()


async def test_a_closed_one_leaves_nothing_and_takes_nothing(path: Path) -> None:
    async with no_leaks():
        async with SQLiteDatabase(path) as database:
            await database.write(make_table)
        await database.aclose()
    assert files_beside(path) == ["data.db"]
    for call in (database.read, database.write):
        with pytest.raises(RuntimeClosed, match=r"data\.db' has been closed"):
            await call(numbers)
    with pytest.raises(RuntimeClosed):
        await database.__aenter__()


async def test_after_a_lifespan_the_next_job_opens_the_file_again(path: Path) -> None:
    async with no_leaks():
        database = SQLiteDatabase(path)
        for times in range(1, 4):
            async with database, database:
                await database.write(make_table if times == 1 else partial(add, number=times))
            assert len(await database.read(numbers)) == times - 1
            assert threads_of(path) == 1
        await database.aclose()
        assert threads_of(path) == 0
    assert files_beside(path) == ["data.db"]


def test_between_two_lifespans_the_file_may_be_another(path: Path) -> None:
    database = SQLiteDatabase(path)

    async def fill() -> None:
        async with database:
            await database.write(make_table)
            assert await database.read(numbers) == []

    anyio.run(fill)
    path.unlink()
    anyio.run(fill)


async def test_jobs_that_come_while_a_lifespan_ends_are_all_done(path: Path) -> None:
    database = SQLiteDatabase(path, synchronous="NORMAL")
    await database.write(make_table)

    async def add_some(start: int) -> None:
        for number in range(start, start + 50):
            await database.write(partial(add, number=number))

    async def come_and_go() -> None:
        for _ in range(20):
            async with database:
                await database.read(numbers)

    async with no_leaks():
        async with anyio.create_task_group() as group:
            for start in (0, 100, 200):
                group.start_soon(add_some, start)
            group.start_soon(come_and_go)
        assert len(await database.read(numbers)) == 150
        await database.aclose()


def threads_of(path: Path) -> int:
    return sum(thread.name.endswith(f"{str(path)!r}") for thread in threading.enumerate())


async def test_one_that_was_never_used_is_closed_as_well(path: Path) -> None:
    await SQLiteDatabase(path).aclose()
    assert files_beside(path) == []


async def test_what_was_asked_for_before_the_end_is_done(path: Path) -> None:
    database = SQLiteDatabase(path)
    await database.write(make_table)
    gate = Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(database.read, gate)
        await gate.is_reached()
        group.start_soon(database.write, partial(add, number=1))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(database.aclose)
        group.start_soon(database.aclose)
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
    async with SQLiteDatabase(path) as again:
        assert await again.read(numbers) == [1]


def test_several_event_loops_use_it_one_after_the_other_and_at_once(path: Path) -> None:
    database = SQLiteDatabase(path, synchronous="NORMAL")
    anyio.run(database.write, make_table)

    async def add_some(start: int) -> None:
        for number in range(start, start + 20):
            await database.write(partial(add, number=number))

    backends = ["asyncio", "trio", "asyncio", "trio"]
    anyio.run(add_some, 0)
    threads = [
        threading.Thread(target=partial(anyio.run, add_some, 100 * place, backend=backend))
        for place, backend in enumerate(backends, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(anyio.run(database.read, numbers)) == 100
    anyio.run(database.aclose, backend="trio")


def test_an_event_loop_that_ends_in_the_middle_does_not_hurt_the_thread(path: Path) -> None:
    database, gate = SQLiteDatabase(path), Gate()
    anyio.run(database.write, make_table)

    def slow(connection: Connection) -> None:
        gate(connection)
        add(connection, 1)

    loop = asyncio.new_event_loop()
    task = loop.create_task(database.write(slow))
    loop.run_until_complete(asyncio.sleep(0))
    assert gate.reached.wait(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    gate.opened.set()
    assert anyio.run(database.read, numbers) == [1]
    anyio.run(database.aclose)


async def test_without_a_thread_to_be_had_it_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    database = SQLiteDatabase(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreUnavailable, match="too many are running"):
            await database.write(make_table)
    await database.write(make_table)
    await database.aclose()


async def test_a_fault_of_the_worker_is_told_and_nobody_waits_for_ever(
    database: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Transactions.work

    def done_and_broken(worker: Transactions, jobs: list[AnyJob]) -> list[AnyJob]:
        work(worker, [job for job in jobs if job.writes])
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Transactions, "work", done_and_broken)
        with pytest.raises(SystemExit):
            await database.read(numbers)
        assert await database.write(partial(add, number=1)) == 1  # it was done, and told so
    assert await database.read(numbers) == [1]


async def test_an_exit_in_a_job_is_for_its_caller(database: SQLiteDatabase) -> None:
    def leave(connection: Connection) -> None:
        add(connection, 1)
        raise SystemExit

    with pytest.raises(SystemExit):
        await database.write(leave)
    assert await database.read(numbers) == []


# Processes


def test_a_process_made_by_fork_is_told_to_open_its_own(path: Path) -> None:
    program = """
        import os, sys, anyio
        from agent_runtime import ConfigurationError
        from agent_runtime_adapters.sqlite import SQLiteDatabase

        unused, database = SQLiteDatabase(sys.argv[1]), SQLiteDatabase(sys.argv[1])
        read = lambda connection: connection.execute("SELECT count(*) FROM sessions").fetchone()

        async def refused():
            try:
                await database.read(read)
            except ConfigurationError as error:
                assert "fork" in str(error)
                await database.aclose()
                await unused.read(read)
                await unused.aclose()
                return 7

        anyio.run(database.read, read)
        child = os.fork()
        if child == 0:
            os._exit(anyio.run(refused))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        anyio.run(database.read, read)
        anyio.run(database.aclose)
    """
    run_python(program, path)


async def test_another_process_is_one_with_another_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with no_leaks():
        database = SQLiteDatabase(path)
        await database.write(make_table)
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: -1)
            with pytest.raises(ConfigurationError, match="made by fork"):
                await database.read(numbers)
            await database.aclose()
        assert await database.read(numbers) == []
        await database.aclose()


def test_a_program_that_just_ends_has_done_each_job_as_a_whole_or_not_at_all(path: Path) -> None:
    program = """
        import sys, anyio
        from agent_runtime_adapters.sqlite import SQLiteDatabase

        database = SQLiteDatabase(sys.argv[1])

        def make(connection):
            connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY, data BLOB)")

        def pair(connection):
            for _ in range(2):
                connection.execute("INSERT INTO numbers (data) VALUES (randomblob(100))")

        async def main():
            await database.write(make)
            await database.write(pair)
            with anyio.move_on_after(0.05):
                async with anyio.create_task_group() as group:
                    for _ in range(10_000):
                        group.start_soon(database.write, pair)

        anyio.run(main)
    """
    run_python(program, path)
    connection = sqlite3.connect(path)
    [count] = connection.execute("SELECT count(*) FROM numbers").fetchone()
    connection.close()
    assert count >= 2
    assert count % 2 == 0


# Locks


async def test_a_lock_of_another_is_waited_for_and_reads_go_on_meanwhile(path: Path, database: SQLiteDatabase) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = anyio.Event()

    async def write() -> None:
        await database.write(partial(add, number=1))
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for _ in range(20):
            assert await database.read(numbers) == []
        assert not done.is_set()
        other.execute("COMMIT")
    other.close()
    assert await database.read(numbers) == [1]


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_a_lock_that_stays_is_told_with_the_file_and_the_timeout(path: Path, seconds: float) -> None:
    async with SQLiteDatabase(path, busy_timeout=seconds) as database:
        await database.write(make_table)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for refused in await together(database, [partial(add, number=1), partial(add, number=2)]):
            assert isinstance(refused, StoreUnavailable)
            assert refused.retryable
            assert f"data.db' was locked by another process for {seconds:g} s (busy_timeout)" in str(refused)
        other.close()
        assert await database.write(partial(add, number=3)) == 3


async def test_a_caller_that_is_cancelled_while_it_waits_for_a_lock_writes_nothing(
    path: Path, database: SQLiteDatabase
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with anyio.move_on_after(0.05) as scope:
        await database.write(partial(add, number=1))
    assert scope.cancelled_caught
    other.close()
    assert await database.write(partial(add, number=2)) == 2
    assert await database.read(numbers) == [2]


async def test_opening_waits_for_a_lock_as_well(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match=r"locked by another process for 0\.02 s"):
        await SQLiteDatabase(path, busy_timeout=0.02).read(numbers)
    database = SQLiteDatabase(path)
    async with anyio.create_task_group() as group:
        group.start_soon(database.write, make_table)
        await anyio.sleep(0.02)
        other.close()
    await database.aclose()


# Files that are not as they should be


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_database_needs_a_file(name: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a file"):
        SQLiteDatabase(name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"synchronous": "OFF"}, "'FULL' or 'NORMAL'"),
        ({"busy_timeout": -1.0}, "seconds from 0 on"),
        ({"busy_timeout": float("nan")}, "seconds from 0 on"),
        ({"busy_timeout": float("inf")}, "seconds from 0 on"),
    ],
)
def test_options_are_checked_when_it_is_made(path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SQLiteDatabase(path, **options)


async def test_the_options_are_those_of_the_connection(path: Path) -> None:
    names: tuple[tuple[Literal["FULL", "NORMAL"], int], ...] = (("FULL", 2), ("NORMAL", 1))
    for name, number in names:
        async with SQLiteDatabase(path, synchronous=name) as database:
            assert await database.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (
                number,
            )
            mode = await database.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
            assert mode == ("wal",)


async def refusal_of(path: Path) -> AgentRuntimeError:
    """The error of opening it, which names the file and leaves no thread behind."""
    async with no_leaks():
        with pytest.raises(AgentRuntimeError, match=path.name) as caught:
            await SQLiteDatabase(path, busy_timeout=0.1).__aenter__()
    return caught.value


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused = await refusal_of(tmp_path / "missing" / "data.db")
    assert isinstance(refused, ConfigurationError)
    assert "no folder" in str(refused)


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    await anyio.Path(tmp_path / "data.db").mkdir()
    refused = await refusal_of(tmp_path / "data.db")
    assert isinstance(refused, StoreUnavailable)
    assert "cannot be opened" in str(refused)


@pytest.fixture
def foreign(path: Path, request: pytest.FixtureRequest) -> bytes:
    """What is in the file: a database that somebody made with this statement."""
    connection = sqlite3.connect(path)
    connection.execute(str(request.param))
    connection.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "foreign", ["CREATE TABLE theirs (x)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"], indirect=True
)
async def test_a_database_of_something_else_is_refused_and_stays_as_it_is(path: Path, foreign: bytes) -> None:
    refused = await refusal_of(path)
    assert isinstance(refused, ConfigurationError)
    assert "database of something else" in str(refused)
    assert await anyio.Path(path).read_bytes() == foreign


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    await anyio.Path(path).write_text("a letter" * 1_000)
    refused = await refusal_of(path)
    assert isinstance(refused, CorruptRecord)
    assert "not a SQLite database" in str(refused)


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    await anyio.Path(path).touch()
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)


async def test_a_newer_file_is_refused_by_its_version(path: Path) -> None:
    async with SQLiteDatabase(path) as database:
        await database.write(lambda connection: connection.execute("PRAGMA user_version = 99").close())
    refused = await refusal_of(path)
    assert isinstance(refused, ConfigurationError)
    assert f"has schema 99, written by a newer version of this library; this one knows schema {len(MIGRATIONS)}" in str(
        refused
    )


async def test_an_older_file_gets_what_is_new(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)
    newer = (*MIGRATIONS, ("CREATE TABLE news (text TEXT)", "INSERT INTO news VALUES ('hello')"))
    monkeypatch.setattr("agent_runtime_adapters.sqlite.connection.MIGRATIONS", newer)
    for _ in range(2):
        async with SQLiteDatabase(path) as database:
            assert await database.read(numbers) == []
            assert await database.read(lambda connection: connection.execute("SELECT * FROM news").fetchall()) == [
                ("hello",)
            ]
            version = await database.read(lambda connection: connection.execute("PRAGMA user_version").fetchone())
            assert version == (len(newer),)


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)
    with monkeypatch.context() as patch:
        newer = (*MIGRATIONS, ("CREATE TABLE news (text TEXT)", "CREATE TABLE news (text TEXT)"))
        patch.setattr("agent_runtime_adapters.sqlite.connection.MIGRATIONS", newer)
        assert isinstance(await refusal_of(path), CorruptRecord)
    async with SQLiteDatabase(path) as database:
        assert await database.read(numbers) == []


async def test_a_file_without_its_tables_is_damaged(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.close()
    async with SQLiteDatabase(path) as database:
        with pytest.raises(CorruptRecord, match="its tables were changed"):
            await database.read(lambda connection: connection.execute("SELECT * FROM sessions"))


async def test_a_schema_that_is_damaged_is_told(path: Path) -> None:
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)
    content = await anyio.Path(path).read_bytes()
    await anyio.Path(path).write_bytes(content.replace(b"CREATE TABLE numbers", b"CREATE \xffABLE numbers"))
    assert isinstance(await refusal_of(path), CorruptRecord)


async def test_a_large_file_is_opened_without_reading_all_of_it(path: Path) -> None:
    async with SQLiteDatabase(path, synchronous="NORMAL") as database:
        await database.write(make_table)
        await database.write(partial(add, number=1, size=9_000_000))
    statements: list[str] = []

    def connect(*arguments: Any, **options: Any) -> Connection:
        connection = sqlite3.Connection(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        async with SQLiteDatabase(path) as database:
            assert await database.read(numbers) == [1]
    assert "PRAGMA journal_mode = WAL" in statements
    assert not any("check(" in statement for statement in statements)


async def test_a_file_that_is_taken_away_or_replaced_is_told(path: Path) -> None:
    async with SQLiteDatabase(path, synchronous="NORMAL") as database:
        await database.write(make_table)
        aside = await anyio.Path(path).rename(path.with_name("aside.db"))
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="was moved, deleted or replaced"):
                await database.write(partial(add, number=1))
        assert "data.db" not in files_beside(path)
        await anyio.Path(path).write_bytes(await aside.read_bytes())
        with pytest.raises(StoreUnavailable, match="was moved, deleted or replaced"):
            await database.read(numbers)
        await aside.replace(path)
        assert await database.write(partial(add, number=1)) == 1
        assert await database.read(numbers) == [1]


def test_a_file_or_a_folder_that_cannot_be_written_is_told(path: Path) -> None:
    program = """
        import os, sys, pathlib, tempfile, anyio
        from agent_runtime import StoreUnavailable
        from agent_runtime_adapters.sqlite import SQLiteDatabase

        async def told(path, *words):
            try:
                async with SQLiteDatabase(path) as database:
                    await database.write(lambda connection: connection.execute("CREATE TABLE t (x)"))
            except StoreUnavailable as error:
                assert any(word in str(error) for word in words), error
                assert path.name in str(error) and not error.retryable
            else:
                raise AssertionError(words)

        folder = pathlib.Path(tempfile.mkdtemp())
        path = folder / "data.db"
        anyio.run(SQLiteDatabase(path).read, lambda connection: None)
        path.chmod(0o444)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.setuid(65534)
        anyio.run(told, path, "cannot be written", "cannot be opened")
        anyio.run(told, folder / "new.db", "cannot be opened")
        anyio.run(told, pathlib.Path("/proc/new.db"), "cannot be opened")
    """
    run_python(program, path)


# Errors of the driver, in our words


class Failing(sqlite3.Connection):
    """Raises what it is told, at a statement that starts so."""

    at = ""
    code: int | None = None
    error: type[Exception] = sqlite3.OperationalError

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if self.at and sql.startswith(self.at):
            error = self.error("a secret")
            if self.code is not None:
                error.sqlite_errorcode = self.code  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # as the driver does
            raise error
        return super().execute(sql, parameters)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Failing]]:
    """Have all connections be of a class that fails as it is told."""

    class Told(Failing):
        pass

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Told))
    yield Told


@pytest.mark.parametrize(
    ("code", "error", "retryable"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable, True),
        (sqlite3.SQLITE_PROTOCOL, StoreUnavailable, True),
        (sqlite3.SQLITE_FULL, StoreUnavailable, False),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreUnavailable, False),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailable, False),
        (sqlite3.SQLITE_IOERR_READ, StoreUnavailable, True),
        (sqlite3.SQLITE_NOMEM, StoreUnavailable, True),
        (sqlite3.SQLITE_CORRUPT_INDEX, CorruptRecord, False),
        (sqlite3.SQLITE_NOTADB, CorruptRecord, False),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, CorruptRecord, False),
        (sqlite3.SQLITE_ERROR, CorruptRecord, False),
        (sqlite3.SQLITE_TOOBIG, LimitExceeded, False),
        (None, CorruptRecord, False),
    ],
)
@pytest.mark.parametrize("at", ["BEGIN IMMEDIATE", "INSERT"])
async def test_each_of_the_drivers_errors_is_one_of_ours(
    path: Path, failing: type[Failing], at: str, code: int | None, error: type[AgentRuntimeError], retryable: bool
) -> None:
    async with SQLiteDatabase(path, busy_timeout=0) as database:
        await database.write(make_table)
        failing.at, failing.code = at, code
        with pytest.raises(error) as caught:
            await database.write(partial(add, number=1))
        assert caught.value.retryable is retryable
        assert "data.db" in str(caught.value)
        assert "secret" not in str(caught.value)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        failing.at = ""
        assert await database.write(partial(add, number=1)) == 1


@pytest.mark.parametrize(
    ("code", "error"), [(sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown), (sqlite3.SQLITE_FULL, StoreUnavailable)]
)
async def test_a_commit_that_fails_is_told_to_each_whose_job_is_in_it(
    path: Path, failing: type[Failing], code: int, error: type[AgentRuntimeError]
) -> None:
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)

        def last(connection: Connection) -> int:
            failing.at, failing.code = "COMMIT", code
            return add(connection, 3)

        one, two, three = await together(database, [partial(add, number=1), partial(fail, number=2), last])
        assert isinstance(one, error)
        assert isinstance(two, KeyError)
        assert isinstance(three, error)
        assert one is not three
        failing.at = ""
        assert await database.read(numbers) == []


@pytest.mark.parametrize("value", ["\ud800", 1 << 64, object()])
async def test_a_value_that_cannot_be_stored_is_refused(database: SQLiteDatabase, value: object) -> None:
    def job(connection: Connection) -> None:
        connection.execute("INSERT INTO numbers (data) VALUES (?)", (value,))

    with pytest.raises(InvalidInput, match="cannot be stored"):
        await database.write(job)


async def test_a_disk_without_a_log_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return super().execute("SELECT 'delete'" if "journal_mode" in sql else sql, parameters)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Stubborn))
    refused = await refusal_of(path)
    assert isinstance(refused, ConfigurationError)
    assert "use a local disk" in str(refused)


async def test_a_folder_that_cannot_be_looked_into_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_dir(_: Path) -> bool:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", is_dir)
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            await SQLiteDatabase(path).read(numbers)


@pytest.mark.parametrize("trial", range(20))
async def test_a_new_file_that_many_open_at_the_same_moment_is_theirs(tmp_path: Path, trial: int) -> None:
    """What is read of a file before it is used is of one moment: it never has tables and belongs to nobody."""

    async def open_one() -> None:
        async with SQLiteDatabase(tmp_path / "new.db"):
            pass

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(open_one)


async def test_a_job_that_waits_for_a_lock_never_has_the_thread_wait_with_a_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 a wait of `SimpleQueue` that has a timeout may never end."""

    class Strict(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            asked.append(timeout)
            return super().get(block)

    asked: list[float | None] = []
    monkeypatch.setattr("agent_runtime_adapters.sqlite.thread.SimpleQueue", Strict)
    async with SQLiteDatabase(path) as database:
        await database.write(make_table)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(database.write, partial(add, number=1))
            await anyio.sleep(0.05)
            other.execute("ROLLBACK")
            other.close()
        assert await database.read(numbers) == [1]
    assert len(asked) > 10
    assert set(asked) == {None}
