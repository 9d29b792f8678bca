"""Layers that installed distributions offer by name, and the formats of pipeline files: entry points, loaded when asked."""

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeAlias, cast

from agent_runtime.errors import ConfigurationError
from agent_runtime.layer import ModelLayer, RunLayer, ToolLayer, layer_stages
from agent_runtime.types import Value

LAYERS = "agent_runtime.middleware"
FORMATS = "agent_runtime.config_formats"

LayerClass: TypeAlias = Callable[..., RunLayer | ModelLayer | ToolLayer]
"""A class whose instances are layers."""


class Plugin(Value, frozen=True, kw_only=True):
    """A layer's class that an installed distribution declares. Nothing of it is imported yet.

    Attributes:
        name: What a pipeline file and `load_plugin` know it by.
        target: Where the class is, `module:Class`.
        distribution: The name of the distribution that declares it.
        version: Of the distribution.
    """

    name: str
    target: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name!r} of {self.distribution} {self.version}"


def installed_plugins() -> tuple[Plugin, ...]:
    """Every layer that an installed distribution declares in the entry-point group `agent_runtime.middleware`, by name."""
    return declared(LAYERS)


def load_plugin(name: str) -> LayerClass:
    """Import the layer's class that is installed under `name`, and nothing else.

    Raises `ConfigurationError` when no distribution declares the name, when several do, when the class does not import
    (a library is missing), and when it is no class of layers. Each names the distribution and the reason.
    """
    return load_layer(name, installed_plugins())


def load_layer(name: str, plugins: Sequence[Plugin]) -> LayerClass:
    """As `load_plugin`, among `plugins`."""
    known = [plugin for plugin in plugins if plugin.name == name]
    if not known:
        names = sorted({plugin.name for plugin in plugins})
        raise ConfigurationError(
            f"no installed distribution offers a layer {shown(name)}{suggestion(name, names)}; there are: "
            f"{', '.join(names) or 'none'}"
        )
    plugin = sole(known)
    found: Any = load(plugin, LAYERS)
    if not inspect.isclass(found) or not layer_stages(found) or inspect.isabstract(found):
        raise ConfigurationError(
            f"plugin {plugin}: {plugin.target} is no class of layers; it needs an async process, process_model or "
            "process_tool"
        )
    return cast(LayerClass, found)


def declared(group: str) -> tuple[Plugin, ...]:
    """The entry points of `group`, by name."""
    found = [
        Plugin(name=entry.name, target=entry.value, distribution=entry.dist.name, version=entry.dist.version)
        for entry in entry_points(group=group)
        if entry.dist is not None
    ]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def sole(plugins: Sequence[Plugin]) -> Plugin:
    """The only one; a `ConfigurationError` names those that have the same name."""
    if len(plugins) > 1:
        raise ConfigurationError(
            f"several distributions offer {plugins[0].name!r}: "
            f"{' and '.join(f'{plugin.distribution} {plugin.version}' for plugin in plugins)}; uninstall all but one"
        )
    return plugins[0]


def load(plugin: Plugin, group: str, *, what: str | None = None) -> object:
    """Import what `plugin` names; a `ConfigurationError` says why it cannot be, of `what` where a library is missing."""
    try:
        found: object = EntryPoint(plugin.name, plugin.target, group).load()
    except ImportError as error:
        raise ConfigurationError(f"{what or f'plugin {plugin} does not import'}: {error}") from error
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything
        raise ConfigurationError(f"plugin {plugin} does not import: {type(error).__name__}: {error}") from error
    return found


def shown(name: object) -> str:
    """`name` as it is written, cut where it is long."""
    text = repr(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def suggestion(name: str, known: Sequence[str]) -> str:
    """` (did you mean …?)` where one of `known` is close."""
    close = get_close_matches(name[:_SHOWN], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_SHOWN = 60  # characters
