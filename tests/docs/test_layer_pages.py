"""The page of each layer lists the options that its class has."""

import pytest
from tests.docs.test_tables import DOCS, rows

from agent_runtime import Plugin, installed_plugins, layer_options, load_plugin

PAGES = {page.stem.replace("-", "_"): page for page in (DOCS / "layers").glob("*.md")}
OURS = [plugin for plugin in installed_plugins() if plugin.distribution == "onion-agent-runtime"]


IN_WORDS = {"auth"}  # it takes any number of objects, and no other option


@pytest.mark.parametrize(
    "plugin", [plugin for plugin in OURS if plugin.name in PAGES.keys() - IN_WORDS], ids=lambda plugin: plugin.name
)
def test_the_options_of_the_page_are_those_of_the_class_in_their_order(plugin: Plugin) -> None:
    page = PAGES[plugin.name].relative_to(DOCS).as_posix()
    listed = [name for first, *_ in rows(page, "option") for name in first.split(", ")]
    assert listed == [option.name for option in layer_options(load_plugin(plugin.name))]
