"""Where the command line keeps conversations: what `--db` takes, what it refuses, and what nobody gets to read of it."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.program import invoke

from agent_runtime import ConfigurationError
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.kept import kept, without_password
from agent_runtime_adapters.cli.place import Place

PASSWORD = "hunter2"
NOBODY = f"redis://ann:{PASSWORD}@127.0.0.1:1/0"
COMMANDS = (
    ["sessions", "list"],
    ["sessions", "list", "--json"],
    ["sessions", "show", "s1"],
    ["sessions", "export", "s1", "-o", "x.session"],
    ["sessions", "export", "--user", "ann", "-o", "x.zip"],
    ["sessions", "delete", "s1", "--yes"],
    ["sessions", "delete", "--user", "ann", "--yes"],
    ["sessions", "discard", "s1", "r1", "--yes"],
    ["chat"],
    ["resume", "s1"],
)


def refusal(where: str) -> str:
    with pytest.raises((CommandFailed, ConfigurationError)) as refused:
        kept(where)
    return str(refused.value)


def test_a_sqlite_url_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kept("sqlite:///some.db").name == "some.db"
    assert kept(f"sqlite:///{tmp_path}/some.db").name == f"{tmp_path}/some.db"
    missing = invoke("sessions", "list", "--db", "sqlite:///none.db")
    assert (missing.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no database none.db" in missing.stderr


def test_a_file_with_a_colon_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kept("./redis:1.db").name == "redis:1.db"
    assert "no installed distribution opens stores at 'backup'" in refusal("backup:1.db")


def test_memory_is_refused_with_the_reason() -> None:
    done = invoke("sessions", "list", env={"AGENT_RUNTIME_DB": "memory:"})
    assert done.exit_code == 2
    assert done.stderr == (
        "error: memory: is gone when the command ends\nhint:  name a file or a server with --db or AGENT_RUNTIME_DB\n"
    )


@pytest.mark.parametrize(
    ("scheme", "extra", "library"),
    [
        ("redis+sentinel", "redis", "redis"),
        ("mongodb", "mongodb", "pymongo"),
        ("mongodb+srv", "mongodb", "pymongo"),
        ("postgresql", "postgres", "asyncpg"),
    ],
)
def test_a_missing_library_is_told_with_the_extra(
    scheme: str, extra: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (f"agent_runtime_adapters.{extra}", library)
    for name in [name for name in sys.modules if name in parts or name.startswith(tuple(f"{part}." for part in parts))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    done = invoke("sessions", "list", "--db", f"{scheme}://ann:{PASSWORD}@127.0.0.1:1/0")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: stores at {scheme}: stores ")
    assert f"pip install 'onion-agent-runtime[{extra}]'" in done.stderr
    assert PASSWORD not in done.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_server_that_is_away_is_told_without_its_password(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke(*command, "--db", NOBODY)
    assert done.exit_code == 1
    assert "127.0.0.1:1" in done.stderr
    assert PASSWORD not in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_command_to_go_on_with_has_no_password() -> None:
    place = Place("s1", user=None, tenant=None, db=NOBODY)
    assert place.command("resume") == f"agent-runtime resume s1 --db '{NOBODY.replace(PASSWORD, '***')}'"
    assert Place("s1", user=None, tenant=None, db="a@b:c.db").command("resume").endswith("--db a@b:c.db")


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("redis://localhost:6379/0", ""),
        ("redis://ann@localhost", ""),
        ("redis://:{}@localhost/0#prefix=shop", "pw"),
        ("redis+sentinel://u:{}@h1:1,h2:2/main/0", "p%40"),
        ("postgresql://u:{}@host/db?sslmode=require", "p/w?x#y@z"),
        ("postgresql:///db?user=u&password={}&sslmode=off", "pw"),
        ("mongodb://h/db?tlsCertificateKeyFilePassword={}", "a@b"),
        ("redis:u:{}@host", "pw"),
        ("plain@file:1.db", ""),
    ],
)
def test_of_a_url_all_is_shown_but_a_password(url: str, password: str) -> None:
    assert without_password(url.replace("{}", password)) == url.replace("{}", "***")


@given(st.text(st.characters(codec="utf-8"), min_size=4).filter(lambda text: "*" not in text))
def test_no_password_is_shown_however_it_is_written(password: str) -> None:
    secret = f"q{password}q"
    for url in (f"redis://ann:{secret}@host/0", f"mongodb+srv://:{secret}@h1,h2/db?w=1"):
        assert secret not in without_password(url)
        assert without_password(url).startswith(url.partition(":")[0])


@pytest.mark.parametrize(
    ("options", "opened"),
    [("", True), ("#prefix=shop", True), ("#prefix=shop&timeout=0.5", True), ("#prefix", False), ("#a b=1", False)],
)
def test_options_follow_the_url(options: str, opened: bool) -> None:
    if opened:
        assert kept(f"redis://localhost:6379/0{options}").name == "Redis at localhost:6379"
        return
    with pytest.raises(CommandFailed, match="options, as in #prefix=shop&timeout=10"):
        kept(f"redis://localhost:6379/0{options}")


def test_an_option_that_there_is_not_and_a_wrong_one_are_refused() -> None:
    wrong = (
        ("colour=red", "colour"),
        ("timeout=0", "timeout"),
        ("timeout=soon", "timeout is 'soon', and must be seconds above 0"),
    )
    for option, named in wrong:
        assert named in refusal(f"redis://localhost:6379/0#{option}")
