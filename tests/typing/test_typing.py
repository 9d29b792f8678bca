"""What must type-check and what must not.

Each file in `accepted/` passes mypy strict. In each file in `refused/` every line that ends in `# E: code` (or `# E: code, code`)
is refused with that, and no other line is. `make types` checks `accepted/` with pyright, too.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
REPORTED = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$", re.MULTILINE)
EXPECTED = re.compile(r"# E: (?P<codes>[a-z-]+(?:, [a-z-]+)*)$")


def errors_of_mypy(*files: Path) -> set[tuple[str, int, str]]:
    """`(file, line, code)` of all errors, under the project's own settings."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    found = list(REPORTED.finditer(done.stdout))
    assert done.stdout.count(": error: ") == len(found), done.stdout
    return {(Path(match["file"]).name, int(match["line"]), match["code"]) for match in found}


def marked_in(*files: Path) -> set[tuple[str, int, str]]:
    return {
        (file.name, number, code)
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if (match := EXPECTED.search(line))
        for code in match["codes"].split(", ")
    }


def test_correct_use_type_checks_and_wrong_use_does_not() -> None:
    accepted = sorted((HERE / "accepted").glob("*.py"))
    refused = sorted((HERE / "refused").glob("*.py"))
    assert accepted
    assert all(marked_in(file) for file in refused)
    assert errors_of_mypy(*accepted, *refused) == marked_in(*refused)
