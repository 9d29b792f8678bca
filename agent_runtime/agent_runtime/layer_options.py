"""What a layer's class can be told, read from its constructor; and values of a file made into what it takes."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from typing_extensions import get_protocol_members, is_protocol

from agent_runtime.errors import ConfigurationError
from agent_runtime.option_data import advice, info_of, nodes, structs_in
from agent_runtime.stand_ins import StandIns
from agent_runtime.tool_schema import summary_of
from agent_runtime.types import Value

_union: Any = Union  # the members are known at run time only
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\[(\.{3})\]")
_PLACE = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_OPENING = re.compile(r"Expected|Invalid|Object")  # msgspec's own; other words are of the class that refuses


class LayerOption(Value, frozen=True, kw_only=True):
    """One option of a layer's class.

    Attributes:
        name: As it is written in a file and in code.
        type: What it takes, as Python writes it.
        default: What it is when left out, as Python writes it; `None` where it is required.
        required: Whether it must be given.
        resource: Whether it takes an object of the program, which a file names by `{ resource = "name" }`.
        description: What the docstring's "Args:" or "Attributes:" section says of it.
        fields: Those of the structs and dataclasses that it takes, by the names that a file writes.
    """

    name: str
    type: str
    default: str | None
    required: bool
    resource: bool
    description: str = ""
    fields: "tuple[LayerOption, ...]" = ()


class Misfit(Exception):
    """A value that an option does not take; `path` leads to it from the option's value."""

    def __init__(self, reason: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(reason)
        self.path = path


def layer_options(layer: Callable[..., object]) -> tuple[LayerOption, ...]:
    """The options of a layer's class, in the order of its constructor.

    Raises `ConfigurationError` when an annotation cannot be resolved.
    """
    texts = _descriptions(layer)
    return tuple(
        LayerOption(
            name=parameter.name,
            type=type_text(_whole(parameter)),
            default=None if is_required(parameter) else _default(parameter),
            required=is_required(parameter),
            resource=_Shape(parameter.annotation).objects,
            description=texts.get(parameter.name, ""),
            fields=_fields(parameter.annotation, ()),
        )
        for parameter in parameters_of_layer(layer)
    )


def _fields(hint: Any, outer: tuple[type, ...]) -> tuple[LayerOption, ...]:
    """The fields of the data that `hint` takes. Of data that may hold itself, they are told once."""
    told: list[LayerOption] = []
    for struct in structs_in(hint):
        if struct.cls in outer:
            continue
        hints, texts = get_type_hints(struct.cls, include_extras=True), summary_of(struct.cls)[1]
        told += (
            LayerOption(
                name=field.encode_name,
                type=type_text(hints[field.name]),
                default=None if field.required else _field_default(field),
                required=field.required,
                resource=False,
                description=texts.get(field.name, ""),
                fields=_fields(hints[field.name], (*outer, struct.cls)),
            )
            for field in struct.fields
        )
    return tuple(told)


def parameters_of_layer(layer: Callable[..., object]) -> list[inspect.Parameter]:
    """The constructor's parameters with their annotations resolved. What `**kwargs` would take is no option."""
    try:
        signature = inspect.signature(layer)
        hints = get_type_hints(getattr(layer, "__init__"), include_extras=True)  # noqa: B009 - mypy: unsound otherwise
    except (NameError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        name = getattr(layer, "__qualname__", type(layer).__name__)
        raise ConfigurationError(f"the options of {name} cannot be read from its constructor: {error}") from error
    return [
        parameter.replace(annotation=_annotation(parameter, hints))
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether the constructor refuses to go without."""
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL


def option_value(parameter: inspect.Parameter, value: object, resources: Mapping[str, object]) -> object:
    """`value` of a file as `parameter` takes it: converted strictly, a reference replaced. Raises `Misfit`."""
    shape = _Shape(parameter.annotation)
    if parameter.kind is not parameter.VAR_POSITIONAL:
        return shape.take(value, resources)
    if not isinstance(value, list | tuple):
        raise Misfit(f"expected `array`, got {_kind(value)}")
    taken: list[object] = []
    for place, item in enumerate(cast(Sequence[object], value)):
        try:
            taken.append(shape.take(item, resources))
        except Misfit as error:
            raise Misfit(str(error), (place, *error.path)) from error
    return tuple(taken)


class _Shape:
    """What a type lets in: data, objects of the program, or both.

    What says nothing (`Any`) takes objects only: a layer that expects a type or a function might evaluate a text.
    """

    def __init__(self, hint: Any) -> None:
        self._hint = hint
        self._members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        infos = [info_of(member) for member in self._members]
        data = [
            member
            for member, info in zip(self._members, infos, strict=True)
            if not isinstance(info, msgspec.inspect.CustomType | msgspec.inspect.AnyType | None)
        ]
        whole = _union[tuple(data)] if data and data != [NoneType] else None
        self._data = None if whole is None or info_of(whole) is None else whole
        self.objects = self._data is None or any(_holds_objects(info) for info in infos)

    def take(self, value: object, resources: Mapping[str, object]) -> object:
        """`value`, converted or replaced by the resource that it names. Raises `Misfit`."""
        name = _referred(value)
        if self.objects and name is not None:
            return self._resource(name, resources)
        if self._data is None:
            raise Misfit(
                f'takes an object of the program ({type_text(self._hint)}): write {{ resource = "…" }} and pass it in '
                "`resources`"
            )
        return _converted(value, self._data)

    def _resource(self, name: str, resources: Mapping[str, object]) -> object:
        if isinstance(resources, StandIns):
            return resources[name]
        if name not in resources:
            raise Misfit(f"names the resource {name!r}, which is not in `resources`: {sorted(resources) or 'none are'}")
        found = resources[name]
        if not any(_fits(found, member) for member in self._members):
            raise Misfit(f"takes {type_text(self._hint)}; the resource {name!r} is of type {type(found).__name__}")
        return found


def _converted(value: object, hint: Any) -> object:
    try:
        return msgspec.convert(value, hint, dec_hook=_refuse)
    except msgspec.ValidationError as error:
        match = _PLACE.fullmatch(str(error))
        reason, place = (match[1], match[2] or "") if match else (str(error), "")
        steps = tuple(int(index) if index else key or dots for key, index, dots in _STEP.findall(place))
        right, further = advice(hint, steps, reason)
        at = f" at {place.lstrip('.')}" if place else ""
        raise Misfit(f"{_OPENING.sub(lambda word: word[0].lower(), reason)}{at}{right}", (*steps, *further)) from error
    except (OverflowError, RecursionError) as error:
        raise Misfit(f"cannot take this value: {error}") from error


def _refuse(hint: Any, value: object) -> object:
    raise ValueError(f"Expected an object of the program ({type_text(hint)}), got {_kind(value)}")


def _referred(value: object) -> str | None:
    """The name in `{ resource = "name" }`."""
    if not isinstance(value, Mapping) or len(cast(Mapping[Any, object], value)) != 1:
        return None
    name = cast(Mapping[Any, object], value).get("resource")
    return name if isinstance(name, str) else None


def _fits(value: object, member: Any) -> bool:
    """Whether `value` is one, as far as can be said of it."""
    kind = get_origin(member) or member
    if is_protocol(kind):
        return all(hasattr(value, name) for name in get_protocol_members(kind))
    try:
        return isinstance(value, kind)
    except TypeError:  # `Any`, and what else is no class
        return True


def _holds_objects(info: msgspec.inspect.Type | None) -> bool:
    """Whether something that is no data may stand there, or somewhere inside."""
    if info is None or isinstance(info, msgspec.inspect.AnyType):
        return True
    return any(isinstance(node, msgspec.inspect.CustomType) for node in nodes(info))


def _kind(value: object) -> str:
    return f"`{type(value).__name__}`"


def _annotation(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    hint = hints.get(parameter.name, parameter.annotation)
    return Any if hint is parameter.empty else hint


def _whole(parameter: inspect.Parameter) -> Any:
    """The type of all that a parameter takes."""
    one: Any = parameter.annotation
    return GenericAlias(tuple, (one, ...)) if parameter.kind is parameter.VAR_POSITIONAL else one


def type_text(hint: Any) -> str:
    """A type as Python writes it, without modules."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, members))
    if origin is Literal:
        return " | ".join(map(repr, members))
    if origin is Annotated:
        return type_text(members[0])
    if hint in (None, NoneType, ...):
        return "..." if hint is ... else "None"
    name = getattr(origin or hint, "__name__", str(hint))
    inside = ", ".join(map(type_text, members)) if origin is not Callable else ""
    return f"{name}[{inside}]" if inside else str(name)


def _default(parameter: inspect.Parameter) -> str:
    """A default as Python writes it; of an object, its name or class."""
    return _shown(() if parameter.kind is parameter.VAR_POSITIONAL else parameter.default)


def _field_default(field: msgspec.inspect.Field) -> str:
    return f"{_shown(field.default_factory)}()" if field.default is msgspec.NODEFAULT else _shown(field.default)


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, str | int | float | tuple | list | dict | frozenset):
        return repr(cast(object, value))
    return str(getattr(value, "__name__", type(value).__name__))


def _descriptions(layer: Callable[..., object]) -> dict[str, str]:
    """What the docstrings of the class and of its constructor say of each option."""
    own = {} if layer.__doc__ is None else summary_of(layer)[1]
    return summary_of(getattr(layer, "__init__"))[1] | own  # noqa: B009 - mypy: unsound otherwise
