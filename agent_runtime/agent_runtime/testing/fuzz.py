"""Hostile input, as hypothesis strategies: text, JSON values and what is nearly JSON, damaged bytes."""

from typing import Any

from hypothesis import strategies as st

NASTY = (
    "",
    " ",
    "\x00",
    "\r\nSet-Cookie: a=b",
    "data: x\n\nevent: y",
    "\ud800",
    "\udc00\ud800",
    "\u2028\u2029\u202e\ufeff",
    "\x1b[2J",
    "a" * 256,
    "../../etc/passwd",
    "*:?[a]",
    "' OR 1=1 --",
    "{{7*7}}${7*7}%s%n",
    "\N{FULLWIDTH LATIN SMALL LETTER A}e\u0301\N{ZERO WIDTH SPACE}\U0001f468\u200d\U0001f469",
)


def hostile_text(max_size: int = 300) -> st.SearchStrategy[str]:
    """Any text at all: lone surrogates, control characters, separators, direction marks, injections, too long."""
    any_text = st.text(st.characters(exclude_categories=()), max_size=max_size)
    return st.sampled_from(NASTY) | any_text | st.builds(str.__add__, st.sampled_from(NASTY), any_text)


def json_values(max_leaves: int = 20) -> st.SearchStrategy[Any]:
    """What JSON can hold and every codec keeps: finite numbers of at most 64 bits, text without lone surrogates."""
    text = st.text(max_size=20)  # by default without surrogates
    numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    leaves = st.none() | st.booleans() | numbers | text
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5),
        max_leaves=max_leaves,
    )


def hostile_values(max_leaves: int = 10) -> st.SearchStrategy[Any]:
    """What may stand where JSON is expected: NaN, huge integers, wrong keys, objects, bytes, deep and cyclic values."""
    leaves = (
        hostile_text()
        | st.floats()
        | st.integers()
        | st.sampled_from([2**64, -(2**63) - 1, 2**200])
        | st.binary(max_size=20)
        | st.builds(object)
        | st.sampled_from([1 + 2j, {1}, range(3), int])
    )
    keys = hostile_text() | st.integers() | st.none() | st.tuples(st.text())
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=max_leaves,
    )
    return values | json_values() | st.integers(1, 100).map(nested) | st.builds(_cycle)


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """`valid` with one to four damages: a byte changed, a piece lost, doubled, replaced, or the end cut off."""
    return st.lists(_damage(), min_size=1, max_size=4).map(lambda damages: _applied(valid, damages))


def nested(depth: int) -> list[Any]:
    """A list in a list in a list, `depth` deep."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = [value]
    return value


def _damage() -> st.SearchStrategy[tuple[float, int, bytes]]:
    return st.tuples(st.floats(0, 1), st.integers(0, 16), st.binary(max_size=8))


def _applied(data: bytes, damages: list[tuple[float, int, bytes]]) -> bytes:
    for where, lost, added in damages:
        place = int(where * len(data))
        data = data[:place] + added + data[place + lost :]
    return data
