"""The import rule, enforced: adapters and middleware -> public core -> nothing of ours.

- The core imports nothing of ours outside the core, and of others only what it depends on.
- A layer or an adapter imports only names that `agent_runtime` or `agent_runtime.testing` exports: no submodule of the
  core, no sibling, not each other; and at most one third-party library. One that is a folder may import its own parts.
- No cycle, no relative import, no import inside a function, no `_private` name of another file.

The composition roots put the parts together, so they may import siblings and several libraries, and nothing else is
different for them.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "agent_runtime": "agent_runtime",
    "agent_runtime_middleware": "middleware",
    "agent_runtime_adapters": "adapters",
}
COMPOSITION_ROOTS = ("agent_runtime_adapters/cli/", "agent_runtime_middleware/presets.py")

CORE_LIBRARIES = {"anyio", "msgspec", "pydantic", "typing_extensions"}
TESTING_LIBRARIES = CORE_LIBRARIES | {"hypothesis", "pytest", "trio"}
# Parts of a library that have an import name of their own.
LIBRARY_OF = {
    "httpx2": "openai",  # the transport of openai's client; whoever sets its timeouts and pool names both
    "bson": "pymongo",
    "langchain_core": "langgraph",  # the types that langgraph's own signatures name
}


@dataclass(frozen=True, slots=True)
class Import:
    """`import module` when `name` is `None`, `from module import name` otherwise."""

    module: str
    name: str | None
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"line {self.line}: {self.module}" + (f".{self.name}" if self.name else "")


def imports(node: ast.AST, *, in_function: bool = False) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, None, node.lineno, in_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (Import(module, alias.name, node.lineno, in_function) for alias in node.names)
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, in_function=inside)


def library(module: str) -> str | None:
    """The third-party library that `module` belongs to; `None` for the standard library's and ours."""
    top = module.partition(".")[0]
    if not top or top in sys.stdlib_module_names or top in PACKAGES:
        return None
    return LIBRARY_OF.get(top, top)


def is_private(path: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in path.split("."))


def problems(path: str, source: str, exports: Mapping[str, set[str]]) -> list[str]:
    """What is wrong with the imports of the file at `path`, which starts with its import package."""
    found = list(imports(ast.parse(source)))
    package = path.partition("/")[0]
    wrong = [f"{item}: import at the top of the file" for item in found if item.in_function]
    wrong += [f"{item}: write the import in full" for item in found if item.module.startswith(".")]
    wrong += [f"{item}: private to another file" for item in found if is_private(f"{item.module}.{item.name or ''}")]
    ours = [item for item in found if item.module.partition(".")[0] in PACKAGES]
    if package == "agent_runtime":
        return wrong + core_problems(path, found, ours)
    wrong += [problem for item in ours for problem in outer_problems(path, item, exports)]
    libraries = {name for item in found if (name := library(item.module))} - CORE_LIBRARIES
    if len(libraries) > 1 and not path.startswith(COMPOSITION_ROOTS):
        wrong.append(f"one third-party library per file, here are {sorted(libraries)}")
    return wrong


def core_problems(path: str, found: list[Import], ours: list[Import]) -> list[str]:
    testing = path.startswith("agent_runtime/testing/")
    allowed = TESTING_LIBRARIES if testing else CORE_LIBRARIES
    wrong = [
        f"{item}: the core does not depend on it" for item in found if library(item.module) not in {*allowed, None}
    ]
    wrong += [f"{item}: outside the core" for item in ours if item.module.partition(".")[0] != "agent_runtime"]
    if not testing:
        wrong += [
            f"{item}: only tests import the testing package"
            for item in ours
            if f"{item.module}.{item.name}".startswith("agent_runtime.testing")
        ]
    return wrong


def outer_problems(path: str, item: Import, exports: Mapping[str, set[str]]) -> Iterator[str]:
    if item.module.partition(".")[0] == "agent_runtime":
        if item.name not in exports.get(item.module, set()):
            yield f"{item}: not a name that agent_runtime or agent_runtime.testing exports"
    elif not path.startswith(COMPOSITION_ROOTS) and not own_part(path, item.module):
        yield f"{item}: a sibling; share through the core, or compose in a composition root"


def own_part(path: str, module: str) -> bool:
    """Whether `path` and `module` belong to the same layer or adapter: one that is a folder has parts."""
    package, _, rest = path.partition("/")
    folder, is_folder, _ = rest.partition("/")
    return bool(is_folder) and module.startswith(f"{package}.{folder}.")


