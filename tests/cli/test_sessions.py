"""`agent-runtime sessions`, as a user types it."""

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.cli.program import ESCAPE, invoke, run_program
from tests.cli.terminal import shown, terminal

from agent_runtime import Message, Owner, SessionManager
from agent_runtime_adapters.sqlite import SQLiteSessionStore

LOCAL = Owner(tenant_id=None, user_id="local")
ANN = Owner(tenant_id="acme", user_id="ann")
READING = (
    ["list"],
    ["show", "s1"],
    ["export", "s1", "-o", "x"],
    ["delete", "s1", "--yes"],
    ["discard", "s1", "r1", "--yes"],
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A file with session `s1` of two messages and `s2` of 50, and one of somebody else."""
    path = tmp_path / "kept.db"

    async def fill() -> None:
        async with SessionManager(SQLiteSessionStore(path)) as sessions:
            await sessions.create(owner=LOCAL, agent_id="clerk", session_id="s1", metadata={"topic": "\x1b[31mtarts"})
            await sessions.append_messages("s1", turn("Is it \x1b[31mred\x1b[0m?", "x" * 3_000), owner=LOCAL)
            await sessions.create(owner=LOCAL, agent_id="clerk", session_id="s2")
            many = [message for number in range(25) for message in turn(f"question {number}", f"answer {number}")]
            await sessions.append_messages("s2", many, owner=LOCAL)
            await sessions.create(owner=ANN, agent_id="clerk", session_id="s3")

    anyio.run(fill)
    return path


def turn(asked: str, answered: str) -> list[Message]:
    return [Message(role="user", content=asked), Message(role="assistant", content=answered)]


def sessions(db: Path, *arguments: str) -> Any:
    command, *rest = arguments
    return invoke("sessions", command, *rest, "--db", str(db))


def test_sessions_are_listed_with_the_latest_first(db: Path) -> None:
    done = sessions(db, "list")
    assert (done.exit_code, done.stderr) == (0, "")
    heading, *rows = [line.split("  ") for line in done.stdout.splitlines()]
    assert (heading[0], heading[-1]) == ("SESSION", "STATUS")
    assert [row[0].strip() for row in rows] == ["s2", "s1"]
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_a_long_list_is_cut_and_says_so(db: Path) -> None:
    done = sessions(db, "list", "--last", "1")
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "1 more; --last 2 lists all\n"


def test_somebody_without_sessions_is_told_so(db: Path) -> None:
    done = sessions(db, "list", "--user", "bob", "--tenant", "acme")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"no sessions of user 'bob' of tenant 'acme' in {db}\n"


def test_the_list_as_json_has_ids_counts_and_times_that_machines_read(db: Path) -> None:
    document = json.loads(sessions(db, "list", "--json").stdout)
    assert document["total"] == 2
    latest = document["sessions"][0]
    assert latest["session_id"] == "s2"
    assert latest["owner"] == {"tenant_id": None, "user_id": "local"}
    assert latest["message_count"] == 50
    assert latest["unfinished_runs"] == []
    assert datetime.fromisoformat(latest["updated_at"]).tzinfo is not None


def test_a_session_is_shown_with_its_messages_and_nothing_that_steers_a_terminal(db: Path) -> None:
    done = sessions(db, "show", "s1")
    assert done.exit_code == 0
    assert "session     s1\nagent       clerk\nuser        local\nmessages    2\n" in done.stdout
    assert "user        Is it [31mred[0m?\n" in done.stdout
    assert "… (2,000 characters more)\n" in done.stdout
    assert ESCAPE not in done.stdout


def test_of_a_long_conversation_the_end_is_shown_or_what_is_asked_for(db: Path) -> None:
    end, less, whole, none = (
        sessions(db, "show", "s2", *more).stdout for more in ([], ["--last", "2"], ["--all"], ["--last", "0"])
    )
    assert "(30 messages before; --all shows them)" in end
    assert ("question 14" in end, "question 15" in end) == (False, True)
    assert ("answer 23" in less, "question 24" in less) == (False, True)
    assert "question 0\n" in whole
    assert "messages before" not in whole
    assert "question" not in none
    assert "x" * 3_000 in sessions(db, "show", "s1", "--all").stdout


def test_a_session_as_json_has_its_messages(db: Path) -> None:
    document = json.loads(sessions(db, "show", "s2", "--last", "2", "--json").stdout)
    assert document["messages"] == [
        {"role": "user", "content": "question 24"},
        {"role": "assistant", "content": "answer 24"},
    ]
    assert document["message_count"] == 50


@pytest.mark.parametrize("command", READING[1:], ids=lambda command: command[0])
@pytest.mark.parametrize(
    "owner", [["--user", "ann"], ["--tenant", "acme"], ["--user", "ann", "--tenant", "acme"]], ids=str
)
def test_another_owners_session_looks_like_one_that_is_not_there(
    db: Path, tmp_path: Path, command: list[str], owner: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = sessions(db, *command, *owner)
    missing = sessions(db, *[word.replace("s1", "s9") for word in command], *owner)
    assert (theirs.exit_code, theirs.stdout) == (missing.exit_code, missing.stdout) == (1, "")
    assert theirs.stderr == missing.stderr.replace("s9", "s1")
    assert sessions(db, "show", "s1").exit_code == 0


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_missing_file_is_told_and_not_made(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("sessions", *command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: there is no database agent-runtime.db\nhint:  name it with --db or AGENT_RUNTIME_DB"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_no_database_and_stays_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    empty.touch()
    assert sessions(empty, "list").exit_code == 2
    assert empty.stat().st_size == 0


def test_the_file_comes_from_the_environment(db: Path) -> None:
    assert "s2" in invoke("sessions", "list", env={"AGENT_RUNTIME_DB": str(db)}).stdout


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE birds (name)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_file_of_something_else_is_refused_and_stays_as_it_is(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "birds.db"
    foreign(path)
    before = path.read_bytes()
    done = sessions(path, *command)
    assert done.exit_code == 2
    assert "is a database of something else" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before


def test_what_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("Just some notes, and quite a few more of them.\n" * 30, "utf-8")
    for path in (text, tmp_path):
        done = sessions(path, "list")
        assert done.exit_code in (1, 2)
        assert str(path) in done.stderr
        assert ("is a folder: name a file in it" in done.stderr) is path.is_dir()
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr


def test_a_damaged_database_is_told_in_one_line(db: Path) -> None:
    data = bytearray(db.read_bytes())
    for place in range(4096, len(data)):
        data[place] ^= 0x5A
    db.write_bytes(data)
    done = sessions(db, "show", "s2")
    assert done.exit_code == 1
    assert "is damaged" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["", "a b", "../s1", "s1\n", "x" * 129])
def test_an_id_that_cannot_be_one_is_told(db: Path, name: str) -> None:
    done = sessions(db, "show", name)
    assert done.exit_code == 1
    assert "session_id" in done.stderr


@pytest.mark.parametrize("user", ["", "a\nb"])
def test_a_user_that_cannot_be_one_is_told(db: Path, user: str) -> None:
    done = sessions(db, "list", "--user", user)
    assert done.exit_code == 1
    assert "user_id" in done.stderr


def test_what_is_exported_can_be_imported_by_anybody(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "s2.session"
    assert sessions(db, "export", "s2", "-o", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other.db"
    done = sessions(other, "import", str(file), "--user", "ann")
    assert done.exit_code == 0
    assert done.stdout == "s2\n"
    assert json.loads(sessions(other, "show", "s2", "--user", "ann", "--json").stdout)["message_count"] == 50
    named = json.loads(sessions(other, "import", str(file), "--session", "copy", "--json").stdout)
    assert named["session_id"] == "copy"


def test_an_import_that_is_done_again_changes_nothing_and_says_so(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "s2.session"
    sessions(db, "export", "s2", "-o", str(file))
    other = tmp_path / "other.db"
    for said in ("", "session s2 was there already\n"):
        done = sessions(other, "import", str(file))
        assert (done.exit_code, done.stdout, done.stderr) == (0, "s2\n", said)
    assert json.loads(sessions(other, "list", "--json").stdout)["total"] == 1


def test_an_export_goes_into_a_pipe_and_not_onto_a_terminal_or_over_a_file(db: Path, tmp_path: Path) -> None:
    piped = sessions(db, "export", "s1")
    assert piped.stdout_bytes.startswith(b"OR")
    full = run_program("sessions", "export", "s1", "--db", str(db), "-o", "/dev/full", cwd=tmp_path)
    assert (full.returncode, full.stderr) == (
        2,
        "error: /dev/full exists already\nhint:  name another file, or remove it first\n",
    )
    with terminal("sessions", "export", "s1", "--db", str(db), cwd=tmp_path, columns=90) as screen:
        assert screen.finish() == 2
    assert "an exported session is no text for a terminal" in shown(screen)


def test_an_export_that_cannot_be_written_is_told(db: Path, tmp_path: Path) -> None:
    done = sessions(db, "export", "s1", "-o", str(tmp_path / "no" / "such" / "folder"))
    assert done.exit_code == 1
    assert done.stderr.startswith("error: No such file or directory: ")


def test_what_is_no_export_is_refused(db: Path, tmp_path: Path) -> None:
    exported = sessions(db, "export", "s1").stdout_bytes
    damaged = bytearray(exported)
    damaged[-1] ^= 1
    file = tmp_path / "x.session"
    for data in (b"", b"OR", b"Just some notes.", exported[:-1], bytes(damaged)):
        file.write_bytes(data)
        done = sessions(db, "import", str(file))
        assert (done.exit_code, done.stdout) == (1, "")
        assert "the exported session" in done.stderr
    assert json.loads(sessions(db, "list", "--json").stdout)["total"] == 2


def test_an_import_needs_a_file_and_an_id_that_is_free(db: Path, tmp_path: Path) -> None:
    file = tmp_path / "s1.session"
    missing = sessions(db, "import", str(file))
    assert (missing.exit_code, missing.stderr) == (2, f"error: there is no file {file}\n")
    assert sessions(db, "import", str(tmp_path)).stderr == f"error: {tmp_path} is not a file\n"
    assert sessions(db, "export", "s1", "-o", str(file)).exit_code == 0
    taken = sessions(db, "import", str(file), "--session", "s1")
    assert taken.exit_code == 1
    assert "exists already" in taken.stderr


def test_an_import_that_fails_makes_no_database(tmp_path: Path) -> None:
    file = tmp_path / "x.session"
    file.write_bytes(b"Just some notes.")
    done = sessions(tmp_path / "new.db", "import", str(file))
    assert (done.exit_code, done.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_deleted_without_a_yes(db: Path, tmp_path: Path) -> None:
    done = sessions(db, "delete", "s2")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: nobody is there to be asked\nhint:  --yes does it without asking\n",
    )
    for keys, code, left in ((b"\n", 1, True), (b"\x04", 1, True), (b"y\n", 0, False)):
        with terminal("sessions", "delete", "s2", "--db", str(db), cwd=tmp_path, columns=90) as screen:
            screen.after("Delete session s2 with 50 messages? [y/N] ", keys)
            assert screen.finish() == code
        assert ("\nnothing was changed\n" in shown(screen)) is left
        assert "error" not in shown(screen)
        assert (sessions(db, "show", "s2").exit_code == 0) is left
    assert sessions(db, "delete", "s1", "--yes").exit_code == 0
    assert sessions(db, "delete", "s1", "--yes").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "list"),
        (["show"], "Missing argument 'ID'"),
        (["list", "--last", "0"], "--last"),
        (["show", "s1", "--last", "some"], "--last"),
        (["discard", "s1"], "Missing argument 'RUN'"),
        (["import"], "Missing argument 'FILE'"),
        (["show", "s1", "--jsn"], "--json"),
    ],
)
def test_wrong_use_says_what_is_there(db: Path, arguments: list[str], message: str) -> None:
    done = sessions(db, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_in_a_narrow_terminal_no_line_is_longer(db: Path, tmp_path: Path) -> None:
    for command in (["list"], ["show", "s1"]):
        with terminal("sessions", *command, "--db", str(db), cwd=tmp_path, columns=50) as screen:
            assert screen.finish() == 0
        assert all(len(line) <= 50 for line in shown(screen).splitlines())
