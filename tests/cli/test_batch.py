"""`agent-runtime batch`, as a user types it: what it writes, and how it goes on from where it was ended."""

import json
import math
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.program import ESCAPE, invoke, run_program, started
from tests.cli.terminal import shown, terminal

from agent_runtime_adapters.cli.batch_summary import Times
from agent_runtime_adapters.cli.demo import default_docs
from agent_runtime_adapters.cli.library import read_library

OURS = ("batch", "labour:executor", "in.jsonl", "-o", "out.jsonl")
SLOWLY = {"LABOUR_TAKES": "0.05"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder with `labour.py` in it, and nothing else; the current one."""
    shutil.copy(Path(__file__).with_name("labour.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("labour", None)


def ask(folder: Path, tasks: Sequence[object], name: str = "in.jsonl") -> None:
    """Write a file of tasks; those that are numbers get an id."""
    lines = [{"id": f"q{task}", "task": str(task)} if isinstance(task, int) else task for task in tasks]
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")


def outcomes(folder: Path, name: str = "out.jsonl") -> list[dict[str, Any]]:
    """The lines of the output; each must be whole."""
    text = (folder / name).read_text("utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def logged(folder: Path, name: str) -> Counter[str]:
    """How often each task is in a log."""
    file = folder / name
    return Counter(file.read_text("utf-8").split()) if file.exists() else Counter()


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` has printed."""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_200_questions_over_the_docs_are_answered_in_one_command(tmp_path: Path) -> None:
    topics = dict.fromkeys(passage.heading.rpartition(" › ")[2] for passage in read_library(default_docs()).passages)
    questions = [{"id": n, "task": f"What is said about {t}?"} for n, t in enumerate(islice(cycle(topics), 200))]
    ask(tmp_path, questions)
    done = run_program("batch", "in.jsonl", "-o", "out.jsonl", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answers = outcomes(tmp_path)
    assert sorted(answer["id"] for answer in answers) == list(range(200))
    assert all(answer["success"] and answer["output"] for answer in answers)
    assert sum(".md:" in answer["output"] for answer in answers) > 150
    told = summary(done)
    assert (told["lines"], told["succeeded"], told["failed"], told["left"]) == (200, 200, {}, 0)
    times = told["execution_time_ms"]
    assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]


def test_a_line_of_the_output_says_where_it_belongs_and_what_came_of_it(folder: Path) -> None:
    ask(folder, [7])
    done = invoke(*OURS)
    [line] = outcomes(folder)
    assert done.exit_code == 0
    assert re.fullmatch("[0-9a-f]{16}", line.pop("input"))
    assert line.pop("execution_time_ms") > 0
    assert line.pop("run_id")
    usage = {"input_tokens": 10, "output_tokens": 2, "requests": 1}
    assert line == {
        "line": 1,
        "id": "q7",
        "success": True,
        "type": "result",
        "output": "done 7",
        "usage": usage,
    }


def test_a_task_may_be_a_string_and_a_line_may_say_whose_it_is(folder: Path) -> None:
    given = {"task": "whose", "user_id": "ann", "tenant_id": "acme", "metadata": {"page": 3}}
    text = f'\ufeff"whose"\r\n\r\n{json.dumps(given)}\n{json.dumps({"id": 3, "task": "whose"})}'
    (folder / "in.jsonl").write_text(text, "utf-8", newline="")
    done = invoke(*OURS, "--user", "bob", "--concurrency", "1")
    assert done.exit_code == 0
    assert [(line["line"], line.get("id"), line["output"]) for line in outcomes(folder)] == [
        (1, None, "bob of None, {}"),
        (3, None, "ann of acme, {'page': 3}"),
        (4, 3, "bob of None, {}"),
    ]


def test_a_line_that_is_no_task_fails_with_its_place_and_the_others_run(folder: Path) -> None:
    wrong: list[object] = [{"id": 1}, [17], {"id": "z", "task": "x", "notes": ""}, {"id": [], "task": 3}]
    ask(folder, [*wrong, 5])
    with (folder / "in.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n" + b"[" * 100_000 + b"\n")
    done = invoke(*OURS, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["failed"] == {"validation": 6}
    assert "6 of the lines cannot be run; the first is in.jsonl:1: no task: Object missing" in done.stderr
    lines = outcomes(folder)
    assert [line["line"] for line in lines] == [1, 2, 3, 4, 6, 7, 5]
    assert [line.get("id") for line in lines] == [1, None, "z", None, None, None, "q5"]
    assert all(line["error"].startswith(f"in.jsonl:{line['line']}: no task: ") for line in lines[:6])
    assert "unknown field `notes`" in lines[2]["error"]
    assert logged(folder, "begun.log") == {"5": 1}


def test_results_go_to_standard_output_and_nothing_else_does(folder: Path) -> None:
    done = run_program("batch", "labour:executor", "-", cwd=folder, lines='"1"\n"2"\n')
    assert done.returncode == 0
    assert sorted(json.loads(line)["output"] for line in done.stdout.splitlines()) == ["done 1", "done 2"]
    assert done.stderr.splitlines()[:3] == ["   lines       2", "   succeeded   2", "   failed      0"]
    assert re.search(r"^   time        p50 [\d.]+ ms, p95 .*, p99 .*, max [\d.]+ ms$", done.stderr, re.MULTILINE)
    assert "   tokens      20 in, 4 out\n" in done.stderr


def test_failures_are_counted_by_their_kind_and_a_bug_fails_its_line_only(folder: Path) -> None:
    for number, how in enumerate(("invalid", "limited", "limited", "bug")):
        (folder / f"fail-{number}").write_text(how, "utf-8")
    ask(folder, range(6))
    done = invoke(*OURS)
    assert done.exit_code == 1
    assert "   failed      4: rate_limit 2, internal 1, validation 1\n" in done.stdout
    kinds = {line["id"]: (line.get("error_type"), line.get("retry_after")) for line in outcomes(folder)}
    assert kinds["q0"] == ("validation", None)
    assert kinds["q1"] == kinds["q2"] == ("rate_limit", 3.0)
    assert kinds["q3"] == ("internal", None)


def test_a_bug_is_told_once_with_its_place_and_counted_in_the_summary(folder: Path) -> None:
    for number in range(3):
        (folder / f"fail-{number}").write_text("bug", "utf-8")
    (folder / "fail-3").write_text("other bug", "utf-8")
    ask(folder, range(5))
    done = invoke(*OURS)
    source = (folder / "labour.py").read_text("utf-8").splitlines()
    place = 1 + next(number for number, line in enumerate(source) if "raise FAILURES" in line)
    decoding = 1 + next(number for number, line in enumerate(source) if "json.loads" in line)
    assert done.exit_code == 1
    assert sorted(done.stderr.splitlines()) == [
        f"bug: JSONDecodeError (labour.py:{decoding}); told once, and counted in the summary",
        f"bug: KeyError (labour.py:{place}); told once, and counted in the summary",
        "the same command runs again what may succeed later; with --retry-failed, all that failed",
    ]
    bugs = {f"KeyError (labour.py:{place})": 3, f"JSONDecodeError (labour.py:{decoding})": 1}
    assert f"   bugs        {', '.join(f'{bug} {count}' for bug, count in bugs.items())}\n" in done.stdout
    assert "price" not in done.output
    again = invoke(*OURS, "--retry-failed", "--json")
    assert json.loads(again.stdout)["bugs"] == bugs


def test_going_on_runs_failed_lines_again_that_may_succeed_later_or_all_or_none(folder: Path) -> None:
    (folder / "fail-0").write_text("invalid", "utf-8")
    (folder / "fail-1").write_text("limited", "utf-8")
    ask(folder, range(4))
    assert invoke(*OURS).exit_code == 1
    none = invoke(*OURS, "--no-retry-failed", "--json")
    assert none.exit_code == 1
    assert json.loads(none.stdout)["done_before"] == {"succeeded": 2, "failed": 2}
    (folder / "fail-1").unlink()
    later = invoke(*OURS, "--json")
    assert later.exit_code == 1
    assert json.loads(later.stdout)["done_before"] == {"succeeded": 2, "failed": 1}
    assert json.loads(later.stdout)["succeeded"] == 1
    (folder / "fail-0").unlink()
    assert invoke(*OURS, "--retry-failed").exit_code == 0
    assert invoke(*OURS).exit_code == 0
    assert logged(folder, "ended.log") == {"0": 1, "1": 1, "2": 1, "3": 1}
    last = {line["id"]: line["success"] for line in outcomes(folder)}
    assert last == {"q0": True, "q1": True, "q2": True, "q3": True}


def test_no_more_runs_are_in_flight_than_is_said(folder: Path) -> None:
    ask(folder, range(30))
    done = run_program(*OURS, "--concurrency", "3", "--json", cwd=folder, **SLOWLY)
    assert done.returncode == 0
    assert summary(done)["seconds"] >= 0.5
    assert summary(done)["rate"] <= 60


def test_a_line_that_takes_too_long_fails_with_its_deadline(folder: Path) -> None:
    ask(folder, range(2))
    done = run_program(*OURS, "--timeout", "0.1", "--concurrency", "1", cwd=folder, LABOUR_TAKES="5")
    assert done.returncode == 1
    assert [line["error_type"] for line in outcomes(folder)] == ["timeout", "timeout"]


def test_killed_in_the_middle_it_goes_on_and_runs_no_finished_line_twice(folder: Path) -> None:
    ask(folder, range(120))
    with started(*OURS, cwd=folder, variables=SLOWLY) as process:
        wait_for_lines(folder, 30)
        process.kill()
        process.wait(timeout=30)
    kept = whole_lines(folder)
    finished = {line["id"].removeprefix("q") for line in kept}
    done = run_program(*OURS, "--json", cwd=folder)
    assert done.returncode == 0
    assert summary(done)["done_before"]["succeeded"] == len(kept) >= 30
    lines = outcomes(folder)
    assert lines[: len(kept)] == kept
    assert Counter(line["id"] for line in lines) == Counter(f"q{number}" for number in range(120))
    begun = logged(folder, "begun.log")
    assert {begun[task] for task in finished} == {1}
    assert sum(begun.values()) <= 120 + 8  # those that were in flight are begun again
    assert invoke(*OURS).exit_code == 0
    assert logged(folder, "begun.log") == begun


def wait_for_lines(folder: Path, count: int) -> None:
    give_up = time.monotonic() + 60
    while not (folder / "out.jsonl").exists() or len(whole_lines(folder)) < count:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def whole_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines that have an end, while they are written."""
    return [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").split("\n")[:-1]]


@pytest.mark.parametrize("size", [1, 5, 8, 40, -1])
def test_a_last_line_that_was_cut_short_is_dropped_and_run_again(folder: Path, size: int) -> None:
    ask(folder, range(3))
    invoke(*OURS, "--concurrency", "1")
    file = folder / "out.jsonl"
    *first, last, _ = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([*first, last[:size]]))
    assert invoke(*OURS).exit_code == 0
    assert [line["id"] for line in outcomes(folder)] == ["q0", "q1", "q2"]
    assert logged(folder, "begun.log") == {"0": 1, "1": 1, "2": 2}


def test_a_last_line_that_lacks_only_its_end_is_kept(folder: Path) -> None:
    ask(folder, range(2))
    invoke(*OURS)
    file = folder / "out.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    ask(folder, range(3))
    assert invoke(*OURS).exit_code == 0
    assert len(outcomes(folder)) == 3
    assert logged(folder, "begun.log") == {"0": 1, "1": 1, "2": 1}


def test_a_line_is_known_by_its_text_wherever_it_stands(folder: Path) -> None:
    ask(folder, [0, 1, 1, 2])
    assert invoke(*OURS).exit_code == 0
    ask(folder, [5, 2, 1, 1, 1, 0])
    assert invoke(*OURS).exit_code == 0
    assert logged(folder, "begun.log") == {"0": 1, "1": 3, "2": 1, "5": 1}


def test_a_line_that_was_edited_is_run_again_and_told(folder: Path) -> None:
    ask(folder, [0, 1])
    invoke(*OURS)
    ask(folder, [{"id": "q0", "task": "9"}, 1])
    done = invoke(*OURS)
    assert done.exit_code == 0
    assert done.stderr == "1 outcomes in out.jsonl are of lines that in.jsonl no longer has; they stay there\n"
    assert {line["id"]: line["output"] for line in outcomes(folder)} == {"q0": "done 9", "q1": "done 1"}


def test_an_output_that_is_not_this_inputs_is_refused_and_left_alone(folder: Path) -> None:
    ask(folder, [0, 1])
    invoke(*OURS)
    ask(folder, [2, 3])
    (folder / "notes.txt").write_text("my notes, without an end", "utf-8")
    (folder / "data.jsonl").write_text('{"line": 1}\n', "utf-8")
    (folder / "quiz.jsonl").write_text('{"line":1,"input":"What is 2+2?","success":true}\n', "utf-8")
    for name, message in [
        ("out.jsonl", "out.jsonl is the output of another input: no line of in.jsonl is in it"),
        ("notes.txt", "notes.txt:1 is no line of a batch's output"),
        ("data.jsonl", "data.jsonl:1 is no line of a batch's output"),
        ("quiz.jsonl", "quiz.jsonl:1 is no line of a batch's output"),
        ("in.jsonl", "in.jsonl is the input"),
    ]:
        before = (folder / name).read_bytes()
        done = invoke("batch", "labour:executor", "in.jsonl", "-o", name)
        assert done.exit_code == 2
        assert done.stderr == f"error: {message}\nhint:  name another file with --output\n"
        assert (folder / name).read_bytes() == before
    assert logged(folder, "begun.log") == {"0": 1, "1": 1}


def test_two_at_once_on_one_output_are_refused(folder: Path) -> None:
    ask(folder, range(100))
    with started(*OURS, cwd=folder, variables=SLOWLY):
        wait_for_lines(folder, 1)
        done = invoke(*OURS)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: out.jsonl is locked: ")
    assert "is another batch at work on it?" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_lets_those_in_flight_end_and_tells_how_to_go_on(
    folder: Path, number: signal.Signals, code: int
) -> None:
    ask(folder, range(200))
    with started(*OURS, cwd=folder, variables={"LABOUR_TAKES": "0.2"}) as process:
        wait_for_lines(folder, 9)
        process.send_signal(number)
        told, errors = process.communicate(timeout=30)
    assert process.returncode == code
    # At that moment one may have ended whose place is not taken yet.
    assert re.search(r"^ending: [1-8] runs have 10 s; Ctrl-C again cancels them$", errors, re.MULTILINE), errors
    left = re.search(r"^   left        (\d+)$", told, re.MULTILINE)
    assert left is not None
    assert errors.endswith(
        f"interrupted; {left[1]} lines are left; to go on:\nagent-runtime batch labour:executor in.jsonl -o out.jsonl\n"
    )
    assert len(outcomes(folder)) == 200 - int(left[1]) == logged(folder, "begun.log").total()
    assert logged(folder, "cancelled.log") == {}
    assert run_program(*OURS, cwd=folder).returncode == 0
    assert logged(folder, "ended.log") == {str(number): 1 for number in range(200)}


def test_a_second_ctrl_c_cancels_those_in_flight_and_their_lines_are_run_again(folder: Path) -> None:
    ask(folder, range(20))
    with started(*OURS, cwd=folder, variables={"LABOUR_TAKES": "60"}) as process:
        while logged(folder, "begun.log").total() < 8:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "ending: 8 runs have 10 s; Ctrl-C again cancels them\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("interrupted; 20 lines are left; to go on:\n")
    assert outcomes(folder) == []
    assert logged(folder, "cancelled.log").total() == 8
    assert run_program(*OURS, cwd=folder).returncode == 0
    assert len(outcomes(folder)) == 20


def test_after_the_grace_of_the_executor_those_in_flight_are_cancelled(folder: Path) -> None:
    ask(folder, range(20))
    with started("batch", "labour:hasty", "in.jsonl", cwd=folder, variables={"LABOUR_TAKES": "60"}) as process:
        while logged(folder, "begun.log").total() < 8:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        results, errors = process.communicate(timeout=30)
    assert (process.returncode, results) == (130, "")
    assert errors.endswith("interrupted; 20 lines are left; with --output FILE a batch can be gone on with\n")


def test_a_reader_that_leaves_ends_the_batch_quietly(folder: Path) -> None:
    ask(folder, range(500))
    with started("batch", "labour:executor", "in.jsonl", cwd=folder, variables=SLOWLY) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith('{"line":')
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""
    assert logged(folder, "begun.log").total() < 500


def test_a_disk_that_is_full_is_told_and_what_was_written_stays_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):  # the limit would hit coverage's own file too
        monkeypatch.delenv(name, raising=False)
    ask(folder, range(50))

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    with started(*OURS, cwd=folder, before=full) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        "error: cannot write out.jsonl: File too large\nhint:  what is in it stays; the same command goes on\n"
    )
    kept = outcomes(folder)
    assert 5 < len(kept) < 50
    assert run_program(*OURS, cwd=folder).returncode == 0
    assert Counter(line["id"] for line in outcomes(folder)) == Counter(f"q{number}" for number in range(50))


def test_a_device_that_takes_nothing_is_told(folder: Path) -> None:
    ask(folder, [1])
    done = run_program("batch", "labour:executor", "in.jsonl", "-o", "/dev/full", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot write /dev/full: No space left on device\n"


def test_a_terminal_gets_a_bar_in_its_width_and_the_summary(folder: Path) -> None:
    (folder / "fail-3").write_text("bug", "utf-8")
    ask(folder, range(40))
    with terminal(*OURS, cwd=folder, columns=60) as screen:
        assert screen.finish() == 1
    text = shown(screen)
    assert "/40" in text
    assert "1 failed" in text
    assert re.search(r"^bug: KeyError \(labour\.py:\d+\)", text, re.MULTILINE)
    assert "   succeeded   39\n" in text
    assert all(len(line) <= 60 for line in text.rpartition("succeeded")[2].splitlines())


def test_a_terminal_that_is_closed_ends_the_batch_as_ctrl_c_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABOUR_TAKES", "0.3")
    ask(folder, range(100))
    with terminal(*OURS, cwd=folder, columns=60) as screen:
        screen.read_until("/100")
        wait_for_lines(folder, 1)
        screen.close()
        assert screen.process.wait(timeout=30) == 129
    assert 8 <= len(outcomes(folder)) == logged(folder, "ended.log").total() < 100


def test_without_a_terminal_a_line_tells_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runtime_adapters.cli.batch_progress._EVERY", 0.0)
    ask(folder, range(3))
    done = invoke(*OURS)
    assert done.stderr == "1 of 3 lines\n2 of 3 lines\n3 of 3 lines\n"
    assert ESCAPE not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.jsonl",), "error: cannot read nowhere.jsonl: No such file or directory\n"),
        (("labour:executor",), "error: cannot read labour:executor: No such file or directory\nhint:  name it after"),
        (("labour", "in.jsonl"), "error: 'labour in.jsonl' is not [MODULE:ATTRIBUTE] INPUT\n"),
        (("a:b", "in.jsonl", "x"), "error: 'a:b in.jsonl x' is not [MODULE:ATTRIBUTE] INPUT\n"),
        (("labour:no", "in.jsonl"), "error: 'labour' has no 'no'\n"),
        (("labour:executor", "in.jsonl", "--docs", "."), "error: --docs: labour:executor has tools of its own\n"),
        (("labour:executor", "in.jsonl", "-o", "no/out"), "error: cannot write no/out: No such file or directory\n"),
        (("labour:executor", "in.jsonl", "-o", "."), "error: cannot write .: Is a directory\n"),
        (("labour:executor", "."), "error: cannot read .: Is a directory\n"),
        (("labour:executor", "in.jsonl", "--timeout", "0"), "error: --timeout: 0 is not a number of seconds above"),
        (("labour:executor", "in.jsonl", "--concurrency", "0"), "Invalid value for '--concurrency'"),
        (("labour:executor", "in.jsonl", "--api-key-env", "NO_KEY"), "the environment variable NO_KEY is not set"),
    ],
)
def test_wrong_use_says_what_to_do_and_exits_with_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    ask(folder, [1])
    done = invoke("batch", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_input_without_lines_is_nothing_to_do(folder: Path) -> None:
    (folder / "in.jsonl").write_text("\n\n", "utf-8")
    done = invoke(*OURS)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("   lines       0\n")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_a_percentile_is_the_smallest_time_that_so_many_do_not_pass(times: list[float]) -> None:
    found = Times.of(times)
    assert found is not None
    assert found.max == round(max(times), 3)
    for part, value in ((50, found.p50), (95, found.p95), (99, found.p99)):
        exact = next(t for t in sorted(times) if sum(x <= t for x in times) >= math.ceil(part * len(times) / 100))
        assert value == round(exact, 3)
