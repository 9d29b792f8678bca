"""How a command ends: its exit code, and one or two lines on standard error instead of a traceback."""

import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

import typer

from agent_runtime import AgentResult, AgentRuntimeError, ConfigurationError, Question
from agent_runtime_adapters.cli.terminal import complain, notice

FAILED = 1
USAGE = 2
WAITS = 3
INTERRUPTED = 130
BROKEN_PIPE = 141

EXIT_CODES = (
    "Exit codes: 0 success; 1 the run failed, or a check found something; 2 wrong usage or configuration; "
    "3 the run waits for an answer; 130 interrupted; 141 the reader of the output went away; "
    "129 and 143 ended by SIGHUP and SIGTERM."
)

_OURS = ("agent_runtime", "agent_runtime_middleware", "agent_runtime_adapters")
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class CommandFailed(Exception):
    """The command cannot go on; says why, what to do, and which exit code that is."""

    def __init__(self, message: str, *, hint: str | None = None, code: int = USAGE) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class Waits(Exception):
    """A run waits for the answers to `questions`; `result` is how it ended, where it ran at all.

    The person has seen the first questions already, as many as `shown`.
    """

    def __init__(self, questions: Sequence[Question], result: AgentResult | None = None, *, shown: int = 0) -> None:
        super().__init__("the run waits for an answer")
        self.questions = questions
        self.result = result
        self.shown = shown


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP: does what Ctrl-C does, and ends a conversation too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


class Interrupted(Exception):
    """Ctrl-C or a signal like it ended the command; says what became of its work."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP raise `Ended` in the main thread; one that is ignored (`nohup`) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system has both
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a command exits with that Ctrl-C, or a signal like it, has ended."""
    return interrupt.code if isinstance(interrupt, Ended) else INTERRUPTED


@contextmanager
def told() -> Generator[None]:
    """Inside, whatever ends the command is told on standard error and becomes a `typer.Exit`."""
    try:
        yield
        sys.stdout.flush()
    except typer.Exit:
        raise
    except BrokenPipeError:
        _silence(sys.stdout)
        raise typer.Exit(BROKEN_PIPE) from None
    except KeyboardInterrupt as interrupt:
        _last_words("interrupted")
        raise typer.Exit(exit_code(interrupt)) from None
    except Interrupted as error:
        _last_words(str(error))
        raise typer.Exit(error.code) from None
    except CommandFailed as error:
        complain(str(error), hint=error.hint)
        raise typer.Exit(error.code) from None
    except AgentRuntimeError as error:
        complain(str(error))
        raise typer.Exit(USAGE if isinstance(error, ConfigurationError) else FAILED) from None
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        raise typer.Exit(FAILED) from None


def _last_words(message: str) -> None:
    with suppress(OSError):  # a terminal that was closed takes none
        notice(message)


def described(error: BaseException) -> str:
    """An unexpected exception in one line: type, first line of its message, and its place."""
    words = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{f': {words}' if words else ''}{_place(error)}"


def bug(error: BaseException) -> str:
    """An unexpected exception by type and place: the same each time, and without the message, which may hold a task."""
    return f"{type(error).__name__}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line of the user's own code that was reached; of any code, where none of theirs was."""
    places = list(traceback.walk_tb(error.__traceback__))
    theirs = [(frame, line) for frame, line in places if _is_theirs(frame)]
    return "".join(f" ({Path(frame.f_code.co_filename).name}:{line})" for frame, line in (theirs or places)[-1:])


def _is_theirs(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package not in _OURS and not frame.f_code.co_filename.startswith(("<", *_INSTALLED))


def leave(code: int) -> None:
    """Exit the process. Threads of calls that were given up do not hold it back."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _silence(stream)
    others = (thread for thread in threading.enumerate() if thread is not threading.current_thread())
    if any(not thread.daemon for thread in others):
        os._exit(code)
    sys.exit(code)


def _silence(stream: TextIO) -> None:
    """Throw away what the interpreter would still flush into a broken pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
