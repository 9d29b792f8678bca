"""`agent-runtime plugins`: the layers that a pipeline file can name."""

import inspect
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from agent_runtime import (
    ConfigurationError,
    LayerClass,
    LayerKind,
    LayerOption,
    Plugin,
    Stage,
    installed_plugins,
    layer_options,
    layer_stages,
    load_plugin,
)
from agent_runtime_adapters.cli.place import Json
from agent_runtime_adapters.cli.terminal import console, entry, printable

_COLUMN = 18


class Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin as it is found; `error` says why it cannot be used."""

    name: str
    target: str
    distribution: str
    version: str
    kind: str = ""
    stages: tuple[Stage, ...] = ()
    error: str = ""


class Described(Listed, frozen=True):
    """A plugin with what it says of itself."""

    summary: str = ""
    options: tuple[LayerOption, ...] = ()


def plugins(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show the options of this one.")] = None,
    as_json: Json = False,
) -> None:
    """List layers that a pipeline file can name.

    Each is imported to see what it is. One that cannot be is listed with the reason.
    """
    if name is None:
        listed = [_listed(plugin) for plugin in installed_plugins()]
        _print_json({"plugins": listed}) if as_json else _print_list(listed)
        return
    layer = load_plugin(name)
    [plugin] = (plugin for plugin in installed_plugins() if plugin.name == name)
    described = Described(**_facts(plugin, layer), summary=_summary(layer), options=layer_options(layer))
    _print_json(described) if as_json else _print_one(described)


def _listed(plugin: Plugin) -> Listed:
    try:
        return Listed(**_facts(plugin, load_plugin(plugin.name)))
    except ConfigurationError as error:
        return Listed(plugin.name, plugin.target, plugin.distribution, plugin.version, error=str(error))


def _facts(plugin: Plugin, layer: LayerClass) -> dict[str, Any]:
    kind = getattr(layer, "kind", LayerKind.OTHER)
    return {**msgspec.structs.asdict(plugin), "kind": str(kind), "stages": layer_stages(layer)}


def _summary(layer: LayerClass) -> str:
    """The first paragraph of the class's own docstring."""
    return inspect.cleandoc(layer.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _print_json(document: object) -> None:
    typer.echo(msgspec.json.encode(document).decode())


def _print_list(listed: list[Listed]) -> None:
    out = console()
    for plugin in listed:
        label = Text(printable(plugin.name), style="bold red" if plugin.error else "bold")
        entry(out, label, plugin.error or _origin(plugin), column=max(_COLUMN, label.cell_len + 2))


def _origin(plugin: Listed) -> str:
    where = plugin.target.replace(":", ".")
    return f"{plugin.kind} ({', '.join(plugin.stages)}), {where}, {plugin.distribution} {plugin.version}"


def _print_one(plugin: Described) -> None:
    out = console()
    entry(out, Text(printable(plugin.name), style="bold"), _origin(plugin), column=_COLUMN)
    if plugin.summary:
        out.print()
        entry(out, Text(), plugin.summary, column=2)
    out.print()
    _print_options(out, plugin.options, indent=2)
    if not plugin.options:
        entry(out, Text(), "It has no options.", column=2)


def _print_options(out: Console, options: tuple[LayerOption, ...], *, indent: int) -> None:
    """Each with its type, default and description; below it, and further in, the fields of the data that it takes."""
    for option in options:
        label = Text(" " * indent).append(printable(option.name), style="cyan")
        column = max(_COLUMN, label.cell_len + 2)
        given = "required" if option.required else f"default {option.default}"
        named = "; in a file: { resource = … }" if option.resource else ""
        entry(out, label, f"{option.type}, {given}{named}", column=column)
        if option.description:
            entry(out, Text(), option.description, column=column)
        _print_options(out, option.fields, indent=indent + 2)
