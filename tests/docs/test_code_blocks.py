"""Each block of Python in README.md and docs/ runs, prints what its `#>` lines say, and is formatted as our code is."""

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

ROOT = Path(__file__).parents[2]
LINE_LENGTH = 120
INCLUDED = "--8<--"  # a program of examples/, which has its own test


def name_of(block: CodeExample) -> str:
    return f"{block.path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}-{block.start_line}"


BLOCKS = sorted(
    (block for block in find_examples(ROOT / "README.md", ROOT / "docs") if not block.source.startswith(INCLUDED)),
    key=name_of,
)


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_the_block_runs_and_prints_what_it_says(block: CodeExample, eval_example: EvalExample) -> None:
    eval_example.set_config(line_length=LINE_LENGTH, quotes="double", target_version="py310")
    before = sys.modules["__main__"]
    failure = ""
    try:
        (eval_example.run_print_update if eval_example.update_examples else eval_example.run_print_check)(block)
    except Exception as error:  # noqa: BLE001 - a block may raise anything, and pytest cannot show its made-up traceback
        failure = f"{block}: {type(error).__name__}: {error}"
    finally:
        sys.modules["__main__"] = before
    assert not failure, failure


def test_the_blocks_are_formatted_and_pass_the_linter(tmp_path: Path) -> None:
    for block in BLOCKS:
        # The formatter would put a space into "#>"; it leaves "#:" alone.
        source = block.source.replace("#>", "#:>")
        (tmp_path / f"{name_of(block)}.py").write_text(source, "utf-8")
    commands = (("format", "--diff"), ("check", "--ignore", "T20,ERA"))
    for command in commands:
        ruff = (sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", "--no-cache", tmp_path)
        done = subprocess.run(ruff, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
