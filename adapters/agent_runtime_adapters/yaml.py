"""Pipeline files in YAML. Needs the `yaml` extra."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

from agent_runtime import ConfigurationError

try:
    import yaml
except ImportError as error:
    raise ImportError("pipeline files in YAML need PyYAML: pip install 'onion-agent-runtime[yaml]'") from error

_KEY = -1  # a place for what may turn out to be a key
MAX_DEPTH = 32
MAX_VALUES = 10_000

# The core schema of YAML 1.2, and no more: `no` is a text, and so are `1:30`, `010` and `2026-01-01`.
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


class YamlDocument:
    """A YAML file of mappings, lists and scalars.

    Refused, with the place: anchors and aliases, tags, merge keys, a key that is there twice or is no text, a second
    document, more than 32 levels or 10,000 values.
    """

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        try:
            reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader))
            self.data = reader.document()
        except yaml.MarkedYAMLError as error:
            place = _place(error.problem_mark or error.context_mark)
            raise ConfigurationError(f"{self._at(place)}: {error.problem or error.context}") from error
        except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # a character that is none, a number too long
            raise ConfigurationError(f"{name}: {error}") from error
        self._places = reader.places

    def where(self, path: Sequence[str | int]) -> str:
        """`file:line:column` of the key, or of the item of a list."""
        known = (tuple(path[:length]) for length in range(len(path), 0, -1))
        return self._at(next((self._places[found] for found in known if found in self._places), None))

    def _at(self, place: "_Place | None") -> str:
        return self._name if place is None else f"{self._name}:{place[0]}:{place[1]}"


_Place: TypeAlias = tuple[int, int]
_Path: TypeAlias = tuple[str | int, ...]


class _Mark(Protocol):
    line: int
    column: int


def _place(mark: _Mark | None) -> _Place | None:
    """Line and column, counted from 1."""
    return None if mark is None else (mark.line + 1, mark.column + 1)


class _Reader:
    """Makes values of the parser's events, as they come: what is refused ends the parsing."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.places: dict[_Path, _Place | None] = {}
        self._events = events
        self._left = MAX_VALUES

    def document(self) -> object:
        """The one document; `None` when there is none."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _refused("a second document; a file holds one pipeline", after)
        return value

    def _value(self, event: yaml.Event, path: _Path) -> object:
        self.places.setdefault(path, _place(event.start_mark))
        self._left -= 1
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) or event.anchor is not None:
            raise _refused("anchors and aliases are refused; write the value where it is needed", event)
        if event.tag is not None:
            raise _refused(f"tags such as {event.tag[:40]!r} are refused", event)
        if self._left < 0 or len(path) > MAX_DEPTH:
            raise _refused(f"more than {MAX_VALUES} values, or more than {MAX_DEPTH} of them in each other", event)
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else _scalar(event.value)
        return self._mapping(path) if isinstance(event, yaml.MappingStartEvent) else self._sequence(path)

    def _sequence(self, path: _Path) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, path: _Path) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, (*path, _KEY))
            del self.places[*path, _KEY]
            if not isinstance(key, str) or key == "<<":
                raise _refused("a key must be text, and merge keys are refused", event)
            if key in values:
                raise _refused(f"the key {key[:40]!r} is there twice", event)
            self.places[*path, key] = _place(event.start_mark)
            values[key] = self._value(next(self._events), (*path, key))
        return values


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return _SPECIAL.get(text, text)


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]  # a mark of C
