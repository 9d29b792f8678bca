"""`agent-runtime run --session`, killed, interrupted or suspended, and `agent-runtime resume`."""

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.program import ESCAPE, invoke, started
from tests.cli.terminal import shown, terminal

from agent_runtime_middleware.auth import ApiKeys

WAITS = 3
RESUME = ("resume", "shop:clerk", "s1")
ENDING = pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["TERM", "HUP"])


def run(shop: Path, task: str, *arguments: str, target: str = "shop:clerk") -> Any:
    return invoke("run", target, task, "--session", "s1", *arguments)


def resume(shop: Path, *arguments: str) -> Any:
    return invoke(*RESUME, *arguments)


def done_by_tools(shop: Path) -> list[str]:
    """What the tools say that they did, in order."""
    return [line.split()[0] for line in (shop / "tools.log").read_text("utf-8").splitlines()]


def kill_inside(shop: Path, tool: str, task: str) -> None:
    """Run the task in a process, and kill it when `tool` has begun."""
    (shop / "hang").touch()
    with started("run", "shop:clerk", task, "--session", "s1", cwd=shop) as process:
        while not (shop / "tools.log").exists() or tool not in done_by_tools(shop):
            assert process.poll() is None
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL
    (shop / "hang").unlink()


def unfinished(shop: Path) -> list[Any]:
    shown_as_json = invoke("sessions", "show", "s1", "--json")
    found: list[Any] = json.loads(shown_as_json.stdout)["unfinished_runs"]
    return found


def test_a_conversation_of_an_executor_without_sessions_is_kept_in_the_file(shop: Path) -> None:
    assert run(shop, "Hello").stdout == "'Hello' after 0 others.\n"
    assert (shop / "agent-runtime.db").exists()
    assert run(shop, "Again").stdout == "'Again' after 1 others.\n"
    assert run(shop, "Again", "--user", "ann").stdout == "'Again' after 0 others.\n"
    assert run(shop, "Again", "--db", "other.db").stdout == "'Again' after 0 others.\n"


def test_without_a_session_nothing_is_kept(shop: Path) -> None:
    assert invoke("run", "shop:clerk", "Hello").exit_code == 0
    assert not (shop / "agent-runtime.db").exists()


def test_a_run_that_waits_ends_with_3_and_says_how_to_answer(shop: Path) -> None:
    done = run(shop, "reserve; approve")
    assert (done.exit_code, done.stdout) == (WAITS, "")
    assert done.stderr == (
        "\n? Send the [31mparcel[0m?\n"
        '  parcel  {"grams": 300, "from": "\\u001b[31mred\\u001b[0m"}\n'
        "\nthe run waits for an answer; go on with\n"
        "agent-runtime resume shop:clerk s1 --answer 'approve=\"yes\"'\n"
    )
    assert ESCAPE not in done.stderr
    answered = resume(shop, "--answer", 'approve="yes"')
    assert (answered.exit_code, answered.stdout, answered.stderr) == (0, "Given: reserved, approved: yes.\n", "")
    assert done_by_tools(shop) == ["reserve"]


def test_the_command_that_is_told_names_all_that_is_not_usual(shop: Path) -> None:
    done = run(shop, "approve", "--user", "Ann A.", "--tenant", "acme", "--db", "other.db")
    command = (
        "agent-runtime resume shop:clerk s1 --user 'Ann A.' --tenant acme --db other.db --answer 'approve=\"yes\"'"
    )
    assert done.stderr.splitlines()[-1] == command


def test_a_run_that_waits_as_json_has_its_questions(shop: Path) -> None:
    documents = [json.loads(done.stdout) for done in (run(shop, "approve", "--json"), resume(shop, "--json"))]
    for document in documents:
        assert document["success"] is False
        assert document["error_type"] == "suspended"
        assert [question["key"] for question in document["questions"]] == ["approve"]
    assert documents[1]["resumed_from"] == documents[0]["run_id"]
    answered = resume(shop, "--json", "--answer", 'approve="no"')
    assert (answered.exit_code, answered.stderr) == (0, "")
    assert json.loads(answered.stdout)["output"] == "Given: approved: no."


def test_without_a_terminal_and_an_answer_the_question_is_told_again(shop: Path) -> None:
    run(shop, "approve; name")
    again = resume(shop)
    assert (again.exit_code, again.stdout) == (WAITS, "")
    assert "agent-runtime resume shop:clerk s1 --answer 'approve=\"yes\"'\n" in again.stderr
    next_question = resume(shop, "--answer", 'approve="yes"')
    assert next_question.exit_code == WAITS
    assert "agent-runtime resume shop:clerk s1 --answer 'name=\"...\"'\n" in next_question.stderr
    assert resume(shop, "--answer", 'name={"first": "Ann"}').stdout == "Given: approved: yes, name: {'first': 'Ann'}.\n"


