"""G: what it costs to import and to install the core."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.harness import Case, Measure, Sides

ROOT = Path(__file__).parents[1]
CORE = ROOT / "agent_runtime"
DISTRIBUTION = "onion-agent-runtime"
CONTENTS = (CORE, ROOT / "middleware", ROOT / "adapters", ROOT / "docs")  # of its wheel
LIMIT = "msgspec"  # all that hand-written code would install

OURS = "import agent_runtime"
# Its libraries, by the names that it takes from them and with one model: pydantic loads its parts when they are needed.
LIBRARIES = """
import asyncio
import anyio, anyio.abc, anyio.lowlevel, anyio.streams.memory, anyio.to_thread
import msgspec
import typing_extensions
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
class Model(BaseModel): field: int
"""
ASYNCIO = "import asyncio"


def run(program: str) -> str:
    """What a fresh interpreter prints that keeps bytecode and is not watched by coverage."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("COVERAGE_")
    }
    command = [sys.executable, "-c", program]
    finished = subprocess.run(
        command, env=kept | {"PYTHONPATH": str(CORE)}, cwd=CORE, check=True, capture_output=True, text=True
    )
    return finished.stdout


def loaded(program: str) -> set[str]:
    """The modules of others and ours, by their first name, that are there after `program`."""
    names = run(f"{program}\nimport sys\nprint(*sys.modules)").split()
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def process(program: str) -> Measure:
    """Milliseconds of a whole process that runs `program`."""

    async def measured(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            run(program)
        return (time.perf_counter() - started) / number * 1e3

    return measured


@asynccontextmanager
async def imported(limit: str) -> AsyncGenerator[Sides]:
    more = loaded(OURS) - loaded(LIBRARIES)
    assert more == {"agent_runtime"}, f"the core imports {sorted(more)}: not all of these are in its libraries"
    yield Sides(limit=process(limit), ours=process(OURS))


def installed_with(name: str) -> set[str]:
    """`name` and all that it needs, without extras, as far as this platform needs it."""
    found: set[str] = set()
    wanted = [name]
    while wanted:
        distribution = canonicalize_name(wanted.pop())
        if distribution in found:
            continue
        found.add(distribution)
        for text in metadata.requires(distribution) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return found


def megabytes(distributions: Iterable[str]) -> float:
    """Their files without bytecode, which installers may or may not write."""
    paths = [
        Path(str(file.locate()))
        for name in distributions
        if name != DISTRIBUTION
        for file in metadata.files(name) or ()
    ]
    if DISTRIBUTION in distributions:  # installed in place: its files are those of the project
        paths += [path for folder in CONTENTS for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.exists()) / 1e6


@asynccontextmanager
async def installed(count: Callable[[set[str]], float]) -> AsyncGenerator[Sides]:
    ours = installed_with(DISTRIBUTION)
    assert {"anyio", "msgspec", "pydantic"} < ours

    async def limit(_: int) -> float:
        return count({LIMIT})

    async def counted(_: int) -> float:
        return count(ours)

    yield Sides(limit=limit, ours=counted)


CASES = (
    Case("G1, beside its libraries", "ms", partial(imported, LIBRARIES)),
    Case("G1, beside asyncio", "ms", partial(imported, ASYNCIO)),
    Case("G2, size", "MB", partial(installed, megabytes), counted=True),
    Case("G2, distributions", "", partial(installed, len), counted=True),
)
