"""How far a batch is: a bar on a terminal, now and then a line elsewhere."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from agent_runtime_adapters.cli.batch_summary import Tally
from agent_runtime_adapters.cli.terminal import console, notice, printable

_EVERY = 5.0  # seconds between two lines


class Told(Protocol):
    """Is told after each line, with the bug that it has shown first; what has ended since is in the tally."""

    def __call__(self, bug: str | None, /) -> None: ...


@contextmanager
def progress(tally: Tally, total: int, *, bar: bool) -> Generator[Told]:
    """Shows on standard error how many of `total` lines have ended, until the block is left."""
    before = tally.ended
    if not bar:
        yield _Lines(tally, before, total)
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.1f}/s", style="dim"),
        TextColumn("{task.fields[failed]}", style="red"),
        TimeRemainingColumn(compact=True),
    )
    shown = Progress(*columns, console=console(stderr=True), transient=True, expand=True)
    began = monotonic()
    task = shown.add_task("", total=total, rate=0.0, failed=_failures(tally))

    def tell(bug: str | None) -> None:
        if bug is not None:
            shown.console.print(Text(printable(_words(bug))))
        done = tally.ended - before
        shown.update(task, completed=done, rate=done / (monotonic() - began), failed=_failures(tally))

    shown.start()
    try:
        yield tell
    finally:
        with suppress(OSError):  # a terminal that was closed
            shown.stop()


def _words(bug: str) -> str:
    return f"bug: {bug}; told once, and counted in the summary"


def _failures(tally: Tally) -> str:
    failed = tally.failed.total()
    return f"{failed:,} failed" if failed else ""


class _Lines:
    """One line on standard error, every few seconds while lines end."""

    def __init__(self, tally: Tally, before: int, total: int) -> None:
        self._tally = tally
        self._before = before
        self._total = total
        self._said = monotonic()

    def __call__(self, bug: str | None) -> None:
        if bug is not None:
            _say(_words(bug))
        now = monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            words = (f"{self._tally.ended - self._before:,} of {self._total:,} lines", _failures(self._tally))
            _say(", ".join(filter(None, words)))


def _say(words: str) -> None:
    with suppress(OSError):  # nobody listens any more; the results have a place of their own
        notice(words)
