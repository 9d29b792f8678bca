"""`agent-runtime explain` and `agent-runtime lint`."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from tests.cli.program import invoke
from tests.cli.terminal import terminal, without_colours

from agent_runtime import AgentContext, AgentExecutor
from agent_runtime_adapters.cli.onion import onion
from agent_runtime_middleware.timeout import TimeoutMiddleware

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


@pytest.mark.parametrize("columns", [100, 80, 60, 40, 20])
def test_in_a_narrow_terminal_no_line_is_longer_and_nothing_is_left_out(app_folder: Path, columns: int) -> None:
    (app_folder / "deep.toml").write_text(
        '[[layers]]\nuse = "timeout"\nname = "a layer with a long name of its own"\nrun = 3\n[[layers]]\nuse = "retry"\n',
        "utf-8",
    )
    for target in ("app:executor", "deep.toml"):
        with terminal("explain", target, cwd=app_folder, columns=columns) as screen:
            assert screen.finish() == 0
        lines = without_colours(screen.text).splitlines()
        assert all(cell_len(line) <= columns for line in lines)
        if columns >= 40:  # the names of inner layers need as many
            assert all(line == line.rstrip() for line in lines)
            told = re.sub(r"[\s│└─]", "", "".join(lines))
            assert re.sub(r"[\s│└─]", "", invoke("explain", target).stdout) == told


def test_the_file_and_line_of_a_layer_are_whole_at_80_columns(app_folder: Path) -> None:
    (app_folder / "short.toml").write_text('[[layers]]\nuse = "tracing"\n', "utf-8")
    with terminal("explain", "short.toml", cwd=app_folder, columns=80) as screen:
        assert screen.finish() == 0
    assert "short.toml:1\n" in without_colours(screen.text).replace("\r", "")


def test_words_that_fit_stand_beside_the_layer_also_in_little_room() -> None:
    executor = AgentExecutor(never, middleware=[TimeoutMiddleware(run=1)])
    out = Console(width=40, file=StringIO())
    with out.capture() as shown:
        out.print(onion(executor, lambda stage, layer: "1 × 2 ms", 40))
    assert shown.get().splitlines()[1:] == ["└── TimeoutMiddleware  1 × 2 ms", "    └── the agent      1 × 2 ms"]


async def never(context: AgentContext) -> str:
    raise AssertionError("no run is made")


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
