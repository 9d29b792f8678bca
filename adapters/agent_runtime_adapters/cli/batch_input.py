"""The lines of a batch: what is asked in each, and the hash by which a line is known again."""

import os
import shutil
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import msgspec

from agent_runtime import InvalidInput
from agent_runtime_adapters.cli.exits import CommandFailed

STANDARD = Path("-")
"""Standard input, or output."""

_MARK = b"\xef\xbb\xbf"  # with which some editors begin a file
_KEY_BYTES = 8


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a line may say; a line that is a JSON string is a task."""

    task: str
    id: str | int | None = None
    metadata: dict[str, Any] = {}
    user_id: str | None = None
    tenant_id: str | None = None


class _Named(msgspec.Struct, frozen=True):
    """What is kept of a line that is no task."""

    id: str | int | None = None


_decode = msgspec.json.Decoder(Asked | str).decode
_decode_id = msgspec.json.Decoder(_Named).decode


class Line(msgspec.Struct, frozen=True):
    """A line that is not empty: its number from 1, and its text."""

    number: int
    text: bytes

    @property
    def key(self) -> int:
        """The hash of the text."""
        return int.from_bytes(blake2b(self.text, digest_size=_KEY_BYTES).digest())

    def asked(self) -> Asked:
        """What it says. Raises `InvalidInput` for one that says nothing."""
        try:
            found = _decode(self.text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"no task: {error}") from None
        return Asked(task=found) if isinstance(found, str) else found

    def id(self) -> str | int | None:
        """Its id, also where the rest of it says nothing."""
        try:
            return _decode_id(self.text).id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


class Input:
    """A file of lines, which can be read again and again, one line at a time."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self._file = file

    def same_as(self, descriptor: int) -> bool:
        """Whether an open file is this one."""
        return os.path.samestat(os.fstat(self._file.fileno()), os.fstat(descriptor))

    def lines(self) -> Iterator[Line]:
        """All lines from the beginning, without the empty ones."""
        self._file.seek(0)
        for number, raw in enumerate(self._file, start=1):
            text = (raw.removeprefix(_MARK) if number == 1 else raw).strip()
            if text:
                yield Line(number, text)


@contextmanager
def opened_input(path: Path) -> Generator[Input]:
    """What `path` names. A pipe is read to its end first, into a temporary file. Raises `CommandFailed`."""
    if path == STANDARD:
        if sys.stdin is None:
            raise CommandFailed("standard input is closed")
        with _kept(sys.stdin.buffer) as file:
            yield Input("standard input", file)
        return
    try:
        source = path.open("rb")
    except OSError as error:
        hint = "name it after MODULE:ATTRIBUTE" if ":" in path.name else None
        raise CommandFailed(f"cannot read {path}: {error.strerror}", hint=hint) from error
    with source, _kept(source) as file:
        yield Input(str(path), file)


@contextmanager
def _kept(source: IO[bytes]) -> Generator[IO[bytes]]:
    if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        yield source
        return
    with TemporaryFile() as file:
        shutil.copyfileobj(source, file)
        yield file
