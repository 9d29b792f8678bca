"""A pipeline as data: a list of names and options becomes layers."""

import inspect
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from agent_runtime.config_document import TWO_BRACKETS, ConfigDocument, TomlDocument, open_document
from agent_runtime.errors import ConfigurationError
from agent_runtime.layer import BaseMiddleware, layer_calls, layer_name
from agent_runtime.layer_options import Misfit, is_required, option_value, parameters_of_layer
from agent_runtime.plugins import LayerClass, Plugin, installed_plugins, load_layer, shown, suggestion
from agent_runtime.stand_ins import StandIns
from agent_runtime.types import Value

_NULL = re.compile(r"(?<=[`\w]) \| null(?=[` ])")  # of a type, as msgspec writes it; TOML has no such value
_LAYERS = "layers"
_USE = "use"
_NAME = "name"


class Declared(Value, frozen=True, eq=False):
    """A layer, and where a file declares it: `file:line`, empty for a mapping."""

    layer: Any
    where: str


def read_layers(source: str | os.PathLike[str] | Mapping[str, Any], resources: Mapping[str, object]) -> list[Declared]:
    """The layers of a pipeline file, or of a mapping of its form.

    Only classes that are installed as layers are made. What is wrong is a `ConfigurationError` that says where.
    """
    document = open_document(source)
    plugins = installed_plugins()
    lent = resources if isinstance(resources, StandIns) else _Lent(resources)
    found: list[Declared] = []
    for place, content in enumerate(_contents(document)):
        entry = _Entry(document, place, content)
        layer = entry.layer(plugins, lent)
        name = layer_name(layer)
        if any(layer_name(other.layer) == name for other in found):
            entry.refuse(f"a layer before it is named {name!r} too; give one of them another `name`", _NAME)
        found.append(Declared(layer, document.where((_LAYERS, place))))
    unused = sorted(lent.keys() - lent.used) if isinstance(lent, _Lent) else []
    if unused:
        _refuse(document.where(()), f"no layer uses the resources {unused}; take them out, or name them in the file")
    return found


class _Lent(dict[str, object]):
    """The objects of the program, and which of them a layer has been given."""

    def __init__(self, resources: Mapping[str, object]) -> None:
        super().__init__(resources)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> object:
        self.used.add(name)
        return super().__getitem__(name)


def _contents(document: ConfigDocument) -> Sequence[object]:
    """What is under `layers`, which is all there may be."""
    data = document.data
    if not isinstance(data, Mapping):
        _refuse(document.where(()), f"a pipeline is a table with `{_LAYERS}`, not {type(data).__name__}")
    table = cast(Mapping[Any, object], data)
    for key in table:
        if key != _LAYERS:
            where = document.where((key,)) if isinstance(key, str) else ""
            _refuse(where, f"{shown(key)} is unknown{suggestion(str(key), [_LAYERS])}; a pipeline has only `{_LAYERS}`")
    contents = table.get(_LAYERS)
    if not isinstance(contents, list | tuple):
        hint = f"; {TWO_BRACKETS}" if isinstance(document, TomlDocument) and isinstance(contents, Mapping) else ""
        _refuse(document.where((_LAYERS,)), f"`{_LAYERS}` must be a list of tables{hint}")
    return cast(Sequence[object], contents)


class _Entry:
    """One layer of the document."""

    def __init__(self, document: ConfigDocument, place: int, content: object) -> None:
        self._document = document
        self._path = (_LAYERS, place)
        self._label = f"layer {place + 1}"
        if not isinstance(content, Mapping):
            self.refuse(f"must be a table with `{_USE}`, not {type(content).__name__}")
        self._options: dict[Any, object] = dict(cast(Mapping[Any, object], content))
        self._use = self._options.pop(_USE, None)
        if not isinstance(self._use, str):
            self.refuse(f"needs `{_USE}`, the name of an installed layer", _USE)
        self._label += f" ({shown(self._use)})"

    def refuse(self, reason: str, *path: str | int) -> NoReturn:
        """Raise a `ConfigurationError` about what is at `path` of this layer."""
        _refuse(self._document.where((*self._path, *path)), f"{self._label}: {reason}")

    def layer(self, plugins: Sequence[Plugin], resources: Mapping[str, object]) -> Any:
        """The layer, made with its options."""
        try:
            made_by = load_layer(cast(str, self._use), plugins)
            parameters = {parameter.name: parameter for parameter in parameters_of_layer(made_by)}
        except ConfigurationError as error:
            self.refuse(str(error), _USE)
        renamed: object = None if _NAME in parameters else self._options.pop(_NAME, None)
        self._check_names(parameters)
        values = OrderedDict(
            (name, self._value(parameters[name], value, resources)) for name, value in self._options.items()
        )
        try:
            made = _call(made_by, list(parameters.values()), values)
            layer_calls(made)
        except (ValueError, TypeError) as error:
            self.refuse(str(error))
        except Exception as error:  # noqa: BLE001 - a stranger's constructor may raise anything
            self.refuse(f"{type(error).__name__}: {error}")
        return made if renamed is None else self._renamed(made, renamed)

    def _check_names(self, parameters: Mapping[str, inspect.Parameter]) -> None:
        for name in self._options:
            if name not in parameters:
                known = ", ".join(parameters) or "none"
                self.refuse(
                    f"option {shown(name)} is unknown{suggestion(str(name), list(parameters))}; there are: {known}",
                    name,
                )
        for name, parameter in parameters.items():
            if is_required(parameter) and name not in self._options:
                self.refuse(f"option {name!r} is missing")

    def _value(self, parameter: inspect.Parameter, value: object, resources: Mapping[str, object]) -> object:
        try:
            return option_value(parameter, value, resources)
        except Misfit as error:
            reason = _NULL.sub("", str(error)) if isinstance(self._document, TomlDocument) else str(error)
            self.refuse(f"option {parameter.name!r}: {reason}", parameter.name, *error.path)

    def _renamed(self, layer: object, name: object) -> BaseMiddleware:
        if not isinstance(name, str) or not name:
            self.refuse(f"`{_NAME}` must be text", _NAME)
        if not isinstance(layer, BaseMiddleware):
            self.refuse(f"`{_NAME}` is not for this layer: its class is no BaseMiddleware", _NAME)
        return layer.named(name)


def _call(made_by: LayerClass, parameters: list[inspect.Parameter], values: OrderedDict[str, Any]) -> object:
    bound = inspect.BoundArguments(inspect.Signature(parameters), values)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        bound.apply_defaults()  # what stands before `*args` must be given by place
    return made_by(*bound.args, **bound.kwargs)


def _refuse(where: str, reason: str) -> NoReturn:
    raise ConfigurationError(f"{where}: {reason}" if where else reason)
