"""`agent-runtime doctor`: whether everything is there that the runtime and the demo need."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Literal

import msgspec
import typer
from rich.text import Text

from agent_runtime_adapters.cli import late
from agent_runtime_adapters.cli.demo import default_docs
from agent_runtime_adapters.cli.doctor_stores import check_stores
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed
from agent_runtime_adapters.cli.library import read_library
from agent_runtime_adapters.cli.model import VARIABLES, chosen
from agent_runtime_adapters.cli.place import Json
from agent_runtime_adapters.cli.terminal import console, entry

_DISTRIBUTION = "onion-agent-runtime"
_OLDEST_PYTHON = (3, 11)
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,.-]+\])?(?:>=([\d.]+))?[^;]*(?:;.*extra == ['\"]([\w.-]+)['\"])?.*")

State = Literal["ok", "missing", "broken"]
_MARKS = {"ok": ("ok", "green"), "missing": ("-", "dim"), "broken": ("broken", "bold red")}
_COLUMN = 24


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; `missing` is nothing bad, `broken` is."""

    name: str
    state: State
    detail: str


class Requirement(msgspec.Struct, frozen=True):
    """A library that is needed, the oldest version that will do, and for which extra."""

    name: str
    least: str
    extra: str

    def check(self) -> Check:
        """Whether it is installed, and new enough."""
        try:
            installed = version(self.name)
        except PackageNotFoundError:
            return Check(self.name, "broken", "not installed")
        if _numbers(installed) < _numbers(self.least):
            return Check(self.name, "broken", f"{installed}, and {self.least} or later is needed")
        return Check(self.name, "ok", installed)


def doctor(
    stores: Annotated[
        str | None,
        typer.Option(
            "--stores", metavar="URL", help="Try the promises of the stores there, in a namespace of their own."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check what is installed, or stores at a URL.

    Exit code 1 when something is broken; what is only missing is nothing bad.
    """
    if stores is not None:
        check_stores(stores, as_json=as_json)
        return
    requirements = _requirements()
    sections = {
        "runtime": [_python(), *(item.check() for item in requirements if not item.extra)],
        "extras": list(_extras([item for item in requirements if item.extra not in ("", "all")])),
        "demo": [_docs(), *_environment(), *_endpoint()],
        "terminal": list(_terminal()),
    }
    if as_json:
        typer.echo(msgspec.json.encode(sections).decode())
    else:
        _print(sections)
    if any(check.state == "broken" for checks in sections.values() for check in checks):
        raise typer.Exit(FAILED)


def _requirements() -> list[Requirement]:
    try:
        lines = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        raise CommandFailed(f"{_DISTRIBUTION} is not installed", hint=f"pip install '{_DISTRIBUTION}[cli]'") from None
    matches = (_REQUIREMENT.fullmatch(line) for line in lines)
    return [Requirement(match[1], match[2] or "0", match[3] or "") for match in matches if match]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _python() -> Check:
    state: State = "ok" if sys.version_info >= _OLDEST_PYTHON else "broken"
    return Check("Python", state, f"{platform.python_version()} ({platform.python_implementation()})")


def _extras(requirements: list[Requirement]) -> Iterator[Check]:
    for extra in dict.fromkeys(item.extra for item in requirements):
        checks = [item.check() for item in requirements if item.extra == extra]
        if all(check.state == "ok" for check in checks):
            yield Check(extra, "ok", ", ".join(f"{check.name} {check.detail}" for check in checks))
        else:
            yield Check(extra, "missing", f"pip install '{_DISTRIBUTION}[{extra}]'")


def _docs() -> Check:
    try:
        library = read_library(default_docs())
    except CommandFailed as error:
        return Check("documents", "broken", str(error))
    return Check("documents", "ok", f"{len(library.files)} files, {len(library.passages)} passages")


def _environment() -> Iterator[Check]:
    for name in VARIABLES:
        is_set = bool(os.environ.get(name))
        yield Check(name, "ok" if is_set else "missing", "set" if is_set else "not set")


def _endpoint() -> Iterator[Check]:
    try:
        choice = chosen(os.environ)
        if choice is None:
            yield Check("model", "missing", "none configured: the demo quotes passages")
            return
        endpoint = late.endpoint()(choice, os.environ)
    except CommandFailed as error:
        yield Check("model", "broken", f"{error}{f'; {error.hint}' if error.hint else ''}")
        return
    problem = endpoint.problem()
    yield Check("model", "ok", choice.model)
    yield Check("endpoint", "broken" if problem else "ok", f"{choice.host} {problem or 'answers'}")


def _terminal() -> Iterator[Check]:
    out = console()
    if out.is_terminal:
        yield Check("output", "ok", f"a terminal of {out.width} columns, {out.color_system or 'no'} colours")
    else:
        yield Check("output", "ok", "a file or a pipe: plain text")
    yield Check("encoding", "ok" if out.encoding.startswith("utf") else "missing", out.encoding)


def _print(sections: dict[str, list[Check]]) -> None:
    out = console()
    for place, (title, checks) in enumerate(sections.items()):
        if place:
            out.print()
        out.print(Text(title, style="bold"))
        for check in checks:
            mark, style = _MARKS[check.state]
            label = Text.assemble(f"  {check.name:<{_COLUMN}}", (mark, style))
            entry(out, label, check.detail, column=_COLUMN + 10)
