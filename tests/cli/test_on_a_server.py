"""The commands about conversations on a Redis, in processes of their own and in this one; its password is never told."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from tests.cli.program import invoke, run_program, started
from tests.servers.program import running
from tests.servers.redis_server import RedisProgram

from agent_runtime import Message, Owner, SessionManager, open_stores
from agent_runtime.ids import new_id

PASSWORD = "hunter2"


@pytest.fixture
def db(redis_url: str, capfd: pytest.CaptureFixture[str]) -> Iterator[str]:
    """A URL with a password, and keys of this test's own."""
    url = redis_url if "@" in redis_url else redis_url.replace("//", f"//default:{PASSWORD}@")
    yield f"{url}#prefix=cli-{new_id()}"
    assert PASSWORD not in "".join(capfd.readouterr())


def command(db: str, *words: str, env: dict[str, str] | None = None) -> Any:
    done = invoke(*words, "--db", db, env=env)
    assert PASSWORD not in done.output
    return done


def test_a_chat_remembers_what_another_process_was_told(shop: Path, db: str) -> None:
    words = ("chat", "shop:clerk", "--session", "s1")
    first = run_program(*words, "--db", db, cwd=shop, lines="Hello\n")
    assert (first.returncode, first.stdout) == (0, "'Hello' after 0 others.\n")
    second = run_program(*words, cwd=shop, lines="And again\n", AGENT_RUNTIME_DB=db)
    assert (second.returncode, second.stdout) == (0, "'And again' after 1 others.\n")
    assert second.stderr.startswith("session s1: 2 messages, the last ")
    assert PASSWORD not in first.stderr + second.stderr
    assert not list(shop.glob("*.db"))


def test_a_run_that_was_killed_is_resumed_by_another_process(shop: Path, db: str) -> None:
    (shop / "hang").touch()
    log = shop / "tools.log"
    with started("run", "shop:clerk", "reserve; charge", "--session", "s1", "--db", db, cwd=shop) as process:
        while not log.exists() or "charge" not in log.read_text("utf-8"):
            assert process.poll() is None
        process.kill()
    (shop / "hang").unlink()
    answer = 'run1={"result": "charged by hand"}'
    waits = command(db, "resume", "shop:clerk", "s1")
    assert waits.exit_code == 3
    key = waits.stderr.rpartition("--answer '")[2].partition("=")[0]
    resumed = command(db, "resume", "shop:clerk", "s1", "--answer", answer.replace("run1", key))
    assert (resumed.exit_code, resumed.stdout) == (0, "Given: reserved, charged by hand.\n")
    assert [line.split()[0] for line in log.read_text("utf-8").splitlines()] == ["reserve", "charge"]


def test_ctrl_c_ends_an_answer_and_says_how_to_go_on(shop: Path, db: str) -> None:
    with started("chat", "shop:clerk", "--session", "s1", "--db", db, cwd=shop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("reserve; endless\n")
        process.stdin.close()
        process.stdin = None  # so that a chat that gives no answer ends, and `communicate` tells why
        assert process.stdout.read(5) == "word0", process.communicate()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        "interrupted; the run was cancelled; what it has finished is kept:\nagent-runtime resume shop:clerk s1" in said
    )
    assert "default:***@" in said
    assert PASSWORD not in said
    assert "Traceback" not in said
    shown = json.loads(command(db, "sessions", "show", "s1", "--json").stdout)
    assert [run["status"] for run in shown["unfinished_runs"]] == ["cancelled"]


def test_all_that_a_user_has_goes_from_a_server_into_a_file_and_back(shop: Path, db: str) -> None:
    for session in ("s1", "s2"):
        assert command(db, "run", "shop:clerk", "Hello", "--session", session).exit_code == 0
    listed = command(db, "sessions", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["SESSION", "s2", "s1"]
    assert command(db, "sessions", "export", "--user", "local", "-o", "all.zip").exit_code == 0
    assert command("kept.db", "sessions", "import", "all.zip").stderr == "imported 2 sessions of user 'local'\n"
    of_both = [json.loads(command(place, "sessions", "show", "s1", "--json").stdout) for place in (db, "kept.db")]
    assert of_both[0]["messages"] == of_both[1]["messages"]
    deleted = command(db, "sessions", "delete", "--user", "local", "--yes")
    assert deleted.exit_code == 0
    assert deleted.stderr.startswith("deleted 2 sessions of user 'local' in Redis at ")
    empty = command(db, "sessions", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert empty.stderr.startswith("no sessions of user 'local' in Redis at ")
    for said in (
        "imported 2 sessions of user 'local'\n",
        "imported 0 sessions of user 'local'; 2 were there already\n",
    ):
        assert command(db, "sessions", "import", "all.zip").stderr == said
    assert command(db, "run", "shop:clerk", "More", "--session", "s1").stdout == "'More' after 1 others.\n"
    missing = command(db, "sessions", "show", "s9")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr.startswith("error: there is no session 's9' of user 'local' in Redis at ")


async def fill(url: str, count: int) -> None:
    """So many sessions of the user `local`."""
    async with open_stores(url, synchronous="NORMAL") as stores, anyio.create_task_group() as group:
        sessions, owner = SessionManager(stores.sessions), Owner(tenant_id=None, user_id="local")

        async def make(number: int) -> None:
            await sessions.create(owner=owner, agent_id="clerk", session_id=f"s{number}")
            await sessions.append_messages(f"s{number}", [Message(role="user", content="Hello.")], owner=owner)

        for number in range(count):
            group.start_soon(make, number)


def test_an_import_goes_on_when_the_server_was_away(shop: Path) -> None:
    anyio.run(fill, "sqlite:///kept.db", 400)
    assert command("kept.db", "sessions", "export", "--user", "local", "-o", "all.zip").exit_code == 0
    with running(RedisProgram) as server:
        with redis.Redis.from_url(server.url) as client, started(
            "sessions", "import", "all.zip", "--db", server.url, cwd=shop
        ) as process:  # fmt: skip
            while client.dbsize() < 100:
                assert process.poll() is None
            server.kill()
            _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert said.startswith("error: ")
        assert "Redis at 127.0.0.1:" in said
        assert said.endswith(" of 400 sessions were imported; the same command again does the rest\n")
        server.start()
        again = json.loads(command(server.url, "sessions", "import", "all.zip", "--json").stdout)
        assert again["imported"] > 0
        assert again["there_already"] > 10
        assert again["imported"] + again["there_already"] == 400
        assert again["failed"] == {}
