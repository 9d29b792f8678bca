"""Each program in `examples/` runs and prints what its last comment says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 60


def promised_output(program: Path) -> list[str]:
    """The comment after `# Output:` at the end of the file."""
    _, _, comment = program.read_text("utf-8").partition("\n# Output:\n")
    return [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()]


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda program: program.stem)
def test_the_example_prints_what_it_says_without_a_warning(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "utf8", program],
        env={name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rstrip() for line in done.stdout.splitlines()] == promised_output(program)


def test_the_examples_are_numbered_in_reading_order() -> None:
    numbers = [int(program.name.partition("_")[0]) for program in sorted(EXAMPLES.glob("*.py"))]
    assert numbers == list(range(1, len(numbers) + 1))
