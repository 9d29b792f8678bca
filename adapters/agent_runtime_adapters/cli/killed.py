"""The demo's last part: a process is killed in the middle of a tool, and another one goes on with its run."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from agent_runtime import AgentResult, Question, Resume
from agent_runtime_adapters.cli.exits import FAILED, INTERRUPTED, CommandFailed, Interrupted
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.order import CONTEXT, LEASE, SESSION, Done, Log, counted, order
from agent_runtime_adapters.cli.questions import ask
from agent_runtime_adapters.cli.run import failure
from agent_runtime_adapters.cli.sections import facts, title
from agent_runtime_adapters.cli.terminal import console
from agent_runtime_adapters.cli.turns import Turns, turns

_COLUMN = 18
_TOOL = 14
_PATIENCE = 30.0  # seconds for the process to come to the tool in which it is killed
_LOOK = 0.01  # seconds between two looks at its log
_LAST_WORDS = "stderr.txt"


def show_killed() -> None:
    """Show it on standard output. Raises `CommandFailed` when it does not go as it should."""
    with TemporaryDirectory(prefix="agent-runtime-demo-") as folder:
        Killed(console(), Path(folder)).show()


class Killed:
    """One order: begun in a process that is killed, finished in this one. What is told is read from the tools' log."""

    def __init__(self, out: Console, folder: Path) -> None:
        self._out = out
        self._folder = folder
        self._log = Log(folder)
        self._told = 0

    def show(self) -> None:
        """Raises `CommandFailed`."""
        title(
            self._out,
            "A process that is killed",
            "an order in four steps; its model is a script, its tools log what they do, SQLite keeps the run",
        )
        with _begun(self._folder) as process:
            self._wait_for("charge", process)
            process.kill()
            status = process.wait()
        self._fact(f"process {process.pid}", f"is killed, in the middle of charge (exit status {status})")
        with turns(order(self._folder)) as open_turns:
            result = self._go_on(open_turns)
        self._fact("result", result.output)
        title(self._out, "What the tools did", "counted in their log")
        for tool, times, processes in counted(self._log.read()):
            self._fact(tool, f"{times} ×, in process {', '.join(map(str, sorted(processes)))}")

    def _wait_for(self, tool: str, process: subprocess.Popen[bytes]) -> None:
        """Tell what the process does, until `tool` is in its log."""
        give_up = time.monotonic() + _PATIENCE
        while not any(done.tool == tool for done in self._tell()):
            if process.poll() is not None or time.monotonic() > give_up:
                words = (self._folder / _LAST_WORDS).read_text("utf-8", "replace").strip().splitlines()
                raise CommandFailed(
                    f"the demo's process did not come to {tool!r}", hint="".join(words[-1:]), code=FAILED
                )
            time.sleep(_LOOK)

    def _go_on(self, turns: Turns) -> AgentResult:
        [run] = turns.ask(turns.sessions.unfinished_runs, SESSION, owner=CONTEXT.owner)
        doubt = f"in doubt, as it was started and has no end: {', '.join(run.in_doubt) or 'nothing'}"
        self._fact("SQLite has", f"{run.steps} steps of the model and the tools; {doubt}")
        began = time.monotonic()
        turns.ask(_free, turns)
        waited = time.monotonic() - began
        self._fact("waited", f"{waited:.1f} s, until the lease of the dead process was over ({LEASE:g} s)")
        self._fact(f"process {os.getpid()}", "goes on with the run")
        result = self._run(turns, Resume())
        while result.questions:
            result = self._run(turns, Resume(answers=self._answers(result.questions)))
        if not result.success:
            raise failure(result)
        return result

    def _run(self, turns: Turns, resume: Resume) -> AgentResult:
        result = turns.run(CONTEXT, None, resume)
        self._tell()
        if result is None:
            raise Interrupted("interrupted; the run was cancelled", code=INTERRUPTED)
        return result

    def _answers(self, questions: Sequence[Question]) -> dict[str, Any]:
        """The person's; the first choice of each where nobody is there, or they leave it open."""
        lines = Lines()
        answers = ask(questions, lines) if lines.typed and self._out.is_terminal else None
        if answers is not None:
            self._out.print()
            return answers
        for question in questions:
            self._fact("question", f"{question.text} ({' or '.join(question.details['choices'])})")
            self._fact("answer", f"{question.details['choices'][0]} (the demo's own: nobody has answered)")
        return {question.key: question.details["choices"][0] for question in questions}

    def _tell(self) -> list[Done]:
        """Tell what is new in the log, and return all of it."""
        log = self._log.read()
        for done in log[self._told :]:
            self._fact(f"process {done.process}", f"{done.tool:<{_TOOL}}{done.what}")
        self._told = len(log)
        return log

    def _fact(self, name: str, value: str) -> None:
        facts(self._out, (name, value), column=_COLUMN)


@contextmanager
def _begun(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The process that begins the order; dead after the block."""
    command = (sys.executable, "-m", order.__module__, str(folder))
    with (
        (folder / _LAST_WORDS).open("wb") as words,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


async def _free(turns: Turns) -> None:
    async with turns.sessions.lease(SESSION, owner=CONTEXT.owner, ttl=LEASE, wait=_PATIENCE):
        pass
