"""`agent-runtime explain` and `agent-runtime lint`."""

import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from tests.cli.program import invoke
from tests.cli.terminal import terminal, without_colours

TREE = """\
agent clerk

around the run
└── LoggingMiddleware         logging, from agent_runtime_middleware.logging
    └── TimeoutMiddleware     timeout, from agent_runtime_middleware.timeout
        └── the agent

around each model call
└── LoggingMiddleware         logging, from agent_runtime_middleware.logging
    └── RetryMiddleware       retry, from agent_runtime_middleware.retry
        └── the model client

around each tool call
└── LoggingMiddleware         logging, from agent_runtime_middleware.logging
    └── TimeoutMiddleware     timeout, from agent_runtime_middleware.timeout
        └── the tool
"""


pytestmark = pytest.mark.usefixtures("in_app_folder")


def test_explain_prints_a_tree_per_stage() -> None:
    done = invoke("explain", "app:executor")
    assert done.exit_code == 0
    assert done.stdout == TREE


def test_explain_says_which_stages_the_agent_does_not_reach() -> None:
    done = invoke("explain", "app:who")
    assert "around each" not in done.stdout
    assert "This agent reaches no model and no tool calls" in done.stdout


def test_explain_gives_the_same_to_programs() -> None:
    document = json.loads(invoke("explain", "app:executor", "--json").stdout)
    assert document["agent"] == "clerk"
    assert [layer["name"] for layer in document["stages"]["model"]["layers"]] == [
        "LoggingMiddleware",
        "RetryMiddleware",
    ]
    assert document["stages"]["run"]["layers"][0] == {
        "name": "LoggingMiddleware",
        "kind": "logging",
        "origin": "agent_runtime_middleware.logging.LoggingMiddleware",
        "inside": [],
        "declared": "",
    }


def test_a_terminal_of_60_columns_shows_one_line_per_layer(app_folder: Path) -> None:
    with terminal("explain", "app:executor", cwd=app_folder, columns=60) as screen:
        assert screen.finish() == 0
    plain = [line for line in screen.text.splitlines() if "──" in line]
    assert len(plain) == 9
    assert all(cell_len(without_colours(line)) <= 60 for line in plain)


def test_lint_of_a_good_onion_finds_nothing() -> None:
    done = invoke("lint", "app:executor")
    assert (done.exit_code, done.stdout) == (0, "Nothing found.\n")


def test_a_warning_has_code_reason_and_fix_and_is_no_failure() -> None:
    done = invoke("lint", "app:noisy")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "AR008 warning  run stage: AuthMiddleware outside LoggingMiddleware",
        "  What the outer layer refuses is not observed.",
        "  Fix: Put logging, tracing and metrics outside the layers that may refuse.",
        "",
        "0 errors, 1 warning",
    ]


def test_an_error_fails_the_command() -> None:
    done = invoke("lint", "app:doubled")
    assert done.exit_code == 1
    assert "AR007 error  model stage: RetryMiddleware outside second" in done.stdout


def test_lint_gives_the_same_to_programs() -> None:
    done = invoke("lint", "app:doubled", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 1
    assert document["errors"] == 1
    assert document["findings"][0]["code"] == "AR007"


def test_a_wrong_module_is_wrong_use_here_too() -> None:
    for command in ("explain", "lint"):
        done = invoke(command, "nowhere:executor")
        assert (done.exit_code, done.stdout) == (2, "")
