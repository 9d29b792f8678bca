"""The one JSON value in a text that a model wrote, without asking anybody: what stands around it or is cut off is dropped.

Nothing is made up: no key, no value, no quote is put in. Each pass over the text is linear.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import msgspec
from pydantic import TypeAdapter, ValidationError

from agent_runtime.text import repair_text

Repair: TypeAlias = Literal["fence", "prose", "trailing_comma", "cut_short"]
"""What was done: a code fence or prose around the value, commas before a bracket, or the unfinished end was dropped."""

_ANY: TypeAdapter[Any] = TypeAdapter(Any)
MAX_CHARACTERS = 1 << 18
_MAX_DEPTH = 200  # of pydantic's reader too
_MAX_SPANS = 100
_CLOSING = {"{": "}", "[": "]"}
_OPENING = re.compile(r"[\[{]")
# All that is no bracket, no comma before one, and no string without an end. Possessive: nothing is tried twice.
_INSIDE = re.compile(r'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+"|,(?!\s*+[\]}]))*+', re.DOTALL)
# All up to the last bracket or comma that is in no string.
_MEMBERS = re.compile(r'(?:(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{},])*+', re.DOTALL)
_SCALAR = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-."


class JsonText(msgspec.Struct, frozen=True):
    """A text that is exactly one JSON value, and how it was won."""

    text: str
    repairs: tuple[Repair, ...] = ()


def repair_json(text: str) -> JsonText:
    """The JSON value that `text` is, or the only object or array in it. `ValueError` says what is wrong at which place.

    A text that ends in the middle of an object or array is closed after its last whole member: a number or word at the very
    end counts as unfinished. Numbers that are no finite double, NaN, lone surrogates, and what is deeper than 200 levels or
    longer than `MAX_CHARACTERS` are refused; of a key that stands twice the last one counts.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    text = repair_text(text).strip().removeprefix("\ufeff")
    try:
        check_json(text)
    except ValueError:
        body = _unfenced(text)
        found = _exact(body) or _only_value(body)
        if found is None:
            raise
        return found if body is text else JsonText(found.text, ("fence", *found.repairs))
    return JsonText(text)


def check_json(text: str) -> None:
    """`ValueError` unless `text` is one JSON value."""
    try:
        value = _ANY.validate_json(text)
    except ValidationError as error:
        [problem] = error.errors(include_url=False, include_context=False, include_input=False)
        raise ValueError(problem["msg"].removeprefix("Invalid JSON: ")) from None
    json.dumps(value, allow_nan=False)  # NaN and Infinity are read, and 1e400 as the latter


def _exact(text: str) -> JsonText | None:
    try:
        check_json(text)
    except ValueError:
        return None
    return JsonText(text)


def _unfenced(text: str) -> str:
    """The inside of a fence that the text begins with; else the text itself."""
    line, newline, body = text.partition("\n")
    if not newline or not line.startswith("```"):
        return text
    return body.rstrip().removesuffix("```").strip()


def _only_value(text: str) -> JsonText | None:
    """The one object or array in `text`; `None` when there is none, or more than one."""
    found: JsonText | None = None
    for number, span in enumerate(_spans(text), 1):
        value = span.value(text)
        if number > _MAX_SPANS or (found and value):
            return None
        found = found or value
    return found


class _Span(msgspec.Struct, frozen=True):
    """A stretch of text from a bracket to the one that closes it. `missing` are the brackets that the end of the text cut off."""

    start: int
    end: int
    commas: tuple[int, ...]
    missing: str = ""

    def value(self, text: str) -> JsonText | None:
        repairs: list[Repair] = []
        if text[: self.start].strip() or (text[self.end :].strip() and not self.missing):
            repairs.append("prose")
        if self.commas:
            repairs.append("trailing_comma")
        if self.missing:
            repairs.append("cut_short")
        inside = "".join(text[start:end] for start, end in self._pieces())
        tries = _closed(inside, self.missing) if self.missing else (inside,)
        return next((JsonText(one, tuple(repairs)) for one in tries if _exact(one)), None)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        start = self.start
        for comma in self.commas:
            yield start, comma
            start = comma + 1
        yield start, self.end


def _spans(text: str) -> Iterator[_Span]:
    """What looks like an object or array, one after the other, as far as the text is not nested too deep."""
    place = 0
    while (opening := _OPENING.search(text, place)) is not None:
        span = _span(text, opening.start())
        if span is None:
            return
        yield span
        place = span.end


def _span(text: str, start: int) -> _Span | None:
    closing: list[str] = []
    commas: list[int] = []
    place = start
    while len(closing) <= _MAX_DEPTH:
        skipped = _INSIDE.match(text, place)
        assert skipped is not None  # it matches nothing, too
        place = skipped.end()
        mark = text[place : place + 1]
        if mark in ("", '"'):
            return _Span(start, place, tuple(commas), "".join(reversed(closing)))
        if mark == ",":
            commas.append(place)
        elif mark in _CLOSING:
            closing.append(_CLOSING[mark])
        elif closing.pop() != mark or not closing:
            return _Span(start, place + 1, tuple(commas))
        place += 1
    return None


def _closed(text: str, missing: str) -> Iterator[str]:
    """`text`, which was cut short, with its last member if that is whole, and without it. Nothing where nothing is left."""
    whole = text.rstrip()
    rest = whole.rstrip(_SCALAR)
    if whole[len(rest) :] not in ("true", "false", "null"):  # of a number, digits may be missing
        whole = rest
    for kept in (whole, whole[: _last_member(whole)]):
        if kept.strip("[{ \t\r\n"):
            yield kept + missing


def _last_member(text: str) -> int:
    """Where the last member begins: at its comma, or after its bracket."""
    members = _MEMBERS.match(text)
    assert members is not None  # it matches nothing, too
    return len(members[0].removesuffix(","))
