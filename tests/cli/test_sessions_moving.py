"""`agent-runtime sessions export | import | delete --user`: all that a user has, as a file and away."""

import json
import signal
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anyio
import pytest
from tests.cli.program import invoke, started
from tests.cli.terminal import shown, terminal

from agent_runtime import AgentContext, AgentExecutor, Message, Owner, SessionManager, reaches
from agent_runtime_adapters.sqlite import SQLiteSessionStore

ANN, BOB = Owner(tenant_id=None, user_id="ann"), Owner(tenant_id="acme", user_id="bob")
MANY = 400


async def fill(path: Path, count: int, owner: Owner = ANN) -> None:
    async with (
        SessionManager(SQLiteSessionStore(path, synchronous="NORMAL")) as sessions,
        anyio.create_task_group() as group,
    ):

        async def make(number: int) -> None:
            await sessions.create(owner=owner, agent_id="clerk", session_id=f"s{number}", metadata={"n": number})
            said = [Message(role="user", content=f"question {number}"), Message(role="assistant", content="ü \0 💥")]
            await sessions.append_messages(f"s{number}", said, owner=owner)

        for number in range(count):
            group.start_soon(make, number)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Three sessions of Ann, one of them with a run that is not finished, and two of Bob."""
    path = tmp_path / "kept.db"

    async def make() -> None:
        await fill(path, 3)
        await fill(path, 2, BOB)
        sessions = SessionManager(SQLiteSessionStore(path), ttl=86_400)
        async with AgentExecutor(asking, agent_id="clerk", session_manager=sessions) as executor:
            result = await executor.execute(AgentContext(user_id="ann", session_id="s1", current_task="Send it."))
            assert result.error_type == "suspended"

    anyio.run(make)
    return path


@reaches(resumable=True)
async def asking(context: AgentContext) -> str:
    return str(await context.ask("Really?", key="really"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a user with many sessions."""
    folder = tmp_path_factory.mktemp("large")
    anyio.run(fill, folder / "kept.db", MANY)
    assert command(folder / "kept.db", "export", "--user", "ann", "-o", str(folder / "ann.zip")).exit_code == 0
    return folder / "ann.zip"


def command(db: Path, *words: str) -> Any:
    name, *rest = words
    return invoke("sessions", name, *rest, "--db", str(db))


def listed(db: Path, *whose: str) -> list[str]:
    """The ids that there are, in order."""
    document = json.loads(command(db, "list", "--json", "--last", "9999", *whose).stdout)
    return sorted(session["session_id"] for session in document["sessions"])