def test_on_a_terminal_each_question_is_asked_until_the_run_ends(shop: Path) -> None:
    run(shop, "approve; name")
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("answer (yes, no): ", b"perhaps\n")
        screen.after("'perhaps' is none of them")
        screen.after("answer (yes, no): ", b"YES\n")
        screen.after("answer: ", b"Ann of Cleves\n")
        assert screen.finish() == 0
    assert "Given: approved: yes, name: 'Ann of Cleves'.\n" in shown(screen)
    assert "recorded steps are not done again" in shown(screen)


@pytest.mark.parametrize("keys", [b"\n", b"\x04", b"\x03"])
def test_a_question_can_be_left_for_later(shop: Path, keys: bytes) -> None:
    run(shop, "approve")
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        if keys == b"\x03":
            screen.after_prompt_ctrl_c("answer (yes, no): ")
        else:
            screen.after("answer (yes, no): ", keys)
        assert screen.finish() == WAITS
    assert "the run waits for an answer; go on with\n" in shown(screen)
    assert unfinished(shop)[0]["status"] == "suspended"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("approve", "error: --answer: 'approve' is not KEY=JSON\nhint:  such as"),
        ("=1", "error: --answer: '=1' is not KEY=JSON"),
        (
            "approve=yes",
            "error: --answer: 'yes' is not JSON\nhint:  text goes into quotes: --answer 'approve=\"yes\"'\n",
        ),
        ("approve=", "error: --answer: '' is not JSON"),
        ("approve=NaN", "error: --answer: 'NaN' is not JSON"),
        ("approve=" + "[" * 100_000, "is not JSON"),
        ('approve="perhaps"', 'error: --answer: \'approve\' takes one of "yes", "no"\n'),
        ('aprove="yes"', "error: --answer: nobody asked for 'aprove'; the run waits for 'approve'\n"),
    ],
)
def test_a_wrong_answer_is_told_and_the_run_still_waits(shop: Path, answer: str, message: str) -> None:
    run(shop, "approve")
    done = resume(shop, "--answer", answer)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert unfinished(shop)[0]["status"] == "suspended"


def test_an_answer_given_twice_is_wrong(shop: Path) -> None:
    run(shop, "approve")
    done = resume(shop, "--answer", 'approve="yes"', "--answer", 'approve="no"')
    assert (done.exit_code, done.stderr) == (2, "error: --answer: 'approve' is answered twice\n")


def test_a_run_killed_in_a_tool_goes_on_and_no_tool_is_started_twice(shop: Path) -> None:
    kill_inside(shop, "charge", "reserve; charge")
    asked = resume(shop)
    assert asked.exit_code == WAITS
    assert "? Tool 'charge' was started, and nobody knows whether it ended. What became of it?\n" in asked.stderr
    assert '  arguments  {"note": "fragile"}\n' in asked.stderr
    [run_kept] = unfinished(shop)
    key = run_kept["questions"][0]["key"]
    wrong = resume(shop, "--answer", f'{key}="done"')
    assert (wrong.exit_code, wrong.stderr.splitlines()[0]) == (
        2,
        'error: --answer: "done" decides nothing about a tool call in doubt',
    )
    decided = resume(shop, "--answer", f'{key}={{"result": "charged before"}}')
    assert (decided.exit_code, decided.stdout) == (0, "Given: reserved, charged before.\n")
    assert done_by_tools(shop) == ["reserve", "charge"]
    assert unfinished(shop) == []


@pytest.mark.parametrize(
    ("keys", "output", "tools"),
    [
        ((b"4\n", b"1\n", b"charged before\n"), "Given: reserved, charged before.", ["reserve", "charge"]),
        ((b"2\n", b"no money\n"), 'Given: reserved, {"error":"no money","error_type":"tool"}.', ["reserve", "charge"]),
        ((b"3\n",), "Given: reserved, charged.", ["reserve", "charge", "charge"]),
    ],
    ids=["it happened", "it failed", "it did not happen"],
)
def test_on_a_terminal_a_call_in_doubt_is_decided_in_three_ways(
    shop: Path, keys: tuple[bytes, ...], output: str, tools: list[str]
) -> None:
    kill_inside(shop, "charge", "reserve; charge")
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        prompts = iter(("(1, 2 or 3; empty decides later): ",) * (len(keys) - 1 or 1) + (": ",))
        for key in keys:
            screen.after(next(prompts), key)
        assert screen.finish() == 0
    assert f"{output}\n" in shown(screen)
    assert done_by_tools(shop) == tools


