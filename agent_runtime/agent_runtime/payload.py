"""Checks what comes in from outside before it is kept or passed on: JSON values, names and ids."""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import msgspec

from agent_runtime.errors import InvalidInput, LimitExceeded
from agent_runtime.text import repair_text
from agent_runtime.types import Owner

MAX_DEPTH = 64
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch
_NAME_LENGTH = 255
_SHOWN = 40  # characters of one key in an error's path


def check_id(value: object, what: str) -> None:
    """Refuse anything but `[A-Za-z0-9_-]{1,128}` with `InvalidInput`."""
    if not isinstance(value, str) or _ID(value) is None:
        raise InvalidInput(f"{what} must match [A-Za-z0-9_-]{{1,128}}", details={"field": what})


def check_name(value: object, what: str) -> None:
    """Refuse anything but 1 to 255 printable characters with `InvalidInput`."""
    if not isinstance(value, str) or not 0 < len(value) <= _NAME_LENGTH or not value.isprintable():
        raise InvalidInput(f"{what} must be 1 to {_NAME_LENGTH} printable characters", details={"field": what})


def check_owner(owner: Owner) -> None:
    """Refuse an owner with a name that is none with `InvalidInput`."""
    check_name(owner.user_id, "user_id")
    if owner.tenant_id is not None:
        check_name(owner.tenant_id, "tenant_id")


def copy_json(value: Mapping[str, Any], what: str, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Mapping[str, Any]:
    """Copy JSON values into read-only ones that share nothing with `value`. Half a surrogate pair becomes U+FFFD.

    Raises `InvalidInput`, with the path, for what is not JSON: NaN, integers past 64 bits, keys that are not text, other
    types. Raises `LimitExceeded` past `max_bytes`, counted roughly as compact JSON, or `max_depth` levels: a cycle ends.
    """
    if not isinstance(cast(object, value), Mapping):
        raise InvalidInput(f"{what} is a {type(value).__name__}; it must be a mapping", details={"field": what})
    copied: Mapping[str, Any] = _Copier(what, max_bytes, max_depth).copy(value, None, 1)
    return copied


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The read-only values of `copy_json` as plain dicts and lists that any encoder takes."""
    plain: dict[str, Any] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    kind: Any = value.__class__  # isinstance() would narrow to containers of unknown types
    if issubclass(kind, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if issubclass(kind, list | tuple) else value


class _Path(msgspec.Struct, frozen=True):
    """Where in the value: made for each item, spelled out only for an error."""

    parent: "_Path | None"
    step: object

    def __str__(self) -> str:
        return f"{self.parent or ''}[{repr(self.step)[:_SHOWN]}]"


class _Copier:
    def __init__(self, what: str, max_bytes: int, max_depth: int) -> None:
        self._what = what
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._left = max_bytes

    def copy(self, value: object, path: _Path | None, depth: int) -> Any:
        self._spend(1, path)  # each item, also an empty one: a few shared lists can nest to billions
        if isinstance(value, str):
            return self._text(value, path)
        if value is None or isinstance(value, bool | int | float):
            return self._number(value, path)
        if isinstance(value, Mapping | list | tuple):
            return self._container(cast("Mapping[object, object] | Sequence[object]", value), path, depth)
        raise self._refused(f"a {type(value).__name__} is not a JSON value", path)

    def _container(self, value: Mapping[object, object] | Sequence[object], path: _Path | None, depth: int) -> Any:
        if depth > self._max_depth:
            limit = self._max_depth
            raise LimitExceeded(
                f"{self._what} is nested deeper than the limit of {limit} levels",
                details={"field": self._what, "limit": limit},
            )
        if isinstance(value, Mapping):
            return MappingProxyType(
                {self._key(key, path): self.copy(item, _Path(path, key), depth + 1) for key, item in value.items()}
            )
        return tuple(self.copy(item, _Path(path, place), depth + 1) for place, item in enumerate(value))

    def _key(self, key: object, path: _Path | None) -> str:
        if not isinstance(key, str):
            raise self._refused(f"a key is a {type(key).__name__}, not text", path)
        return self._text(key, path)

    def _text(self, text: str, path: _Path | None) -> str:
        self._spend(len(text), path)  # before the work of the next two lines
        text = repair_text(str.__str__(text))  # no subclass either, and of an enum member its value
        self._spend(len(text.encode()) - len(text) + 2, path)
        return text

    def _number(self, value: float | None, path: _Path | None) -> float | None:
        if isinstance(value, float):
            if not math.isfinite(value):
                raise self._refused("a number that JSON does not have", path)
            value = float(value)  # no subclass: those of number libraries cannot be encoded
        elif isinstance(value, int) and not isinstance(value, bool):
            if not -(2**63) <= value < 2**64:
                raise self._refused("an integer of more than 64 bits", path)
            value = int(value)
        self._spend(len(repr(value)), path)
        return value

    def _spend(self, size: int, path: _Path | None) -> None:
        self._left -= size
        if self._left < 0:
            limit = self._max_bytes
            raise LimitExceeded(
                f"{self._what} has more than {limit} bytes (Limits.{self._what}_bytes), reached at {self._at(path)}",
                details={"field": self._what, "limit": limit},
            )

    def _refused(self, why: str, path: _Path | None) -> InvalidInput:
        return InvalidInput(f"{self._at(path)}: {why}", details={"field": self._at(path)})

    def _at(self, path: _Path | None) -> str:
        return f"{self._what}{path or ''}"