def test_all_of_a_users_sessions_are_taken_to_another_store(db: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "ann.zip", tmp_path / "other.db"
    done = command(db, "export", "--user", "ann", "-o", str(file))
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "exported 3 sessions of user 'ann'\n1 unfinished run stays behind in s1\n"
    assert file.stat().st_mode & 0o777 == 0o600
    for said in ("imported 3 sessions of user 'ann'\n", "imported 0 sessions of user 'ann'; 3 were there already\n"):
        done = command(other, "import", str(file), "--user", "ann")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", said)
    assert listed(other, "--user", "ann") == ["s0", "s1", "s2"]
    of_both = [json.loads(command(path, "show", "s2", "--user", "ann", "--json").stdout) for path in (db, other)]
    assert of_both[0]["messages"] == of_both[1]["messages"]
    assert of_both[1]["metadata"] == {"n": 2}


def test_what_was_said_since_the_import_stays(db: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "ann.zip", tmp_path / "other.db"
    command(db, "export", "--user", "ann", "-o", str(file))
    command(other, "import", str(file), "--user", "ann")
    assert command(other, "delete", "s0", "--user", "ann", "--yes").exit_code == 0

    async def say() -> None:
        async with SessionManager(SQLiteSessionStore(other)) as sessions:
            await sessions.append_messages("s1", [Message(role="user", content="More.")], owner=ANN)

    anyio.run(say)
    again = json.loads(command(other, "import", str(file), "--user", "ann", "--json").stdout)
    assert again == {"imported": 1, "there_already": 2, "failed": {}}
    assert json.loads(command(other, "show", "s1", "--user", "ann", "--json").stdout)["message_count"] == 3


def test_another_session_of_the_same_id_is_not_touched_and_told(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "ann.zip"
    command(db, "export", "--user", "ann", "-o", str(file))
    done = command(db, "import", str(file), "--user", "bob", "--tenant", "acme")
    assert (done.exit_code, done.stdout) == (1, "")
    why = "there is a session of this id that was not made of this export"
    ours = f"error: s0: {why}\nerror: s1: {why}\n"
    assert sorted(done.stderr.splitlines()[:2]) == ours.splitlines()
    assert done.stderr.splitlines()[2] == "imported 1 session of user 'bob' of tenant 'acme'; 2 failed"
    counted = json.loads(command(db, "import", str(file), "--user", "ann", "--json").stdout)
    assert counted == {"imported": 0, "there_already": 0, "failed": dict.fromkeys(("s0", "s1", "s2"), why)}


def test_a_session_that_is_damaged_or_something_else_is_told_and_the_others_are_imported(
    db: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "ann.zip", tmp_path / "other.db"
    command(db, "export", "--user", "ann", "-o", str(file))
    data = bytearray(file.read_bytes())
    place = data.index(b"s2.session") + len(b"s2.session") + 20
    data[place] ^= 0xFF
    file.write_bytes(data)
    with ZipFile(file, "a") as archive:
        archive.writestr("notes.session", b"Just some notes.")
    done = json.loads(command(other, "import", str(file), "--json").stdout)
    assert (done["imported"], sorted(done["failed"])) == (2, ["notes", "s2"])
    assert "damaged" in done["failed"]["s2"]
    assert listed(other) == ["s0", "s1"]


@pytest.mark.parametrize("words", [(), ("--session", "s7")], ids=str)
def test_a_file_that_is_no_export_is_named_with_what_is_expected(tmp_path: Path, words: tuple[str, ...]) -> None:
    file, other = tmp_path / "notes.txt", tmp_path / "other.db"
    file.write_text("Just some notes, and nothing else.")
    done = command(other, "import", str(file), *words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {file} cannot be imported: the exported session cannot be read: it does not start like a record\n"
        "hint:  it takes a file that `agent-runtime sessions export` wrote\n"
    )
    assert not other.exists()


@pytest.mark.parametrize("cut", [2, 100, -1])
def test_an_export_that_was_cut_short_is_refused(db: Path, tmp_path: Path, cut: int) -> None:
    file, other = tmp_path / "ann.zip", tmp_path / "other.db"
    command(db, "export", "--user", "ann", "-o", str(file))
    file.write_bytes(file.read_bytes()[:cut])
    done = command(other, "import", str(file))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: {file} is damaged, or its export was cut short\n"
    assert not other.exists()


def test_an_export_goes_through_a_pipe_one_session_at_a_time(db: Path, tmp_path: Path) -> None:
    done = command(db, "export", "--user", "ann", "--json")
    file = tmp_path / "piped.zip"
    file.write_bytes(done.stdout_bytes)
    assert json.loads(done.stderr) == {"sessions": 3, "unfinished_runs": {"s1": 1}}
    with ZipFile(file) as archive:
        assert sorted(archive.namelist()) == ["s0.session", "s1.session", "s2.session"]
        (tmp_path / "s0.session").write_bytes(archive.read("s0.session"))
    assert command(tmp_path / "one.db", "import", str(tmp_path / "s0.session")).stdout == "s0\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["export", "-o", "x.zip"], 2, "name a session, or with --user whose sessions"),
        (["export", "--user", "zoe", "-o", "x.zip"], 1, "there are no sessions of user 'zoe' in "),
        (["export", "s9", "--user", "ann", "-o", "x.zip"], 1, "there is no session 's9' of user 'ann' in "),
        (["import", "ann.zip", "--session", "s7"], 2, "--session names one session, and ann.zip is an archive"),
        (["import", "empty.zip"], 1, "empty.zip has no sessions"),
        (["delete", "--yes"], 2, "name a session, or with --user whose sessions"),
        (["delete", "--user", "ann"], 2, "nobody is there to be asked"),
    ],
    ids=str,
)
def test_wrong_use_changes_nothing(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command(db, "export", "--user", "ann", "-o", "ann.zip")
    with ZipFile("empty.zip", "w"):
        pass
    done = command(db, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert not Path("x.zip").exists()
    assert listed(db, "--user", "ann") == ["s0", "s1", "s2"]
    assert listed(db) == []


def test_all_of_a_users_sessions_are_deleted_and_nobody_elses(db: Path, tmp_path: Path) -> None:
    words = ("sessions", "delete", "--user", "ann", "--db", str(db))
    with terminal(*words, cwd=tmp_path, columns=300) as screen:
        screen.after(f"1 of them has unfinished runs\nDelete all 3 sessions of user 'ann' in {db}? [y/N] ", b"\n")
        assert screen.finish() == 1
    assert listed(db, "--user", "ann") == ["s0", "s1", "s2"]
    done = command(db, "delete", "--user", "ann", "--yes")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"deleted 3 sessions of user 'ann' in {db}\n")
    assert listed(db, "--user", "bob", "--tenant", "acme") == ["s0", "s1"]
    again = command(db, "delete", "--user", "ann", "--yes", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, {"deleted": 0})


def count(db: Path) -> int:
    """How many sessions are in the file, which another process writes."""
    if not db.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
            [found] = connection.execute("SELECT count(*) FROM sessions").fetchone()
            return int(found)
    except sqlite3.OperationalError:  # it has no tables yet
        return 0


@contextmanager
def under_way(db: Path, *words: str, wanted: range) -> Generator[Any]:
    """The command, as soon as so many sessions are there."""
    with started("sessions", *words, "--db", str(db), cwd=db.parent) as process:
        give_up = time.monotonic() + 60
        while count(db) not in wanted:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.001)
        yield process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str
)
def test_an_import_that_is_ended_in_the_middle_goes_on(
    large: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    db = tmp_path / "new.db"
    with under_way(db, "import", str(large), "--user", "ann", wanted=range(10, MANY)) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == code
    there = count(db)
    assert 10 <= there < MANY
    if code > 0:
        words = said.splitlines()
        assert len(words) == 1
        assert words[0].startswith("interrupted; ")
        assert words[0].endswith(f" of {MANY} sessions were imported; the same command again does the rest")
    again = json.loads(command(db, "import", str(large), "--user", "ann", "--json").stdout)
    assert again == {"imported": MANY - there, "there_already": there, "failed": {}}
    assert len(listed(db, "--user", "ann")) == MANY


def test_a_deletion_that_is_ended_in_the_middle_goes_on(large: Path, tmp_path: Path) -> None:
    db = tmp_path / "new.db"
    command(db, "import", str(large), "--user", "ann")
    with under_way(db, "delete", "--user", "ann", "--yes", wanted=range(1, MANY - 10)) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
    assert said.startswith("interrupted; ")
    assert said.endswith("sessions were deleted; the same command again does the rest\n")
    left = count(db)
    assert 0 < left < MANY
    assert json.loads(command(db, "delete", "--user", "ann", "--yes", "--json").stdout) == {"deleted": left}


def test_an_export_that_is_interrupted_leaves_no_file(large: Path, tmp_path: Path) -> None:
    db, file = tmp_path / "new.db", tmp_path / "ann.zip"
    command(db, "import", str(large), "--user", "ann")
    with started("sessions", "export", "--user", "ann", "-o", str(file), "--db", str(db), cwd=tmp_path) as process:
        while not file.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 130
    assert said.startswith("interrupted; ")
    assert said.endswith("what was written of them is not kept\n")
    assert not file.exists()


def test_a_terminal_shows_how_far_it_is(large: Path, tmp_path: Path) -> None:
    words = ("sessions", "import", str(large), "--user", "ann", "--db", str(tmp_path / "new.db"))
    with terminal(*words, cwd=tmp_path, columns=80) as screen:
        assert screen.finish() == 0
    assert f"/{MANY}" in screen.text
    assert shown(screen).strip().splitlines()[-1] == f"imported {MANY} sessions of user 'ann'"
