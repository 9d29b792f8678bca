"""A folder of Markdown files, read once."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.markdown import Passage, passages

SUFFIXES = (".md", ".markdown")
MAX_FILES = 10_000
MAX_FILE_BYTES = 2 << 20
MAX_BYTES = 64 << 20


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """What can be searched and read: the lines of each file by its path inside the folder, and all passages."""

    files: Mapping[str, tuple[str, ...]]
    passages: tuple[Passage, ...]

    @property
    def topics(self) -> list[str]:
        """The headings, each once; of a file without any, its name."""
        return list(dict.fromkeys(passage.heading.rpartition(" › ")[2] or passage.file for passage in self.passages))


def read_library(folder: Path) -> Library:
    """Read all Markdown files in `folder`, hidden folders and node_modules excepted.

    Raises `CommandFailed` when there is none, or when one is no text, too large, not readable, or outside of the folder.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CommandFailed(
            f"the documents folder {what}: {folder}", hint="name a folder of Markdown files with --docs"
        )
    files: dict[str, tuple[str, ...]] = {}
    left = MAX_BYTES
    for path in sorted(_markdown_files(folder)):
        name = path.relative_to(folder).as_posix()
        data = _bytes(path, name, folder)
        left -= len(data)
        if left < 0 or len(files) == MAX_FILES:
            raise CommandFailed(
                f"{folder} holds more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MiB of Markdown",
                hint="name a smaller folder with --docs",
            )
        files[name] = _lines(data, name)
    found = tuple(passage for name, lines in files.items() for passage in passages(name, lines))
    if not found:
        raise CommandFailed(f"there is no Markdown with text in {folder}", hint=f"files end in {' or '.join(SUFFIXES)}")
    return Library(files=files, passages=found)


def _markdown_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise CommandFailed(f"cannot read the folder {error.filename}: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "node_modules"]
        yield from (Path(root, name) for name in names if name.lower().endswith(SUFFIXES))


def _bytes(path: Path, name: str, folder: Path) -> bytes:
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve()):
            raise CommandFailed(f"{name} is a link that leads out of {folder}")
        if not path.is_file():
            raise CommandFailed(f"{name} is not a regular file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CommandFailed(
                f"{name} has {size / (1 << 20):.1f} MiB, the limit is {MAX_FILE_BYTES >> 20} MiB: split it"
            )
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise CommandFailed(f"cannot read {name}: {reason}") from error


def _lines(data: bytes, name: str) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{name} is not text in UTF-8 (byte {error.start}); is it a binary file?") from error
    if "\0" in text:
        raise CommandFailed(f"{name} is not text: it holds zero bytes")
    return tuple(line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
