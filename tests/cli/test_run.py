"""`agent-runtime run`, as a user types it."""

import json
import re
import signal
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.cli.program import ESCAPE, invoke, run_program, started
from tests.cli.terminal import terminal

from agent_runtime_adapters.cli.streaming import settled

ANSWER = "A dozen apples, and \x1b[31mred\x1b[0m ones.\n"


def test_the_answer_goes_to_standard_output_and_nothing_else_goes_anywhere(app_folder: Path) -> None:
    done = run_program("run", "app:executor", "How many?", cwd=app_folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_the_answer_in_one_piece_is_the_same(in_app_folder: None) -> None:
    done = invoke("run", "app:executor", "How many?", "--no-stream")
    assert (done.exit_code, done.stdout, done.stderr) == (0, ANSWER, "")


def test_json_is_one_document_also_of_a_run_that_fails(in_app_folder: None) -> None:
    good = invoke("run", "app:executor", "How many?", "--json")
    bad = invoke("run", "app:failing", "How many?", "--json")
    assert good.exit_code == 0
    assert json.loads(good.stdout)["success"] is True
    assert json.loads(good.stdout)["output"] == ANSWER.strip()
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["success"] is False
    assert json.loads(bad.stdout)["error_type"] == "authentication"
    assert bad.stderr == "error: authentication failed: present a credential that holds (authentication)\n"


def test_user_tenant_and_session_reach_the_agent(in_app_folder: None) -> None:
    done = invoke("run", "app:who", "Who?", "--user", "ann", "--tenant", "acme", "--session", "s1")
    assert done.stdout == "ann of acme, in s1\n"


def test_without_a_user_the_run_is_local(in_app_folder: None) -> None:
    assert invoke("run", "app:who", "Who?").stdout == "local of None, in None\n"


def test_a_key_comes_from_the_environment_and_is_never_shown(in_app_folder: None) -> None:
    missing = invoke("run", "app:failing", "x", "--api-key-env", "SHOP_KEY")
    wrong = invoke("run", "app:failing", "x", "--api-key-env", "SHOP_KEY", env={"SHOP_KEY": "ar_secret"})
    assert missing.exit_code == 2
    assert "SHOP_KEY is not set" in missing.stderr
    assert wrong.exit_code == 1
    assert "ar_secret" not in wrong.output


def test_a_run_that_takes_too_long_fails_with_its_deadline(in_app_folder: None) -> None:
    done = invoke("run", "app:streaming", "x", "--timeout", "0.2")
    assert done.exit_code == 1
    assert re.search(r"took longer than 0\.\d+ s: .*the context's deadline \(timeout\)\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere:executor", "x"), "error: there is no module 'nowhere'"),
        (("app:executer", "x"), "error: 'app' has no 'executer'\nhint:  did you mean app:executor?"),
        (("app", "x"), "error: 'app' is not MODULE:ATTRIBUTE\nhint:  write"),
        (("app:", "x"), "error: 'app:' is not MODULE:ATTRIBUTE"),
        (("app:shop", "x"), "error: app:shop is of type dict, not AgentExecutor\nhint:  name an AgentExecutor"),
        (("app:whoami", "x"), "error: app:whoami is of type function"),
        (("app:answering.nothing", "x"), "error: 'app' has no 'nothing'"),
        (
            ("app:broken_factory", "x"),
            "error: app:broken_factory() failed: ZeroDivisionError: division by zero (app.py:",
        ),
        (("broken:value", "x"), "error: module 'broken' does not import: AttributeError: module 'math' has no"),
        (("unfinished:value", "x"), "import: SyntaxError: '(' was never closed (unfinished.py, line 1)\n"),
        (("app.py:executor", "x"), "error: there is no module 'app.py'"),
        (("app.py:executor", "x"), "hint:  name the module without .py: app\n"),
        (("incomplete:value", "x"), "error: module 'incomplete' needs 'no_such_library', which is not installed"),
        (("app:who", "x", "--session", "s1", "--db", "x.db"), "error: --db: app:who has a session_manager"),
        (("app:executor", "x", "--timeout", "0"), "error: --timeout: 0 is not a number of seconds above zero"),
        (("app:executor", "x", "--timeout", "nan"), "error: --timeout: nan is not"),
        (("app:executor",), "Missing argument 'TASK'"),
    ],
)
def test_wrong_use_says_what_to_do_and_exits_with_2(
    in_app_folder: None, arguments: tuple[str, ...], message: str
) -> None:
    done = invoke("run", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_bug_in_the_agent_is_told_with_its_place_and_without_a_traceback(in_app_folder: None) -> None:
    done = invoke("run", "app:buggy", "x")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the run raised KeyError: 'price' (app.py:")
    assert len(done.stderr.splitlines()) == 2


def test_ctrl_c_in_a_stream_cancels_the_run_and_leaves_one_line(app_folder: Path) -> None:
    cleaned = app_folder / "cleaned"
    cleaned.unlink(missing_ok=True)
    with started("run", "app:streaming", "x", cwd=app_folder) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == "word0 "
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "interrupted; the run was cancelled\n"
    assert cleaned.exists()


def test_ctrl_c_does_not_wait_for_a_thread_that_nobody_can_stop(app_folder: Path) -> None:
    with terminal("run", "app:stalling", "x", cwd=app_folder, columns=60) as screen:
        screen.read_until("stall")
        pressed = time.monotonic()
        screen.press(b"\x03")
        assert screen.finish() == 130
    assert time.monotonic() - pressed < 10
    assert "interrupted; the run was cancelled" in screen.text


def test_a_signal_that_another_thread_was_given_is_heeded_soon() -> None:
    future: Future[None] = Future()
    timers = [
        threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)),
        threading.Timer(8, future.set_result, [None]),
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        for timer in timers:
            timer.start()
        with pytest.raises(KeyboardInterrupt):
            settled(future)
    finally:
        signal.signal(signal.SIGINT, before)
        for timer in timers:
            timer.cancel()
    assert time.monotonic() - began < 5


def test_a_reader_that_leaves_ends_the_run_quietly(app_folder: Path) -> None:
    cleaned = app_folder / "cleaned"
    cleaned.unlink(missing_ok=True)
    with started("run", "app:streaming", "x", cwd=app_folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(6) == "word0 "
        process.stdout.close()
        assert process.wait(timeout=10) == 141
        assert process.stderr.read() == ""
    assert cleaned.exists()


def test_a_file_gets_the_text_and_no_colours(app_folder: Path) -> None:
    done = run_program("explain", "app:executor", cwd=app_folder)
    assert done.returncode == 0
    assert ESCAPE not in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_a_terminal_gets_whole_words_in_its_width_and_no_foreign_control_characters(app_folder: Path) -> None:
    with terminal("run", "app:streaming", "x", "--timeout", "1.5", cwd=app_folder, columns=60) as screen:
        assert screen.finish() == 1
    answer = screen.text.partition(ESCAPE)[0].splitlines()
    assert len(answer) > 1
    assert all(len(line) <= 60 for line in answer)
    assert " ".join(answer).split() == [f"word{number}" for number in range(len(" ".join(answer).split()))]
    with terminal("run", "app:executor", "x", cwd=app_folder, columns=60) as screen:
        assert screen.finish() == 0
    assert screen.text == "A dozen apples, and [31mred[0m ones.\n"
