"""Layers by entry point: which are offered, and what is said of one that cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.distributions import LAYER, install, put_on_path

from agent_runtime import ConfigurationError, Plugin, Stage, installed_plugins, layer_stages, load_plugin
from agent_runtime_middleware.timeout import TimeoutMiddleware


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path; what was imported from it is forgotten afterwards."""
    put_on_path(tmp_path, monkeypatch)
    for module in ("shout_module", "broken_module", "leaving_module", "extra_module", "odd_module"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def refusal(name: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load_plugin(name)
    return str(raised.value)


def test_our_own_layers_are_declared_as_everybody_s_are() -> None:
    ours = {plugin.name: plugin for plugin in installed_plugins() if plugin.distribution == "onion-agent-runtime"}
    assert ours["timeout"].target == "agent_runtime_middleware.timeout:TimeoutMiddleware"
    assert load_plugin("timeout") is TimeoutMiddleware


def test_every_layer_of_ours_loads_and_is_called_as_its_class() -> None:
    for plugin in installed_plugins():
        layer = load_plugin(plugin.name)
        assert f"{getattr(layer, '__name__', '')}" == plugin.target.partition(":")[2]


def test_a_strangers_layer_is_listed_with_its_distribution_and_loaded_by_name(folder: Path) -> None:
    install(folder, "shouting", {"shout": "shout_module:Shout"}, shout_module=LAYER)
    plugin = Plugin(name="shout", target="shout_module:Shout", distribution="shouting", version="1.0")
    assert plugin in installed_plugins()
    assert str(plugin) == "'shout' of shouting 1.0"
    assert "shout_module" not in sys.modules
    assert layer_stages(load_plugin("shout")) == (Stage.RUN,)


def test_listing_and_importing_the_runtime_loads_no_plugin() -> None:
    program = (
        "import sys, agent_runtime; agent_runtime.installed_plugins(); print('agent_runtime_middleware' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_unknown_name_says_which_there_are_and_which_is_close() -> None:
    words = refusal("timeot")
    assert words.startswith("no installed distribution offers a layer 'timeot' (did you mean 'timeout'?); there are: ")
    assert "retry" in words


def test_an_unknown_name_that_is_close_to_none_is_cut_where_it_is_long() -> None:
    assert refusal("x" * 1000).startswith(f"no installed distribution offers a layer '{'x' * 59}…; there are: ")


def test_without_any_plugin_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert refusal("timeout") == "no installed distribution offers a layer 'timeout'; there are: none"


def test_two_distributions_with_one_name_are_both_named(folder: Path) -> None:
    for name in ("louder", "shouting"):
        install(folder, name, {"shout": "shout_module:Shout"}, shout_module=LAYER)
    assert refusal("shout") == "several distributions offer 'shout': louder 1.0 and shouting 1.0; uninstall all but one"


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        ("extra_module:Layer", "import a_library_that_is_missing", "No module named 'a_library_that_is_missing'"),
        ("extra_module:Layer", "raise ImportError('pip install stranger[extra]')", "pip install stranger[extra]"),
        ("broken_module:Layer", "1 / 0", "ZeroDivisionError: division by zero"),
        ("leaving_module:Layer", "raise SystemExit(3)", "SystemExit: 3"),
        ("broken_module:Nothing", "", "AttributeError: module 'broken_module' has no attribute 'Nothing'"),
        ("nowhere:Layer", "", "No module named 'nowhere'"),
    ],
)
def test_a_layer_that_does_not_import_says_whose_it_is_and_why(
    folder: Path, target: str, source: str, reason: str
) -> None:
    module = target.partition(":")[0]
    install(folder, "stranger", {"odd": target}, **({} if module == "nowhere" else {module: source}))
    assert refusal("odd") == f"plugin 'odd' of stranger 1.0 does not import: {reason}"


@pytest.mark.parametrize(
    "source",
    [
        "Thing = 3",
        "def Thing(context, call_next): ...",
        "class Thing: pass",
        "from agent_runtime import BaseMiddleware as Thing",
        "from agent_runtime import BaseMiddleware\nThing = type('T', (BaseMiddleware,), {})()",
        "from abc import ABC, abstractmethod\nclass Thing(ABC):\n @abstractmethod\n async def process(self, c, n): ...",
    ],
)
def test_what_is_no_class_of_layers_is_refused(folder: Path, source: str) -> None:
    install(folder, "stranger", {"odd": "odd_module:Thing"}, odd_module=source)
    assert refusal("odd") == (
        "plugin 'odd' of stranger 1.0: odd_module:Thing is no class of layers; it needs an async process, process_model "
        "or process_tool"
    )
