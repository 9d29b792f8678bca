"""Run where only the wheel and its core dependencies are installed: it must be small, typed and import alone."""

import sys
from importlib import metadata, resources

import agent_runtime

LIMIT = 12
PACKAGES = ("agent_runtime", "agent_runtime_middleware", "agent_runtime_adapters")
EXTRAS = {"bm25s", "hypothesis", "jwt", "litellm", "numpy", "openai", "pytest", "rich", "structlog", "trio", "typer"}

installed = sorted(distribution.name for distribution in metadata.distributions())
if len(installed) > LIMIT:
    sys.exit(f"{len(installed)} distributions are installed, the limit is {LIMIT}: {installed}")
if loaded := EXTRAS & sys.modules.keys():
    sys.exit(f"importing {agent_runtime.__name__} loads {sorted(loaded)}")
for package in PACKAGES:
    if not resources.files(package).joinpath("py.typed").is_file():
        sys.exit(f"{package} has no py.typed")
if not resources.files("agent_runtime_adapters").joinpath("cli/docs/index.md").is_file():
    sys.exit("the wheel holds no documentation for the demo")
print(f"{len(installed)} distributions: {', '.join(installed)}")  # noqa: T201  (a check speaks to a terminal)
