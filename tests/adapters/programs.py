"""Programs of a few lines, in a process of their own."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent


def run_python(program: str, *arguments: str | Path, timeout: float = 60) -> str:
    """Run it to its end, which is a good one, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
