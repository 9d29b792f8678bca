"""What a user gets who installs the distribution, and what `import agent_runtime` costs them in modules."""

import importlib
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CORE_LIBRARIES = {"anyio", "msgspec", "pydantic", "typing-extensions"}
# Installed with the core, and loaded only by the layers that use it.
LAYERS_LIBRARIES = {"opentelemetry-api"}
# Loaded when they are there, and not needed: by anyio, and by the standard library.
HARMLESS = ("sniffio", "_sysconfigdata_")
PRINT_LOADED = """
import sys
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(module: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `import module`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRINT_LOADED.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def closure(names: set[str]) -> set[str]:
    """`names` and everything that they need, without extras, in this environment."""
    found: set[str] = set()
    pending = set(names)
    while pending:
        name = pending.pop()
        found.add(name)
        requirements = (Requirement(text) for text in metadata.requires(name) or ())
        applicable = (item for item in requirements if item.marker is None or item.marker.evaluate({"extra": ""}))
        pending |= {str(canonicalize_name(item.name)) for item in applicable} - found
    return found


@pytest.mark.parametrize("package", ["agent_runtime", "agent_runtime_middleware", "agent_runtime_adapters"])
def test_an_import_loads_the_core_libraries_and_nothing_else(package: str) -> None:
    modules = loaded_by(package)
    needed = closure(CORE_LIBRARIES)
    allowed = {
        name
        for name, owners in metadata.packages_distributions().items()
        if needed & {canonicalize_name(owner) for owner in owners}
    }
    tops = {module.partition(".")[0] for module in modules if not module.startswith(HARMLESS)}
    assert tops - sys.stdlib_module_names - allowed - {"agent_runtime", package} == set()


def test_the_core_installs_at_most_twelve_distributions() -> None:
    assert len(closure(CORE_LIBRARIES | LAYERS_LIBRARIES)) + 1 <= 12


def test_the_declared_dependencies_are_those_of_the_core_and_of_its_layers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {Requirement(text).name for text in project["dependencies"]} == CORE_LIBRARIES | LAYERS_LIBRARIES


def pins(*constraints: str) -> set[str]:
    return {Requirement(line).name for name in constraints for line in (ROOT / name).read_text("utf-8").splitlines()}


def test_every_dependency_has_a_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras, needed = project["project"]["optional-dependencies"], project["project"]["dependencies"]
    apart = {Requirement(text).name for text in (*needed, *extras.pop("litellm"), *extras["testing"])}
    groups = [needed, *extras.values(), *project["dependency-groups"].values()]
    declared = {Requirement(text).name for texts in groups for text in texts}
    assert declared - {"onion-agent-runtime"} <= pins("constraints.txt")
    assert apart <= pins("constraints-litellm.txt")


def test_what_pytest_leaves_out_is_run_by_name_in_an_environment_of_its_own() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    left_out = {folder.name for folder in (ROOT / "tests").iterdir() if folder.name in settings["norecursedirs"]}
    assert left_out == {"adapters_litellm"}
    assert "$(LITELLM_VENV)/bin/python -m pytest tests/adapters_litellm\n" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.parametrize("library", ["hypothesis", "pytest"])
def test_without_its_extra_testing_names_it(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for module in [name for name in sys.modules if name.startswith("agent_runtime.testing")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"onion-agent-runtime\[testing\]"):
        importlib.import_module("agent_runtime.testing")
