"""The JSON in a model's text: what is repaired, how that is told, and what is refused."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_runtime.json_text import MAX_CHARACTERS, repair_json
from agent_runtime.testing import hostile_text, json_values, nested

containers = json_values().filter(lambda value: bool(value) and isinstance(value, dict | list))

REPAIRED: list[tuple[str, Any, tuple[str, ...]]] = [
    ('{"a": 1}', {"a": 1}, ()),
    ('\ufeff \n"yes"\n', "yes", ()),
    ('```json\n{"a": 1}\n```', {"a": 1}, ("fence",)),
    ('```\n"yes"\n```', "yes", ("fence",)),
    ('```json\n{"a": 1,}\n```', {"a": 1}, ("fence", "trailing_comma")),
    ('```json\n{"a": [1, 2', {"a": [1]}, ("fence", "cut_short")),
    ('```{"a": 1}```', {"a": 1}, ("prose",)),
    ('Sure!\n```json\n{"a": "```"}\n```\nAnything else?', {"a": "```"}, ("prose",)),
    ('He said "use {x}", so: {"a": 1}.', {"a": 1}, ("prose",)),
    ('See [note] first: {"a": "}]"}', {"a": "}]"}, ("prose",)),
    ('{"a": [1, 2, ], "b": ",]",\n}', {"a": [1, 2], "b": ",]"}, ("trailing_comma",)),
    ("Here: [1, 2,] — done", [1, 2], ("prose", "trailing_comma")),
    ('{"a": "Paris"', {"a": "Paris"}, ("cut_short",)),
    ('{"a": 1, "b": "Par', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "b": "x\\', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "b": "\\ud83d', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "b":', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "b"', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "b', {"a": 1}, ("cut_short",)),
    ('{"a": 1, ', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "n": 12', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "n": -', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "n": tru', {"a": 1}, ("cut_short",)),
    ('{"a": 1, "n": true', {"a": 1, "n": True}, ("cut_short",)),
    ('{"a": {"b": [1, {"c": null', {"a": {"b": [1, {"c": None}]}}, ("cut_short",)),
    ('[{"a": 1}, {"a"', [{"a": 1}, {}], ("cut_short",)),
    ("[[1], [2]", [[1], [2]], ("cut_short",)),
    ('It is: {"a": [1, 2,], "b": [3, 4', {"a": [1, 2], "b": [3]}, ("prose", "trailing_comma", "cut_short")),
]


@pytest.mark.parametrize(("text", "value", "repairs"), REPAIRED)
def test_a_value_is_found_and_how_is_told(text: str, value: Any, repairs: tuple[str, ...]) -> None:
    found = repair_json(text)
    assert json.loads(found.text) == value
    assert found.repairs == repairs


REFUSED = [
    "",
    " \n ",
    "I cannot say.",
    "```",
    "```json\n```",
    "{",
    "[[{",
    "Use { to open",
    "[12",
    '{"a',
    "{'a': 1}",
    '{"a": 1 "b": 2}',
    '{"a": [1, 2}',
    "[1 x, 2",
    "[1 2, 3",
    '{"a": x',
    '["\\q"]',
    '["line\nbreak"]',
    '{"a": 1} {"a": 2}',
    '{"a": 1}\n{"a": true',
    "[,,]",
    "1e400",
    '{"a": [1e400]}',
    "NaN",
    "[Infinity]",
    '"\\ud800"',
    "1" * 5_000,
    "[" * 300 + "]" * 300,
    "[" * 200_000,
    "[x]" * 80_000,
    '"' * 200_001,
    '{"a":' * 50_000,
    "x" * (MAX_CHARACTERS + 1),
    "[" + "1," * (MAX_CHARACTERS // 2) + "1]",
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_what_would_have_to_be_guessed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+ column \d+|characters|[Oo]ut of range"):
        repair_json(text)


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    assert json.loads(repair_json('{"a": 1, "a": 2}').text) == {"a": 2}


def test_half_a_character_becomes_one_that_can_be_encoded() -> None:
    assert repair_json('["\ud83d\ude00 \ud83d"]').text == '["😀 \ufffd"]'


@given(json_values())
def test_json_stays_as_it_is(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert repair_json(text) == repair_json(f"\n{text} ")
    assert (repair_json(text).text, repair_json(text).repairs) == (text, ())


@given(
    containers,
    st.sampled_from(["{}", "Here you are: {} — is that right?", "```json\n{}\n```", "Well:\n```\n{}\n```\n"]),
)
def test_json_is_found_in_what_models_put_around_it(value: Any, around: str) -> None:
    text = json.dumps(value)
    assert repair_json(around.replace("{}", text)).text == text


def is_part(part: Any, whole: Any) -> bool:
    """Whether nothing in `part` is new."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part(item, whole[key]) for key, item in part.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # JSON
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) <= len(whole) and all(map(is_part, part, whole))  # pyright: ignore[reportUnknownArgumentType]  # JSON
    return bool(part == whole)


@given(containers, st.data())
def test_a_value_that_was_cut_short_holds_nothing_that_was_not_there(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(1, len(text)))]
    try:
        found = repair_json(cut)
    except ValueError:
        return
    assert is_part(json.loads(found.text), value)


@given(st.text(st.sampled_from(list('{}[]",:\\`x1e-. \n'))) | hostile_text())
@example('["\\')
@example('{"a":"b"}]')
@example("]}")
def test_any_text_gives_json_or_a_value_error(text: str) -> None:
    try:
        found = repair_json(text)
    except ValueError:
        return
    assert json.dumps(json.loads(found.text), allow_nan=False)


def test_the_depth_that_pydantic_reads_is_accepted() -> None:
    assert repair_json(json.dumps(nested(200))).repairs == ()
    assert repair_json(json.dumps(nested(199)) + " is it").repairs == ("prose",)


HOSTILE = ["[" * 9, '"', '"x",', "[x]", "{}", '\\"', ", ", '{"a":', "```\n", "]", '[",', "1,"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * MAX_CHARACTERS)[:MAX_CHARACTERS]
    for opened in (text, "{" + text[1:], '["' + text[2:], text[:-2] + " }"):
        started = time.process_time()
        with suppress(ValueError):
            repair_json(opened)
        assert time.process_time() - started < 0.5
