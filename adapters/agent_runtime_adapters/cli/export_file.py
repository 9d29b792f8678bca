"""The files of exported sessions: one session as it is, or a zip archive with a file for each."""

import os
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from agent_runtime import CorruptRecord
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed

_ZIP = b"PK"  # what an archive begins with; a session on its own begins with OR
_OWN = 0o600 << 16  # nobody else's to read, also when it is unpacked


class Archive:
    """Takes sessions one at a time, so that one at a time is in memory. It is whole only after `finish`."""

    def __init__(self, file: BinaryIO) -> None:
        self._output = _Output(file)
        self._zip = ZipFile(self._output, "w", ZIP_DEFLATED)

    def add(self, session_id: str, data: bytes) -> None:
        """Write an exported session."""
        entry = ZipInfo(f"{session_id}.session")
        entry.external_attr = _OWN
        self._zip.writestr(entry, data, ZIP_DEFLATED)

    def finish(self) -> None:
        """Write what makes it whole."""
        self._zip.close()

    def give_up(self) -> None:
        """Leave it unfinished: `ZipFile` would finish it when it is collected."""
        self._output.ended = True
        self._zip.close()


class _Output:
    """A file that can be a pipe: nobody asks it where it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.ended = False

    def write(self, data: bytes) -> int:
        return len(data) if self.ended else self._file.write(data)

    def flush(self) -> None:
        if not self.ended:
            self._file.flush()

    def close(self) -> None:
        """Whoever opened the file closes it."""


@contextmanager
def archive(file: BinaryIO) -> Generator[Archive]:
    """An archive that is whole when the block ends, and stays a part when it raises."""
    made = Archive(file)
    try:
        yield made
    except BaseException:
        made.give_up()
        raise
    made.finish()


@contextmanager
def new_file(path: Path) -> Generator[BinaryIO]:
    """A file that nobody else may read, on the disk when the block ends, and gone when it raises.

    Raises `CommandFailed` where there is one.
    """
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise CommandFailed(f"{path} exists already", hint="name another file, or remove it first") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Part:
    """An exported session in a file; `read` gives it, and raises `CorruptRecord` for a damaged one."""

    name: str
    read: Callable[[], bytes]


@contextmanager
def parts(path: Path) -> Generator[tuple[list[Part], bool]]:
    """The sessions in the file, and whether it is an archive.

    Raises `CommandFailed` for a file that is not there, and for an archive that is damaged or was cut short.
    """
    if not path.is_file():
        raise CommandFailed(f"{path} is not a file" if path.exists() else f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            yield [Part(path.stem, path.read_bytes)], False
            return
    try:
        opened = ZipFile(path)
    except BadZipFile as error:
        raise CommandFailed(f"{path} is damaged, or its export was cut short", code=FAILED) from error
    with opened:
        yield [Part(Path(entry.filename).stem, partial(_read, opened, entry)) for entry in opened.infolist()], True


def _read(opened: ZipFile, entry: ZipInfo) -> bytes:
    try:
        return opened.read(entry)
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # all that `zipfile` raises
        raise CorruptRecord(f"{entry.filename} is damaged") from error