def cycle(sources: Mapping[str, str]) -> list[str] | None:
    """The first import cycle among the modules `{dotted name: source}`, or `None`."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        targets = {(item.module, f"{item.module}.{item.name}") for item in imports(ast.parse(source))}
        graph[module] = {inner if inner in sources else outer for outer, inner in targets}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(module) for module in error.args[1]]
    return None


def exported(package: Path) -> set[str]:
    """The names in `__all__` of a package, which is written as a literal."""
    for node in ast.parse((package / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{package} has no literal __all__")


def source_files() -> dict[str, Path]:
    return {
        file.relative_to(ROOT / folder).as_posix(): file
        for package, folder in PACKAGES.items()
        for file in sorted((ROOT / folder / package).rglob("*.py"))
    }


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


FILES = source_files()
CORE = ROOT / "agent_runtime/agent_runtime"
SAMPLE_EXPORTS = {"agent_runtime": {"AgentContext"}, "agent_runtime.testing": {"ScriptedLLMClient"}}


@pytest.mark.parametrize("path", FILES)
def test_imports_point_inwards(path: str) -> None:
    exports = {"agent_runtime": exported(CORE), "agent_runtime.testing": exported(CORE / "testing")}
    assert problems(path, FILES[path].read_text("utf-8"), exports) == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle({module_name(path): file.read_text("utf-8") for path, file in FILES.items()}) is None


def test_the_composition_roots_exist_and_nothing_else_is_exempt() -> None:
    assert all(path.startswith(("agent_runtime_adapters/", "agent_runtime_middleware/")) for path in COMPOSITION_ROOTS)
    assert any(path.startswith(COMPOSITION_ROOTS) for path in FILES)


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("agent_runtime/x.py", "from agent_runtime_middleware.retry import Retry", "outside the core"),
        ("agent_runtime/x.py", "import agent_runtime_adapters", "outside the core"),
        ("agent_runtime/x.py", "import openai", "does not depend on it"),
        ("agent_runtime/x.py", "import pytest", "does not depend on it"),
        ("agent_runtime/x.py", "from opentelemetry import trace", "does not depend on it"),
        ("agent_runtime/x.py", "from agent_runtime.testing import FakeClock", "only tests import"),
        ("agent_runtime/x.py", "from agent_runtime import testing", "only tests import"),
        ("agent_runtime/x.py", "from .types import Owner", "in full"),
        ("agent_runtime/x.py", "from agent_runtime.types import _Owner", "private"),
        ("agent_runtime/x.py", "from agent_runtime._types import Owner", "private"),
        ("agent_runtime/x.py", "def f():\n    import json", "top of the file"),
        ("agent_runtime/x.py", "class C:\n    async def f(self):\n        from json import loads", "top of the file"),
        ("agent_runtime/testing/x.py", "import structlog", "does not depend on it"),
        ("agent_runtime_middleware/x.py", "from agent_runtime.types import AgentContext", "not a name"),
        ("agent_runtime_middleware/x.py", "from agent_runtime import Hidden", "not a name"),
        ("agent_runtime_middleware/x.py", "import agent_runtime", "not a name"),
        ("agent_runtime_middleware/x.py", "from agent_runtime import *", "not a name"),
        ("agent_runtime_middleware/x.py", "from agent_runtime.testing import AgentContext", "not a name"),
        ("agent_runtime_middleware/x.py", "from agent_runtime_middleware.retry import Retry", "a sibling"),
        ("agent_runtime_middleware/x.py", "from agent_runtime_adapters.openai import Client", "a sibling"),
        ("agent_runtime_adapters/x/a.py", "from agent_runtime_adapters.y.b import B", "a sibling"),
        ("agent_runtime_adapters/x/a.py", "from agent_runtime_adapters.xy import B", "a sibling"),
        ("agent_runtime_adapters/x.py", "import agent_runtime_middleware", "a sibling"),
        ("agent_runtime_adapters/x.py", "import openai\nimport redis.asyncio", "one third-party library"),
        ("agent_runtime_adapters/x.py", "from openai._types import NotGiven", "private"),
        ("agent_runtime_adapters/cli/x.py", "from agent_runtime.types import AgentContext", "not a name"),
        ("agent_runtime_adapters/cli/x.py", "if True:\n    def f():\n        import rich", "top of the file"),
    ],
)
def test_a_bad_import_is_found(path: str, source: str, reason: str) -> None:
    [problem] = problems(path, source, SAMPLE_EXPORTS)
    assert reason in problem


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent_runtime_adapters/x/a.py", "from agent_runtime_adapters.x.b import B"),
        ("agent_runtime/x.py", "import json\nimport anyio.abc\nimport msgspec"),
        ("agent_runtime/x.py", "from __future__ import annotations\nfrom agent_runtime.types import Owner"),
        ("agent_runtime/testing/x.py", "import pytest, hypothesis, trio\nfrom agent_runtime.types import Owner"),
        ("agent_runtime_middleware/x.py", "from agent_runtime import AgentContext\nimport jwt\nimport jwt.algorithms"),
        ("agent_runtime_middleware/x.py", "from agent_runtime.testing import ScriptedLLMClient"),
        ("agent_runtime_middleware/presets.py", "from agent_runtime_middleware.retry import RetryMiddleware"),
        ("agent_runtime_adapters/x.py", "import httpx2\nimport openai\nimport pydantic"),
        ("agent_runtime_adapters/cli/x.py", "import rich\nimport typer\nfrom agent_runtime_middleware.retry import R"),
    ],
)
def test_a_good_import_passes(path: str, source: str) -> None:
    assert problems(path, source, SAMPLE_EXPORTS) == []


def test_a_cycle_is_found_also_through_a_package() -> None:
    assert cycle({"p": "", "p.a": "from p import b", "p.b": "import json"}) is None
    assert cycle({"p": "", "p.a": "from p import b", "p.b": "from p.a import c"}) is not None
    assert cycle({"p": "from p.a import x", "p.a": "from p import y"}) is not None
