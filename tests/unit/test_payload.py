from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import InvalidInput, LimitExceeded, Owner, Secret
from agent_runtime.payload import check_id, check_name, check_owner, copy_json
from agent_runtime.records import encode_payload

texts = st.text(st.characters(codec="utf-8"), max_size=10)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


class Ratio(float):
    __slots__ = ()


def copied(value: object, max_bytes: int = 16_384, max_depth: int = 8) -> Mapping[str, Any]:
    return copy_json(cast("Mapping[str, Any]", value), "metadata", max_bytes=max_bytes, max_depth=max_depth)


@given(st.dictionaries(texts, values, max_size=3))
def test_json_values_are_copied_as_they_are_and_can_be_stored(value: dict[str, Any]) -> None:
    copy = copied(value, 10**6, 64)
    assert copy == value
    assert encode_payload(copy) == encode_payload(value)


def test_a_copy_shares_nothing_and_cannot_be_changed() -> None:
    inner = {"list": [1]}
    copy = copied({"inner": inner})
    inner["list"].append(2)
    assert copy == {"inner": {"list": (1,)}}
    with pytest.raises(TypeError):
        copy["inner"]["new"] = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Colour.RED, "red"), (Text("x"), "x"), (Level.HIGH, 3), (Ratio(0.5), 0.5), (True, True)],
)
def test_subclasses_become_plain_values(value: object, plain: object) -> None:
    copy = copied({"x": value})["x"]
    assert copy == plain
    assert type(copy) is type(plain)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": float("nan")}, r"metadata\['a'\]: "),
        ({"a": [0, float("inf")]}, r"metadata\['a'\]\[1\]: "),
        ({"a": 2**64}, r"metadata\['a'\]: "),
        ({"a": Level.HIGH - 2**63 - 4}, r"metadata\['a'\]: "),
        ({"a": {"b": {1, 2}}}, r"metadata\['a'\]\['b'\]: a set"),
        ({"a": b""}, "a bytes"),
        ({"a": Secret("hush")}, "a Secret"),
        ({"a": {1: 2}}, r"metadata\['a'\]: a key is a int"),
        ({1: 2}, "metadata: a key"),
        ({"k" * 10_000: object()}, r"metadata\['k{39}\]: "),
        ([], "a list; it must be a mapping"),
        (None, "a NoneType"),
        ("text", "a str"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place(value: object, where: str) -> None:
    with pytest.raises(InvalidInput, match=where) as refused:
        copied(value)
    assert "hush" not in str(refused.value)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert copied({"a\ud83d": "\udca5", "pair": "\ud83d\udca5"}) == {"a�": "�", "pair": "💥"}


def test_the_limit_on_bytes_holds_to_the_byte() -> None:
    for text in ("x" * 100, "ü" * 50, "💥" * 25):
        smallest = next(size for size in range(200) if fits({"k": text}, size))
        assert 100 <= smallest <= 120
        assert not fits({"k": text + "x"}, smallest)


def test_a_few_shared_lists_do_not_grow_to_billions_of_items() -> None:
    shared: list[Any] = []
    for _ in range(6):
        shared = [shared] * 1_000
    assert not fits({"a": shared}, 16_384)


def test_nesting_ends_at_the_limit_and_so_does_a_cycle() -> None:
    value: dict[str, Any] = {}
    for _ in range(7):
        value = {"a": value}
    assert copied(value) == value
    with pytest.raises(LimitExceeded, match="8 levels") as refused:
        copied({"a": value})
    assert refused.value.details == {"field": "metadata", "limit": 8}
    value["a"] = value
    with pytest.raises(LimitExceeded):
        copied(value)


def fits(value: Mapping[str, Any], max_bytes: int) -> bool:
    try:
        copied(value, max_bytes)
    except LimitExceeded as refused:
        assert refused.details == {"field": "metadata", "limit": max_bytes}
        return False
    return True


@pytest.mark.parametrize("value", ["a", "A-z_09", "x" * 128])
def test_an_id_is_accepted(value: str) -> None:
    check_id(value, "session_id")


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\n", "a:b", "../a", "ä", "a\0", "*", None, 7, b"a"])
def test_no_id_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="session_id"):
        check_id(value, "session_id")


@pytest.mark.parametrize("value", ["", "x" * 256, "a\n", "\0", "\ud800", "\u202e", None, 7])
def test_no_name_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="agent_id"):
        check_name(value, "agent_id")
    with pytest.raises(InvalidInput, match="user_id"):
        check_owner(Owner(tenant_id=None, user_id=value))
    if value is not None:
        with pytest.raises(InvalidInput, match="tenant_id"):
            check_owner(Owner(tenant_id=value, user_id="ann"))
