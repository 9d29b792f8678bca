"""The command line as a program of its own, and inside this process where that is enough."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner, Result

from agent_runtime_adapters.cli.app import app

COMMAND = (sys.executable, "-m", "agent_runtime_adapters.cli")
ESCAPE = "\x1b"

# What of this process's environment would change what the program shows or asks.
_TAKEN_OUT = ("AGENT_RUNTIME_", "OPENAI_", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what the program reads, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_TAKEN_OUT)}
    return {**kept, **variables}


def run_program(*arguments: str, cwd: Path, lines: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, `lines` and its output going through pipes."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def heed_ctrl_c() -> None:
    """Undo what a shell does to programs that it starts in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(
    *arguments: str, cwd: Path, before: Callable[[], None] = heed_ctrl_c, variables: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[str]]:
    """The program while it runs, after `before` in its process; ended with the block."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**(variables or {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def invoke(*arguments: str, env: Mapping[str, str | None] | None = None) -> Result:
    """Run the command inside this process."""
    cleared = {name: None for name in os.environ if name.startswith(_TAKEN_OUT)}
    return CliRunner().invoke(app, list(arguments), env={**cleared, **(env or {})})
