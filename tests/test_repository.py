"""What holds for the files themselves: they are small, and they run on any machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("agent_runtime/agent_runtime", "middleware/agent_runtime_middleware", "adapters/agent_runtime_adapters")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# `folder/file.py` or `folder/file.py::function` -> why it is better in one piece.
LONGER_FOR_A_REASON: dict[str, str] = {
    "agent_runtime/context.py": "the context and the requests made from it refer to each other",
}

NOT_PORTABLE = re.compile(
    r"""
    (?<![\w.])/(?:root|home|work|Users)/\w          # a path of somebody's machine
    | \b[A-Z]:\\Users\\                             # the same on Windows
    | (?:pypi\.org/simple|pythonhosted\.org|registry\.npmjs)
    | (?:index|find)[-_](?:url|links)\s*[=:]\s*\S   # which registry is used is the user's business
    """,
    re.VERBOSE | re.IGNORECASE,
)
PASSWORD = re.compile(r"""://[^/\s:@'"]+:[^/\s@{<*'"]+@""")  # in an address
ABOUT_PASSWORDS = ("tests/adapters/", "tests/cli/")  # what becomes of one that is in an address


def project_files() -> list[Path]:
    """All files that are, or are about to be, in the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [file for name in listing.stdout.split("\0") if name and (file := ROOT / name).is_file()]


def lengths(folder: str) -> Iterator[tuple[str, int, int]]:
    """For each file and function: its name, its lines, its limit."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        name = file.relative_to(ROOT / folder).as_posix()
        text = file.read_text("utf-8")
        yield f"{Path(folder).name}/{name}", len(text.splitlines()), MAX_FILE_LINES
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{Path(folder).name}/{name}::{node.name}", lines, MAX_FUNCTION_LINES


def test_files_and_functions_are_small_or_listed_with_a_reason() -> None:
    measured = [item for folder in SOURCES for item in lengths(folder)]
    too_long = {name: lines for name, lines, limit in measured if lines > limit}
    assert too_long.keys() == LONGER_FOR_A_REASON.keys(), too_long


def test_no_branch_is_excluded_from_coverage_by_a_comment() -> None:
    found = [
        file for folder in SOURCES for file in (ROOT / folder).rglob("*.py") if "pragma:" in file.read_text("utf-8")
    ]
    assert found == []


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    assert _found(NOT_PORTABLE) == {}


def test_no_address_has_a_password_but_in_tests_of_what_becomes_of_it() -> None:
    found = _found(PASSWORD)
    assert {name: text for name, text in found.items() if not name.startswith(ABOUT_PASSWORDS)} == {}


def _found(pattern: re.Pattern[str]) -> dict[str, str]:
    """The first thing that the pattern finds in each file of the project."""
    return {
        file.relative_to(ROOT).as_posix(): match.group()
        for file in project_files()
        if (match := pattern.search(file.read_text("utf-8", errors="ignore")))
    }


@pytest.mark.parametrize(
    "text",
    [
        "cd /<>home/ann/x",
        "cd /<>work/main",
        "https://pypi<>.org/<>simple",
        "--index-url<>=https:",
    ],
)
def test_an_address_of_a_machine_is_found(text: str) -> None:
    assert NOT_PORTABLE.search(text.replace("<>", ""))  # which keeps this file itself free of them


def test_a_password_in_an_address_is_found() -> None:
    assert PASSWORD.search("https://ann:pw<>@host".replace("<>", ""))


@pytest.mark.parametrize("text", ["source/home/x", "redis://127.0.0.1:6379", "https://{user}:{key}@host", "~/home"])
def test_other_addresses_are_fine(text: str) -> None:
    assert NOT_PORTABLE.search(text) is None
    assert PASSWORD.search(text) is None
