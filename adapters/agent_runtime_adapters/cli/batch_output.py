"""What came of the lines of a batch: a file to which one JSON document is added for each, and which tells what is done."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec

from agent_runtime import AgentResult
from agent_runtime_adapters.cli.batch_input import STANDARD, Input, Line
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)  # far behind the end: others may read the file
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_BEGINNING = b'{"line":'  # of each line that is ours

Ending = Literal["succeeded", "failed", "retryable"]
"""How a line went. What is `retryable` has failed, and may succeed later."""


class Outcome(msgspec.Struct, frozen=True):
    """A line of the output, as far as going on needs it."""

    line: int
    input: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    success: bool
    retryable: bool = False

    @property
    def ending(self) -> Ending:
        """How the line went."""
        if self.success:
            return "succeeded"
        return "retryable" if self.retryable else "failed"


_outcome = msgspec.json.Decoder(Outcome).decode


def document(line: Line, id: str | int | None, result: AgentResult) -> bytes:
    """The line of the output for one of the input: where it belongs, and the result as `run --json` prints it."""
    place: dict[str, Any] = {"line": line.number, "input": f"{line.key:016x}"}
    if id is not None:
        place["id"] = id
    record = msgspec.to_builtins(result.to_record())  # leaves out what has its default, and a success is one
    return msgspec.json.encode({**place, "success": result.success, **record}) + b"\n"


class Past:
    """How the lines went that the output has already, by their hash; the same line may be there more than once."""

    def __init__(self) -> None:
        self._counts: dict[Ending, Counter[int]] = {"succeeded": Counter(), "failed": Counter(), "retryable": Counter()}

    def __bool__(self) -> bool:
        return any(self._counts.values())

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self._counts[outcome.ending][int(outcome.input, 16)] += 1

    def knows(self, key: int) -> bool:
        """Whether a line of this hash is there."""
        return any(key in counts for counts in self._counts.values())

    def take(self, key: int, endings: tuple[Ending, ...]) -> Ending | None:
        """How a line of this hash went, each one told once; `None` where it has not ended so."""
        for ending in endings:
            if self._counts[ending][key] > 0:
                self._counts[ending][key] -= 1
                return ending
        return None

    def keys(self) -> set[int]:
        """All hashes."""
        return {key for counts in self._counts.values() for key in counts}


class Output:
    """Where the lines go; a `lasting` one is a file that can be gone on with."""

    def __init__(self, name: str, file: IO[bytes], past: Past, *, lasting: bool) -> None:
        self.name = name
        self.past = past
        self.lasting = lasting
        self._file = file

    def write(self, data: bytes) -> None:
        """Add a whole line. Raises `BrokenPipeError`, and `CommandFailed` when the file takes no more."""
        whole = os.fstat(self._file.fileno()).st_size if self.lasting else 0
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.lasting:
                with suppress(OSError):  # what is left of the line is dropped when the batch goes on
                    os.ftruncate(self._file.fileno(), whole)
            raise self._refused(error) from error

    def sync(self) -> None:
        """Have it on the disk. Raises `CommandFailed`."""
        if self.lasting:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._refused(error) from error

    def _refused(self, error: OSError) -> CommandFailed:
        hint = "what is in it stays; the same command goes on" if self.lasting else None
        return CommandFailed(f"cannot write {self.name}: {error.strerror}", hint=hint, code=FAILED)


@contextmanager
def opened_output(path: Path, source: Input) -> Generator[Output]:
    """Standard output, or a file, locked and read: what is in it is the past.

    Raises `CommandFailed` for a file that is the input, that another batch has open, that holds anything but outcomes, or
    whose outcomes are of another input.
    """
    if path == STANDARD:
        yield Output("standard output", sys.stdout.buffer, Past(), lasting=False)
        return
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield Output(str(path), file, Past(), lasting=False)
            return
        if source.same_as(file.fileno()):
            raise CommandFailed(f"{path} is the input", hint="name another file with --output")
        try:
            _lock(file.fileno())
        except OSError as error:
            raise CommandFailed(
                f"{path} is locked: {error.strerror}", hint="is another batch at work on it? Wait until it has ended"
            ) from error
        yield Output(str(path), file, _read(path, file, source), lasting=True)


def _read(path: Path, file: IO[bytes], source: Input) -> Past:
    """What the output holds. A last line that was cut short is dropped."""
    past = Past()
    with path.open("rb") as lines:
        for number, data in enumerate(lines, start=1):
            try:
                outcome = _outcome(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                if not data.endswith(b"\n") and data[: len(_BEGINNING)] == _BEGINNING[: len(data)]:
                    os.ftruncate(file.fileno(), lines.tell() - len(data))
                    break
                raise CommandFailed(
                    f"{path}:{number} is no line of a batch's output", hint="name another file with --output"
                ) from None
            past.add(outcome)
            if not data.endswith(b"\n"):
                file.write(b"\n")
                break
    if past and not any(past.knows(line.key) for line in source.lines()):
        raise CommandFailed(
            f"{path} is the output of another input: no line of {source.name} is in it",
            hint="name another file with --output",
        )
    return past
