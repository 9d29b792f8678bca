"""How far a long command is: a bar on a terminal, now and then a line elsewhere, and a last word when it is cut short."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from time import monotonic

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from agent_runtime import StoreUnavailable, Unknown
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed, Interrupted, exit_code
from agent_runtime_adapters.cli.terminal import console, notice

_EVERY = 5.0  # seconds between two lines
_AGAIN = "the same command again does the rest"


@contextmanager
def steps(total: int, done: str, *, left: str = _AGAIN) -> Generator[Callable[[], None]]:
    """Shows on standard error how many of `total` sessions are `done`; what it gives is called after each.

    Ctrl-C, and a store that is away, end the command with how far it is and what is `left`: `Interrupted`, `CommandFailed`.
    """
    count = 0
    show, stop = _bar(total) if console(stderr=True).is_terminal and total > 1 else _lines(total, done)

    def step() -> None:
        nonlocal count
        count += 1
        show(count)

    try:
        yield step
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"interrupted; {_so_far(count, total, done)}; {left}", code=exit_code(interrupt)) from None
    except (StoreUnavailable, Unknown) as error:
        raise CommandFailed(str(error), hint=f"{_so_far(count, total, done)}; {left}", code=FAILED) from error
    finally:
        stop()


def _so_far(count: int, total: int, done: str) -> str:
    return f"{count:,} of {total:,} sessions were {done}"


def _bar(total: int) -> tuple[Callable[[int], None], Callable[[], None]]:
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    shown = Progress(*columns, console=console(stderr=True), transient=True, expand=True)
    task = shown.add_task("", total=total)
    shown.start()

    def stop() -> None:
        with suppress(OSError):  # a terminal that was closed
            shown.stop()

    return lambda count: shown.update(task, completed=count), stop


def _lines(total: int, done: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    said = monotonic()

    def show(count: int) -> None:
        nonlocal said
        if monotonic() - said >= _EVERY:
            said = monotonic()
            with suppress(OSError):  # nobody listens any more
                notice(f"{count:,} of {total:,} sessions {done}")

    return show, lambda: None
