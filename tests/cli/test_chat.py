"""`agent-runtime chat`, typed at a terminal and through pipes."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.program import COMMAND, environment, invoke, run_program, started
from tests.cli.terminal import Terminal, shown, terminal
from tests.servers.chat import refuse, say, serve_chat

CHAT = ("chat", "shop:clerk", "--session", "s1")


def piped(*lines: str, arguments: tuple[str, ...] = CHAT, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_program(*arguments, cwd=Path.cwd(), lines="".join(f"{line}\n" for line in lines), **variables)


def conversation(*arguments: str) -> list[tuple[str, str]]:
    """Who said what in session `s1`, without the tools."""
    document = json.loads(invoke("sessions", "show", "s1", "--json", "--all", *arguments).stdout)
    messages: list[dict[str, Any]] = document["messages"]
    return [(item["role"], item["content"]) for item in messages if item["role"] != "tool" and "content" in item]


def done_by_tools() -> list[str]:
    return [line.split()[0] for line in Path("tools.log").read_text("utf-8").splitlines()]


def test_piped_lines_are_messages_and_only_answers_come_out(shop: Path) -> None:
    first = piped("Hello", "", "  Hello again  ")
    assert (first.returncode, first.stdout) == (0, "'Hello' after 0 others.\n'Hello again' after 1 others.\n")
    assert first.stderr == "session s1: new\n"
    later = piped("Still there?")
    assert later.stdout == "'Still there?' after 2 others.\n"
    assert later.stderr == "session s1: 4 messages, the last just now\n"
    assert len(conversation()) == 6


def test_a_new_conversation_says_its_id(shop: Path) -> None:
    done = piped("Hello", arguments=("chat", "shop:clerk"))
    words, new = done.stderr.removeprefix("session ").strip().split(": ")
    assert (len(words), new) == (10, "new")
    assert json.loads(invoke("sessions", "show", words, "--json").stdout)["message_count"] == 2


def test_nothing_is_kept_of_a_conversation_in_which_nothing_was_said(shop: Path) -> None:
    assert piped().returncode == 0
    assert json.loads(invoke("sessions", "list", "--json").stdout) == {"total": 0, "sessions": []}


def test_a_question_is_answered_by_the_next_line(shop: Path) -> None:
    done = piped("reserve; approve; name", "yes", "Ann", "Thanks")
    assert done.stdout == "Given: reserved, approved: yes, name: 'Ann'.\n'Thanks' after 1 others.\n"
    assert "? Send the [31mparcel[0m?\n" in done.stderr
    assert done_by_tools() == ["reserve"]


def test_without_a_line_for_the_question_the_run_waits_and_the_code_says_so(shop: Path) -> None:
    done = piped("approve")
    assert (done.returncode, done.stdout) == (3, "")
    assert "agent-runtime resume shop:clerk s1 --answer 'approve=\"yes\"'" in done.stderr
    assert done.stderr.count("? Send the [31mparcel[0m?") == 1
    later = piped("/resume", "no")
    assert "unfinished: approve\n(begun just now; waits for an answer)\n/resume goes on with it\n" in later.stderr
    assert (later.returncode, later.stdout) == (0, "Given: approved: no.\n")


def test_the_code_of_a_pipe_is_that_of_the_last_run(shop: Path) -> None:
    bug = piped("bug")
    assert bug.returncode == 1
    assert "error: the run raised KeyError: 'price' (shop.py:" in bug.stderr
    assert piped("bug", "Hello").returncode == 0
    unknown = piped("/what")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "error: there is no command /what\nhint:  /help lists them" in unknown.stderr


def test_commands_are_few_and_a_space_makes_them_messages(shop: Path) -> None:
    done = piped("Hello", " /quit", "/help", "/history 2", "/history x", "/resume", "/discard", "/quit", "Never said")
    assert done.stdout == (
        "'Hello' after 0 others.\n'/quit' after 1 others.\nuser        /quit\nassistant   '/quit' after 1 others.\n"
    )
    assert "/discard      give that run up\n" in done.stderr
    assert "error: 'x' is not a number of messages\n" in done.stderr
    assert done.stderr.count("there is no unfinished run\n") == 2


def test_the_history_of_a_new_conversation_is_empty(shop: Path) -> None:
    done = piped("/history")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_run_that_was_given_up_is_gone(shop: Path) -> None:
    piped("reserve; approve")
    done = piped("/discard", "/resume")
    assert "given up: reserve; approve\nthere is no unfinished run\n" in done.stderr


def typed() -> Any:
    return terminal(*CHAT, cwd=Path.cwd(), columns=90)


def greeted(screen: Terminal) -> None:
    screen.after("Ctrl-D leaves, /help tells more")


def test_at_a_terminal_the_conversation_is_streamed_and_ctrl_d_leaves(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"Hello\n")
        screen.after("'Hello' after 0 others.\n")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0
    text = shown(screen)
    assert text.startswith(
        "session s1: new\nagent clerk\nCtrl-C ends an answer, Ctrl-D leaves, /help tells more\n\n> Hello\n"
    )
    assert text.endswith("> \ngo on another time with: agent-runtime chat shop:clerk --session s1\n")


def test_ctrl_c_ends_the_answer_and_not_the_conversation(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"endless\n")
        screen.after("word3", b"\x03")
        screen.after("cancelled; nothing is kept of it\n")
        screen.after("> ", b"reserve; endless\n")
        screen.after("word3", b"\x03")
        screen.after("cancelled; what it has finished is kept, and /resume goes on with it\n")
        screen.after("> ", b"Hello\n")
        screen.after("'Hello' after 0 others.\n")
        screen.after("> ", b"/resume\n")
        screen.after("word3", b"\x03")
        screen.after("> ", b"/quit\n")
        assert screen.finish() == 0
    assert shown(screen).count("tool  reserve\n") == 1
    assert "(recorded)" not in shown(screen)
    assert done_by_tools() == ["reserve"]
    assert conversation() == [("user", "Hello"), ("assistant", "'Hello' after 0 others.")]


@pytest.mark.parametrize(("target", "lines"), [("shop:logged", 0), ("shop:loud", 2)])
def test_log_lines_come_between_the_words_only_when_somebody_has_set_a_handler(
    shop: Path, target: str, lines: int
) -> None:
    with terminal("chat", target, cwd=shop, columns=90) as screen:
        greeted(screen)
        screen.after("> ", b"endless\n")
        screen.after("word3", b"\x03")
        screen.after("cancelled; nothing is kept of it\n")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0
    assert shown(screen).count("run_id=") == lines


def test_through_a_pipe_log_lines_go_to_standard_error(shop: Path) -> None:
    done = run_program("run", "shop:logged", "bug", cwd=shop)
    assert "run_id=" in done.stderr


def test_ctrl_c_at_the_prompt_says_how_to_leave(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after_prompt_ctrl_c("> ")
        screen.after("Ctrl-D leaves\n")
        screen.after("> ", b"Hello\n")
        screen.after("'Hello' after 0 others.\n")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0


def test_ctrl_c_at_a_question_leaves_it_open(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"approve\n")
        screen.after_prompt_ctrl_c("answer (yes, no): ")
        screen.after("the run waits; /resume asks again\n")
        screen.after("> ", b"/resume\n")
        screen.after("answer (yes, no): ", b"no\n")
        screen.after("Given: approved: no.\n")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0


@pytest.mark.parametrize("answer", [b"\n", b"n\n"], ids=["resumed", "later"])
def test_after_a_kill_the_next_chat_offers_to_go_on(shop: Path, answer: bytes) -> None:
    Path("hang").touch()
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"reserve; charge\n")
        while not Path("tools.log").exists() or "charge" not in done_by_tools():
            assert screen.process.poll() is None
        screen.process.kill()
        assert screen.process.wait(timeout=10) == -signal.SIGKILL
    Path("hang").unlink()
    with typed() as screen:
        screen.after("unfinished: reserve; charge\n")
        screen.after("resume it? [Y/n] ", answer)
        if answer != b"\n":
            screen.after("/resume goes on with it later, /discard gives it up")
            screen.after("> ", b"/resume\n")
        screen.after("(1, 2 or 3; empty decides later): ", b"3\n")
        screen.after("Given: reserved, charged.\n")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0
    assert done_by_tools() == ["reserve", "charge", "charge"]


def test_a_thread_that_nobody_can_stop_holds_nobody_back(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"stall\n")
        screen.after("stall\n", b"")
        while not Path("tools.log").exists():
            assert screen.process.poll() is None
        pressed = time.monotonic()
        screen.press(b"\x03")
        screen.after("cancelled; ")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0
    assert time.monotonic() - pressed < 10


def test_a_message_waits_for_a_session_that_a_dead_process_still_holds(shop: Path) -> None:
    Path("hang").touch()
    with started(*CHAT, cwd=shop) as process:
        assert process.stdin is not None
        process.stdin.write("reserve; charge\n")
        process.stdin.flush()
        while not Path("tools.log").exists() or "charge" not in done_by_tools():
            assert process.poll() is None
        process.kill()
        process.wait(timeout=10)
    done = piped("Hello")
    assert (done.returncode, done.stdout) == (0, "'Hello' after 0 others.\n")


def test_a_failure_is_told_and_the_conversation_goes_on(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"reserve; bug\n")
        screen.after("> ", b"bug\n")
        screen.after("the run raised KeyError: 'price'")
        screen.after("> ", b"Hello\n")
        screen.after("'Hello' after ")
        screen.after("> ", b"\x04")
        assert screen.finish() == 0
    assert "Traceback" not in screen.text


def test_ctrl_c_in_a_pipe_ends_it_and_says_how_to_go_on(shop: Path) -> None:
    with started(*CHAT, cwd=shop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("reserve; endless\nNever said\n")
        process.stdin.flush()
        assert process.stdout.read(5) == "word0"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.endswith("the run was cancelled; what it has finished is kept:\nagent-runtime resume shop:clerk s1\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["TERM", "HUP"])
def test_a_signal_that_ends_the_program_ends_the_conversation_and_not_only_the_answer(
    shop: Path, number: signal.Signals, code: int
) -> None:
    go_on = "interrupted; go on another time with: agent-runtime chat shop:clerk --session s1\n"
    for task, output, words in (
        ("Hello\n", "'Hello' after 0 others.\n", go_on),
        ("endless\n", "word3", go_on),
        (
            "reserve; endless\n",
            "word3",
            "interrupted; an unfinished run is kept:\nagent-runtime resume shop:clerk s1\n",
        ),
    ):
        with typed() as screen:
            greeted(screen)
            screen.after("> ", task.encode())
            screen.after(output)
            if output != "word3":
                screen.after("> ")
            screen.end(number)
            assert screen.finish() == code
        assert shown(screen).endswith(words)
    [kept] = json.loads(invoke("sessions", "show", "s1", "--json").stdout)["unfinished_runs"]
    assert (kept["status"], kept["held"]) == ("cancelled", False)


def test_a_terminal_that_is_closed_ends_the_conversation_and_frees_the_session(shop: Path) -> None:
    with typed() as screen:
        greeted(screen)
        screen.after("> ", b"reserve; endless\n")
        screen.after("word3")
        screen.close()
        assert screen.process.wait(timeout=10) == 129
    [kept] = json.loads(invoke("sessions", "show", "s1", "--json").stdout)["unfinished_runs"]
    assert (kept["status"], kept["held"]) == ("cancelled", False)


def test_a_reader_that_leaves_ends_the_conversation_quietly(shop: Path) -> None:
    with started(*CHAT, cwd=shop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("endless\n")
        process.stdin.flush()
        assert process.stdout.read(5) == "word0"
        process.stdout.close()
        assert process.wait(timeout=10) == 141
        assert process.stderr.read() == "session s1: new\n"


def test_with_no_input_at_all_it_leaves(shop: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m agent_runtime_adapters.cli chat shop:clerk --session s1 <&-'],
        cwd=shop,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "session s1: new\n")


def test_bytes_that_are_no_text_become_question_marks(shop: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *CHAT], cwd=shop, env=environment(), input=b"caf\xe9\n", capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.decode().startswith("'caf\ufffd' after 0 others.")


def test_without_an_executor_it_quotes_from_documents(docs: Path) -> None:
    options = ("chat", "--docs", str(docs), "--db", str(docs / "chat.db"), "--session", "s1")
    done = piped("When shall I water the tomatoes?", "Who won?", arguments=options)
    assert done.returncode == 0
    assert done.stdout.startswith("guide/water.md:5\nWater tomatoes every morning, never at noon.\n")
    assert "I found nothing in these documents that answers this." in done.stdout


def test_without_an_executor_a_model_of_the_environment_answers_and_remembers(shop: Path) -> None:
    with serve_chat() as server:
        server.script.extend([say("Hello."), say("You said hi.")])
        variables = {"AGENT_RUNTIME_MODEL": "served-1", "AGENT_RUNTIME_BASE_URL": server.url}
        done = piped("Hi", "What did I say?", arguments=("chat",), **variables)
    assert (done.returncode, done.stdout) == (0, "Hello.\nYou said hi.\n")
    assert "tools" not in server.requests[0].body
    assert [message["content"] for message in server.requests[1].body["messages"]] == [
        "Hi",
        "Hello.",
        "What did I say?",
    ]


def test_what_the_provider_refuses_is_told_and_the_next_line_is_taken(shop: Path) -> None:
    with serve_chat() as server:
        server.script.extend([refuse(401), say("Hello.")])
        variables = {"AGENT_RUNTIME_MODEL": "served-1", "AGENT_RUNTIME_BASE_URL": server.url}
        done = piped("Hi", "Hi again", arguments=("chat",), **variables)
    assert (done.returncode, done.stdout) == (0, "Hello.\n")
    assert "refused the API key" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shop:clrk",), "did you mean shop:clerk?"),
        (("shop:clerk", "--docs", "."), "error: --docs: shop:clerk has tools of its own\n"),
        (("shop:forgetful", "--db", "x.db"), "error: --db: shop:forgetful has a session_manager"),
        (
            ("shop:clerk", "--api-key-env", "NO_KEY", "--user", "ann"),
            "error: --api-key-env: the environment variable NO_KEY is not set\n",
        ),
        (("shop:clerk", "--api-key-env", "NO_KEY"), "error: --api-key-env needs --user\nhint:  name the key's owner"),
        (("shop:clerk", "--db", "no/such/folder.db"), "there is no folder for"),
        (("--docs", "nowhere"), "error: the documents folder does not exist: nowhere\n"),
        (("shop:clerk", "extra"), "extra"),
    ],
)
def test_wrong_use_says_what_to_do_and_exits_with_2(shop: Path, arguments: tuple[str, ...], message: str) -> None:
    done = invoke("chat", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(shop.glob("*.db")) == []


def test_a_database_that_breaks_meanwhile_is_told_for_each_line(shop: Path) -> None:
    with started(*CHAT, cwd=shop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("Hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "'Hello' after 0 others.\n"
        connection = sqlite3.connect("agent-runtime.db")
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f"DROP TABLE {table}")
        connection.commit()
        connection.close()
        rest, errors = process.communicate("Still there?\n/history\n", timeout=20)
    assert (process.returncode, rest) == (1, "")
    assert errors.count("error: the database file 'agent-runtime.db' is damaged, or its tables were changed") == 2
    assert "Traceback" not in errors


def test_a_session_id_that_cannot_be_one_is_told(shop: Path) -> None:
    done = invoke("chat", "shop:clerk", "--session", "a b")
    assert done.exit_code == 1
    assert "session_id" in done.stderr


def test_a_database_that_is_none_is_told(shop: Path) -> None:
    (shop / "notes.db").write_text("Just some notes, and quite a few more of them.\n" * 30, "utf-8")
    done = invoke("chat", "shop:clerk", "--db", "notes.db")
    assert done.exit_code == 1
    assert "is not a SQLite database" in done.stderr
    assert len(done.stderr.splitlines()) == 1
