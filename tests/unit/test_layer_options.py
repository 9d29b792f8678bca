"""What a layer's class can be told, read from its constructor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

import msgspec
import pytest

from agent_runtime import BaseMiddleware, ConfigurationError, LayerOption, Secret, layer_options
from agent_runtime.layer_options import Misfit, option_value, parameters_of_layer, type_text
from agent_runtime_middleware.timeout import TimeoutMiddleware


class Colour(StrEnum):
    RED = "red"


class Point(msgspec.Struct):
    """A place.

    Attributes:
        x: From the left,
            in metres.
    """

    x: int
    label: str = ""
    draw: Callable[[int], int] | None = None


class Tree(msgspec.Struct):
    branches: "tuple[Tree, ...]" = ()


class Leaf(msgspec.Struct):
    green: bool = True


class Cell(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    label: str = ""


@dataclass
class Room:
    """No field is described."""

    leaves: list[Leaf]
    colours: Mapping[str, Colour] = field(default_factory=dict[str, Colour])
    inner: "Room | None" = None
    size: tuple[Leaf, float] | None = None


class Clock(Protocol):
    def now(self) -> float: ...


class Watch:
    def now(self) -> float:
        return 1.0


def plain(number: int) -> int:
    return number


class Everything(BaseMiddleware):
    """Takes one of each.

    Args:
        words: How many words
            there are.

    And so on.
    """

    def __init__(  # type: ignore[no-untyped-def]  # what a stranger may write
        self,
        words: int,
        *clocks: Clock,
        ratio: float | None = None,
        colour: Colour = Colour.RED,
        mode: Literal["fast", "slow"] = "fast",
        points: Sequence[Point] = (),
        tree: Tree | None = None,
        price: Decimal = Decimal("1.5"),
        named: Mapping[str, int] | None = None,
        few: Annotated[int, msgspec.Meta(ge=1, le=3)] = 2,
        key: Secret | None = None,
        key_or_name: Secret | str = "name",
        function: Callable[[int], int] = plain,
        anything: Any = None,
        unsaid=None,  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]  # the same
        odd: "list[Clock] | None" = None,
        mixed: Sequence[Secret | str] | bool = False,
        shape: Leaf | Tree | None = None,
        room: Annotated[Room, msgspec.Meta(title="Room")] | None = None,
        way: Literal["up", "down"] | int = "up",
        grid: Sequence[Sequence[Cell]] = (),
        **rest: int,
    ) -> None:
        """Of the constructor.

        Args:
            ratio: Of two lengths.
        """


@dataclass(frozen=True)
class Record:
    """A layer as a dataclass."""

    seconds: float
    tags: list[str] = field(default_factory=list[str])


PARAMETERS = {parameter.name: parameter for parameter in parameters_of_layer(Everything)}


def taken(name: str, value: object, **resources: object) -> object:
    return option_value(PARAMETERS[name], value, resources)


def test_each_option_has_name_type_default_and_description() -> None:
    told = {option.name: option for option in layer_options(Everything)}
    assert "rest" not in told
    assert told["words"] == LayerOption(
        name="words", type="int", default=None, required=True, resource=False, description="How many words there are."
    )
    assert told["ratio"].description == "Of two lengths."
    assert {name: (option.type, option.default) for name, option in told.items() if not option.required} == {
        "clocks": ("tuple[Clock, ...]", "()"),
        "ratio": ("float | None", "None"),
        "colour": ("Colour", "'red'"),
        "mode": ("'fast' | 'slow'", "'fast'"),
        "points": ("Sequence[Point]", "()"),
        "tree": ("Tree | None", "None"),
        "price": ("Decimal", "Decimal"),
        "named": ("Mapping[str, int] | None", "None"),
        "few": ("int", "2"),
        "key": ("Secret | None", "None"),
        "key_or_name": ("Secret | str", "'name'"),
        "function": ("Callable", "plain"),
        "anything": ("Any", "None"),
        "unsaid": ("Any", "None"),
        "odd": ("list[Clock] | None", "None"),
        "mixed": ("Sequence[Secret | str] | bool", "False"),
        "shape": ("Leaf | Tree | None", "None"),
        "room": ("Room | None", "None"),
        "way": ("'up' | 'down' | int", "'up'"),
        "grid": ("Sequence[Sequence[Cell]]", "()"),
    }
    objects = {name for name, option in told.items() if option.resource}
    assert objects == {
        "clocks",
        "points",
        "key",
        "key_or_name",
        "function",
        "anything",
        "unsaid",
        "odd",
        "mixed",
        "shape",
    }


def told_of(options: tuple[LayerOption, ...]) -> list[object]:
    """Name, type, default and fields of each."""
    return [(option.name, option.type, option.default, told_of(option.fields)) for option in options]


def test_the_fields_of_data_are_told_with_the_option_that_takes_it() -> None:
    told = {option.name: option for option in layer_options(Everything)}
    assert told_of(told["points"].fields) == [
        ("x", "int", None, []),
        ("label", "str", "''", []),
        ("draw", "Callable | None", "None", []),
    ]
    x, *_ = told["points"].fields
    assert (x.required, x.description) == (True, "From the left, in metres.")
    green: list[object] = [("green", "bool", "True", [])]
    assert told_of(told["room"].fields) == [
        ("leaves", "list[Leaf]", None, green),
        ("colours", "Mapping[str, Colour]", "dict()", []),
        ("inner", "Room | None", "None", []),
        ("size", "tuple[Leaf, float] | None", "None", green),
    ]
    assert told_of(told["tree"].fields) == [("branches", "tuple[Tree, ...]", "()", [])]
    assert not any(told[name].fields for name in ("words", "clocks", "key", "anything"))


def test_a_dataclass_is_read_as_well() -> None:
    assert [(option.name, option.type, option.required) for option in layer_options(Record)] == [
        ("seconds", "float", True),
        ("tags", "list[str]", False),
    ]


def test_a_class_without_docstring_does_not_inherit_another_s_words() -> None:
    class Silent(TimeoutMiddleware):
        pass

    assert {option.description for option in layer_options(Silent)} == {""}


def test_the_description_ends_where_the_indented_lines_end() -> None:
    [run, *_] = layer_options(TimeoutMiddleware)
    assert run.description.startswith("Everything inside this layer")
    assert "events emitted" not in " ".join(option.description for option in layer_options(TimeoutMiddleware))


@pytest.mark.parametrize("annotation", ["NoSuchType", "1 +", "int.no_such"])
def test_an_annotation_that_cannot_be_resolved_names_the_class(annotation: str) -> None:
    class Odd:
        def __init__(self, x: object) -> None: ...

    Odd.__init__.__annotations__["x"] = annotation
    with pytest.raises(ConfigurationError, match=r"the options of .*Odd cannot be read from its constructor"):
        layer_options(Odd)


CONVERTED: list[tuple[str, object, object]] = [
    ("words", 3, 3),
    ("ratio", 3, 3.0),
    ("ratio", None, None),
    ("colour", "red", Colour.RED),
    ("mode", "slow", "slow"),
    ("points", [{"x": 1}], [Point(1)]),
    ("tree", {"branches": [{}, {}]}, Tree((Tree(), Tree()))),
    ("price", "2.50", Decimal("2.50")),
    ("named", {"resource": 1}, {"resource": 1}),
    ("few", 3, 3),
    ("key_or_name", "ann", "ann"),
]


@pytest.mark.parametrize(("name", "value", "expected"), CONVERTED)
def test_data_is_converted(name: str, value: object, expected: object) -> None:
    found = taken(name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "reason", "path"),
    [
        ("words", "3", "expected `int`, got `str`", ()),
        ("words", True, "expected `int`, got `bool`", ()),
        ("words", 3.5, "expected `int`, got `float`", ()),
        ("words", {"resource": "x"}, "expected `int`, got `object`", ()),
        ("ratio", "fast", "expected `float | null`, got `str`", ()),
        ("ratio", 10**400, "", ()),
        ("mode", "quick", "invalid enum value 'quick'; there are: fast, slow", ()),
        ("mode", "fats", "invalid enum value 'fats' (did you mean 'fast'?); there are: fast, slow", ()),
        ("way", "left", "invalid enum value 'left'; there are: down, up", ()),
        ("colour", "rot", "invalid enum value 'rot'; there are: red", ()),
        ("room", {"leaves": [], "colours": {"a": "rad"}}, "invalid enum value 'rad' at colours[...] (did you mean 'red'?)", ("colours", "...")),
        ("room", {"leaves": [{"green": 1}]}, "expected `bool`, got `int` at leaves[0].green", ("leaves", 0, "green")),
        ("room", {"leaves": [], "size": [{"green": True}, "big"]}, "expected `float`, got `str` at size[1]", ("size", 1)),
        ("grid", [[{"x": 1, "lable": 3}]], "object contains unknown field `lable` at [0][0] (did you mean 'label'?); there are: ", (0, 0, "lable")),
        ("few", 4, "expected `int` <= 3", ()),
        ("points", [{"x": 1}, {"x": "1"}], "expected `int`, got `str` at [1].x", (1, "x")),
        ("points", [{"x": 1, "draw": "print"}], "expected an object of the program (Callable), got `str` at [0].draw", ()),
        ("named", {"a": "b"}, "expected `int`, got `str` at [...]", ()),
        ("key", "s3cret", "takes an object of the program (Secret | None): write { resource = \"…\" } and pass it", ()),
        ("key", None, "takes an object of the program", ()),
        ("function", "print", "takes an object of the program (Callable)", ()),
        ("anything", "print", "takes an object of the program (Any)", ()),
        ("unsaid", "print", "takes an object of the program (Any)", ()),
        ("mixed", ["x"], "expected `bool`, got `array`", ()),
        ("shape", {}, "takes an object of the program (Leaf | Tree | None)", ()),
        ("odd", ["x"], "expected an object of the program (Clock), got `str` at [0]", (0,)),
        ("clocks", {"resource": "watch"}, "expected `array`, got `dict`", ()),
        ("clocks", ["watch"], "takes an object of the program (Clock)", (0,)),
        ("key", {"resource": "nothing"}, "names the resource 'nothing', which is not in `resources`: ['watch']", ()),
        ("key", {"resource": 3}, "takes an object of the program", ()),
        ("key", {"resource": "watch", "more": 1}, "takes an object of the program", ()),
        ("key", {"resource": "watch"}, "takes Secret | None; the resource 'watch' is of type Watch", ()),
        ("function", {"resource": "watch"}, "takes Callable; the resource 'watch' is of type Watch", ()),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason_and_the_way_there(
    name: str, value: object, reason: str, path: tuple[str | int, ...]
) -> None:
    with pytest.raises(Misfit) as raised:
        taken(name, value, watch=Watch())
    assert str(raised.value).startswith(reason)
    assert raised.value.path[: len(path)] == path


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    value: dict[str, object] = {}
    for _ in range(100_000):
        value = {"branches": [value]}
    with pytest.raises(Misfit):
        taken("tree", value)


def test_a_resource_takes_the_place_of_what_a_file_cannot_hold() -> None:
    watch, secret = Watch(), Secret("x")
    assert taken("clocks", [{"resource": "a"}, {"resource": "a"}], a=watch) == (watch, watch)
    assert taken("key", {"resource": "k"}, k=secret) is secret
    assert taken("key_or_name", {"resource": "k"}, k=secret) is secret
    assert taken("function", {"resource": "f"}, f=plain) is plain
    assert taken("anything", {"resource": "f"}, f=plain) is plain
    assert taken("odd", {"resource": "list"}, list=[watch]) == [watch]
    assert taken("mixed", {"resource": "list"}, list=[secret, "x"]) == [secret, "x"]
    leaf = Leaf()
    assert taken("shape", {"resource": "leaf"}, leaf=leaf) is leaf


def test_an_object_that_lacks_what_the_protocol_has_is_refused() -> None:
    with pytest.raises(Misfit, match="takes Clock; the resource 'k' is of type Secret"):
        taken("clocks", [{"resource": "k"}], k=Secret("x"))


def test_a_type_is_shown_as_it_is_written() -> None:
    assert type_text(dict[str, tuple[int, ...]]) == "dict[str, tuple[int, ...]]"
    assert type_text(None) == "None"