def test_a_call_in_doubt_is_shown_as_one_and_its_question_once(shop: Path) -> None:
    kill_inside(shop, "charge", "reserve; charge")
    early = resume(shop, "--answer", 'approve="yes"')
    assert (early.exit_code, early.stderr) == (
        2,
        "error: --answer: no question is open yet\nhint:  resume without --answer first\n",
    )
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("(1, 2 or 3; empty decides later): ", b"\n")
        assert screen.finish() == WAITS
    assert "tool  reserve (recorded)\ntool  charge (in doubt)\n" in shown(screen)
    assert shown(screen).count("\n? ") == 1
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("(1, 2 or 3; empty decides later): ", b"3\n")
        assert screen.finish() == 0
    assert "tool  reserve (recorded)\ntool  charge\n" in shown(screen)


@pytest.mark.parametrize("kind", [b"1\n", b"2\n"], ids=["it happened", "it failed"])
def test_an_empty_line_settles_no_call_in_doubt(shop: Path, kind: bytes) -> None:
    kill_inside(shop, "charge", "reserve; charge")
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("(1, 2 or 3; empty decides later): ", kind)
        screen.after(" (empty decides later): ", b"\n")
        assert screen.finish() == WAITS
    [kept] = unfinished(shop)
    assert (kept["status"], kept["in_doubt"]) == ("suspended", ["charge"])
    assert done_by_tools(shop) == ["reserve", "charge"]


def test_a_running_process_keeps_its_session(shop: Path) -> None:
    (shop / "hang").touch()
    with started("run", "shop:clerk", "reserve; charge", "--session", "s1", cwd=shop) as process:
        while not (shop / "tools.log").exists() or "charge" not in done_by_tools(shop):
            assert process.poll() is None
        done = resume(shop)
        assert process.poll() is None
    assert done.exit_code == 1
    assert "the session is still held; its process may be gone, so this waits for up to 3 s\n" in done.stderr
    assert "is held by another run" in done.stderr
    assert done_by_tools(shop) == ["reserve", "charge"]


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(shop: Path) -> None:
    with terminal("run", "shop:clerk", "reserve; endless", "--session", "s1", cwd=shop, columns=90) as screen:
        screen.after("word3", b"\x03")
        assert screen.finish() == 130
    assert shown(screen).endswith("to go on from what it has finished:\nagent-runtime resume shop:clerk s1\n")
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("word3", b"\x03")
        assert screen.finish() == 130
    assert shown(screen).endswith(
        "\ninterrupted; the run was cancelled; what it has finished is kept:\nagent-runtime resume shop:clerk s1\n"
    )
    assert done_by_tools(shop) == ["reserve"]


@ENDING
def test_a_signal_that_ends_the_program_keeps_what_was_finished_as_ctrl_c_does(
    shop: Path, number: signal.Signals, code: int
) -> None:
    for command in (("run", "shop:clerk", "reserve; endless", "--session", "s1"), RESUME):
        with started(*command, cwd=shop) as process:
            assert process.stdout is not None
            assert process.stdout.read(5) == "word0"
            process.send_signal(number)
            _, errors = process.communicate(timeout=10)
        assert process.returncode == code
        assert errors.startswith("interrupted; the run was cancelled; ")
        assert errors.endswith(
            "what it has finished is kept:\nagent-runtime resume shop:clerk s1\n"
            if command is RESUME
            else "to go on from what it has finished:\nagent-runtime resume shop:clerk s1\n"
        )
        [kept] = unfinished(shop)
        assert (kept["status"], kept["held"]) == ("cancelled", False)
    assert done_by_tools(shop) == ["reserve"]


def test_a_program_that_is_to_outlive_its_terminal_does(shop: Path) -> None:
    with started("run", "shop:clerk", "endless", cwd=shop, before=ignore_hangup) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == "word0"
        process.send_signal(signal.SIGHUP)
        assert "word50" in process.stdout.read(500)
        process.terminate()
        assert process.wait(timeout=10) == 143


