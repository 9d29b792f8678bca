"""The text of a pipeline file as data, and where in the text each value stands."""

import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from agent_runtime.errors import ConfigurationError
from agent_runtime.plugins import FORMATS, declared, load, shown, sole

MAX_FILE_BYTES = 1 << 20
_MAX_STATEMENT = 200  # lines of one value; in a longer one no further position is looked for

TWO_BRACKETS = "begin each layer with [[layers]], in two brackets"
_ONE_TABLE = re.compile(r"\s*\[\s*layers\s*\]\s*(?:#.*)?")

KeyPath: TypeAlias = Sequence[str | int]
"""The keys and places that lead to a value: `("layers", 1, "run")`."""


class ConfigDocument(Protocol):
    """A file that has been read."""

    @property
    def data(self) -> object:
        """Its mappings, lists, texts, numbers and truth values."""
        ...

    def where(self, path: KeyPath, /) -> str:
        """`file:line` or `file:line:column` of the value at `path`; of what holds it, where it is not there itself."""
        ...


ConfigFormat: TypeAlias = Callable[[str, str], ConfigDocument]
"""Reads `(text, file)`. Raises `ConfigurationError`, which starts with `file:line:column: `, for what it cannot read."""


class GivenDocument:
    """A mapping that the program has made; nothing in it has a position."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data: object = data

    def where(self, path: KeyPath) -> str:
        return ""


def open_document(source: str | os.PathLike[str] | Mapping[str, Any]) -> ConfigDocument:
    """The mapping as it is; or the file, read by the format that its suffix names.

    Raises `ConfigurationError` for what cannot be read, and for a suffix that no installed format is for.
    """
    if isinstance(source, Mapping):
        return GivenDocument(source)
    if not isinstance(cast(object, source), str | os.PathLike):
        raise TypeError(f"a pipeline is a file or a mapping, not {type(source).__name__}")
    path = Path(source)
    return _format(path)(_text(path), str(path))


def _format(path: Path) -> ConfigFormat:
    suffix = path.suffix.removeprefix(".").lower()
    if suffix == "toml":
        return TomlDocument
    plugins = declared(FORMATS)
    known = [plugin for plugin in plugins if plugin.name == suffix]
    if not known:
        suffixes = ["toml", *dict.fromkeys(plugin.name for plugin in plugins)]
        raise ConfigurationError(
            f"{path}: no format is installed for the suffix {shown(path.suffix)}; there are: {', '.join(suffixes)}"
        )
    found: Any = load(sole(known), FORMATS)
    return cast(ConfigFormat, found)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{path}: cannot be read: {reason}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_FILE_BYTES} bytes; this is no pipeline")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}:{line}: not UTF-8, from byte {error.start} on") from error


class TomlDocument:
    """A TOML file. `tomllib` says no positions: they are found in the text, when an error or a person asks."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._lines = text.replace("\r\n", "\n").split("\n")
        try:
            self.data: object = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(self._syntax(str(error))) from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; a thousand brackets
            raise ConfigurationError(f"{name}: {error}") from error
        self._starts: list[int] | None = None

    def where(self, path: KeyPath) -> str:
        """The line where the statement starts in which `path` first appears."""
        if self._starts is None:
            self._starts = self._statements()
        starts = self._starts
        for length in range(len(path), 0, -1):
            if self._has(path[:length], len(self._lines)):
                # `count` statements are there before line `starts[count]`, and with each one more may have appeared.
                ends = [*starts[1:], len(self._lines)]
                place = bisect_left(ends, True, key=lambda end: self._has(path[:length], end))
                return f"{self._name}:{starts[place] + 1}"
        return self._name

    def _statements(self) -> list[int]:
        """The lines at which statements start; a statement is as many lines as it takes to be valid TOML by itself."""
        starts: list[int] = []
        end = 0
        while end < len(self._lines):
            starts.append(end)
            longest = min(end + _MAX_STATEMENT, len(self._lines))
            whole = (stop for stop in range(end + 1, longest + 1) if self._parsed(end, stop) is not None)
            end = next(whole, len(self._lines))
        return starts

    def _has(self, path: KeyPath, end: int) -> bool:
        """Whether the lines before `end` hold a value at `path`."""
        value: Any = self._parsed(0, end)
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def _parsed(self, start: int, end: int) -> dict[str, Any] | None:
        try:
            return tomllib.loads("\n".join(self._lines[start:end]))
        except tomllib.TOMLDecodeError:
            return None

    def _syntax(self, words: str) -> str:
        """What `tomllib` says, `Words (at line 3, column 5)`, with the place in front."""
        reason, _, place = words.rpartition(" (at ")
        end = [str(len(self._lines)), str(len(self._lines[-1]) + 1)]
        numbers = re.findall(r"\d+", place) or end  # it may say "at end of document"
        once = reason.startswith("Cannot") and any(_ONE_TABLE.fullmatch(line) for line in self._lines)
        hint = f"; {TWO_BRACKETS}" if once else ""
        return f"{self._name}:{':'.join(numbers)}: {reason[:1].lower()}{reason[1:]}{hint}"