def ignore_hangup() -> None:
    """What `nohup` does, and a shell without job control to what it starts in the background."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def test_a_reader_that_leaves_ends_the_resumed_run_quietly(shop: Path) -> None:
    with terminal("run", "shop:clerk", "reserve; endless", "--session", "s1", cwd=shop, columns=90) as screen:
        screen.after("word3", b"\x03")
        assert screen.finish() == 130
    with started(*RESUME, cwd=shop) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == "word0"
        process.stdout.close()
        assert process.wait(timeout=10) == 141
        assert process.stderr.read() == ""


def test_a_failed_run_is_tried_again_by_a_resume(shop: Path) -> None:
    done = run(shop, "reserve; endless", "--timeout", "0.5")
    assert done.exit_code == 1
    assert unfinished(shop)[0]["status"] == "timeout"
    with terminal(*RESUME, cwd=shop, columns=90) as screen:
        screen.after("word3", b"\x03")
        assert screen.finish() == 130
    assert done_by_tools(shop) == ["reserve"]


def test_the_run_can_be_named_by_any_of_its_ids(shop: Path) -> None:
    first = json.loads(run(shop, "approve", "--json").stdout)["run_id"]
    second = json.loads(resume(shop, "--json").stdout)["run_id"]
    json.loads(resume(shop, "--json").stdout)
    third = json.loads(run(shop, "name", "--json").stdout)["run_id"]
    wrong = resume(shop, "--run", "18ea0000", "--answer", 'approve="yes"')
    assert wrong.exit_code == 1
    assert "has no unfinished run '18ea0000'" in wrong.stderr
    answered = resume(shop, "--run", second, "--answer", 'approve="yes"')
    assert answered.stdout == "Given: approved: yes.\n"
    assert resume(shop, "--run", first).exit_code == 1
    assert resume(shop, "--run", third, "--answer", 'name="Ann"').exit_code == 0


def test_before_a_session_is_deleted_what_is_at_stake_is_told(shop: Path) -> None:
    (shop / "hang").touch()
    question = "Delete session s1 with 0 messages? [y/N] "
    with started("run", "shop:clerk", "reserve; charge", "--session", "s1", cwd=shop) as process:
        while not (shop / "tools.log").exists() or "charge" not in done_by_tools(shop):
            assert process.poll() is None
        with terminal("sessions", "delete", "s1", cwd=shop, columns=90) as screen:
            screen.after(f"a run is at work on it\na call of 'charge' is in doubt\n{question}", b"n\n")
            assert screen.finish() == 1
    run(shop, "approve", "--user", "ann")
    with terminal("sessions", "delete", "s1", "--user", "ann", cwd=shop, columns=90) as screen:
        screen.after(f"a run waits for an answer\n{question}", b"y\n")
        assert screen.finish() == 0


def test_an_unfinished_run_can_be_given_up(shop: Path) -> None:
    run(shop, "approve")
    [kept] = unfinished(shop)
    told = invoke("sessions", "show", "s1").stdout
    assert f"run         {kept['run_id']} waits for an answer\n" in told
    assert "asks        approve: Send the [31mparcel[0m?\n" in told
    assert "a run waits for an answer\n" in invoke("sessions", "list").stdout
    export = invoke("sessions", "export", "s1", "-o", "x.session")
    assert export.stderr == "1 unfinished run stays behind\n"
    gone = invoke("sessions", "discard", "s1", kept["run_id"], "--yes")
    assert (gone.exit_code, gone.stdout, gone.stderr) == (0, "", "")
    assert unfinished(shop) == []


def test_other_tools_than_the_run_began_with_are_refused_unless_allowed(shop: Path) -> None:
    run(shop, "approve")
    changed = ("resume", "shop:fewer", "s1", "--answer", 'approve="yes"')
    refused = invoke(*changed)
    assert refused.exit_code == 1
    assert "the agent's tools have changed" in refused.stderr
    allowed = invoke(*changed, "--allow-changed")
    assert (allowed.exit_code, allowed.stdout) == (0, "Given: approved: yes.\n")


def test_with_an_auth_layer_the_key_comes_from_the_environment(shop: Path) -> None:
    key, record = ApiKeys.generate("ann")
    variables = {"SHOP_KEY": key.reveal(), "SHOP_RECORD": msgspec.json.encode(record).decode()}
    options = ("--user", "ann", "--api-key-env", "SHOP_KEY")
    begun = invoke("run", "shop:guarded", "approve", "--session", "s1", *options, env=variables)
    assert begun.exit_code == WAITS
    command = "agent-runtime resume shop:guarded s1 --user ann --api-key-env SHOP_KEY --answer 'approve=\"yes\"'"
    assert begun.stderr.splitlines()[-1] == command
    answer = ("resume", "shop:guarded", "s1", "--answer", 'approve="yes"')
    without = invoke(*answer, "--user", "ann", env=variables)
    assert (without.exit_code, "(authentication)" in without.stderr) == (1, True)
    assert invoke(*answer, *options, env=variables).stdout == "Given: approved: yes.\n"


@pytest.mark.parametrize("user", ["ann", "local"])
def test_the_command_that_is_told_names_the_owner_of_the_key(shop: Path, user: str) -> None:
    key, record = ApiKeys.generate(user, tenant="acme")
    variables = {"SHOP_KEY": key.reveal(), "SHOP_RECORD": msgspec.json.encode(record).decode()}
    options = ("--api-key-env", "SHOP_KEY", "--session", "s1")
    begun = invoke("run", "shop:guarded", "approve", *options, env=variables)
    told = begun.stderr.splitlines()[-1]
    owner = f"--user {user} --tenant acme"
    assert told == f"agent-runtime resume shop:guarded s1 {owner} --api-key-env SHOP_KEY --answer 'approve=\"yes\"'"
    kept = invoke("sessions", "show", "s1", "--user", user, "--tenant", "acme", "--db", "agent-runtime.db")
    show_owner = owner if user != "local" else "--tenant acme"
    assert (
        f"go on with  agent-runtime resume MODULE:ATTRIBUTE s1 {show_owner} --db agent-runtime.db --run " in kept.stdout
    )
    answered = invoke(*shlex.split(told)[1:], env=variables)
    assert (answered.exit_code, answered.stdout) == (0, "Given: approved: yes.\n")


def test_the_command_that_is_told_after_ctrl_c_names_the_owner_of_the_key(shop: Path) -> None:
    key, record = ApiKeys.generate("ann")
    variables = {"SHOP_KEY": key.reveal(), "SHOP_RECORD": msgspec.json.encode(record).decode()}
    options = ("--api-key-env", "SHOP_KEY", "--session", "s1")
    with started("run", "shop:guarded", "reserve; endless", *options, cwd=shop, variables=variables) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == "word0"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert errors.splitlines()[-1] == "agent-runtime resume shop:guarded s1 --user ann --api-key-env SHOP_KEY"


def test_a_key_without_its_user_is_refused_at_once(shop: Path) -> None:
    done = invoke(*RESUME, "--api-key-env", "SHOP_KEY")
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, "error: --api-key-env needs --user")


@pytest.mark.parametrize("arguments", [("--user", "bob"), ("--tenant", "acme")])
def test_another_owners_session_looks_absent(shop: Path, arguments: tuple[str, ...]) -> None:
    run(shop, "approve")
    done = resume(shop, *arguments)
    assert done.exit_code == 1
    assert "there is no session 's1' of user" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("shop:clerk", "s2"), 1, "error: there is no session 's2' of user 'local'\n"),
        (("shop:clerk", "s1"), 1, "error: session 's1' of user 'local' has no unfinished run\n"),
        (("shop:clerk",), 2, "error: 'shop:clerk' is not [MODULE:ATTRIBUTE] SESSION\n"),
        (("shop", "s1"), 2, "error: 'shop s1' is not [MODULE:ATTRIBUTE] SESSION\n"),
        (("shop:clerk", "s1", "s2"), 2, "is not [MODULE:ATTRIBUTE] SESSION\n"),
        ((), 2, "Missing argument"),
        (("shop:clrk", "s1"), 2, "did you mean shop:clerk?"),
        (("shop:clerk", "s1", "--db", "no.db"), 2, "error: there is no database no.db\n"),
        (("shop:forgetful", "s1", "--db", "x.db"), 2, "error: --db: shop:forgetful has a session_manager"),
        (("shop:clerk", "a b"), 1, "session_id"),
    ],
)
def test_wrong_use_says_what_to_do(shop: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    assert run(shop, "Hello").exit_code == 0
    done = invoke("resume", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in shop.glob("*.db")) == ["agent-runtime.db"]


def test_an_agent_that_keeps_no_steps_leaves_nothing_to_resume(shop: Path) -> None:
    assert run(shop, "x", target="shop:simple").stdout == "Hello local.\n"
    done = invoke("resume", "shop:simple", "s1")
    assert (done.exit_code, done.stderr) == (1, "error: session 's1' of user 'local' has no unfinished run\n")


def test_a_database_that_is_damaged_meanwhile_is_told(shop: Path) -> None:
    run(shop, "approve")
    file = shop / "agent-runtime.db"
    os.truncate(file, file.stat().st_size // 2)
    done = resume(shop)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
