"""`agent-runtime doctor --stores URL`: whether the stores there keep their promises."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import anyio
import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from agent_runtime import AgentRuntimeError
from agent_runtime_adapters.cli.doctor_lines import Found, Line, Tried, promises
from agent_runtime_adapters.cli.doctor_place import VARIABLE, Trial, place_of
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed
from agent_runtime_adapters.cli.kept import options_of
from agent_runtime_adapters.cli.terminal import console, entry, notice, printable

_NEEDED = ("pytest", "hypothesis", "trio")
_PROMISES = Path(__file__).with_name("doctor_promises.py")
_REPORTS = "agent_runtime_adapters.cli.doctor_reports"
_SETTINGS = "[pytest]\nanyio_mode = auto\nfilterwarnings = default\n"
_COLUMN = 18
_LAST_WORDS = 5.0  # seconds for the other process to end when it is told to
_EVERY = 50  # trials between two lines of progress
_MOST_NOISE = 2_000  # characters of what a process said that did not end well

_line = msgspec.json.Decoder(Line)


def check_stores(where: str, *, as_json: bool) -> None:
    """Try the promises in a namespace of their own at the URL, and print what was kept; exit code 1 when one was not.

    Raises `ConfigurationError` for a URL that is wrong, or whose library is missing; `CommandFailed` for stores that cannot
    be reached or are not fit, and when the `testing` extra is missing.
    """
    for library in _NEEDED:
        if find_spec(library) is None:
            raise CommandFailed(f"the library {library} is missing", hint="pip install 'onion-agent-runtime[testing]'")
    url, _, options = where.partition("#")
    place = place_of(url, options_of(options))
    name = _connected(place)
    notice(f"{name}: trying its promises in {place.namespace}, which is removed at the end")
    try:
        found = promises(_trials(place))
    finally:
        anyio.run(_erased, place)
    _print_json(name, found) if as_json else _print(name, found)
    if _broken(found):
        raise typer.Exit(FAILED)


def _connected(place: Trial) -> str:
    """What the stores are called, when they have been reached and are fit."""
    stores = place.open()

    async def connect() -> None:
        try:
            async with stores:
                pass
        finally:
            await stores.aclose()

    try:
        anyio.run(connect)
    except AgentRuntimeError as error:
        raise CommandFailed(str(error), code=FAILED) from error
    return stores.name


async def _erased(place: Trial) -> None:
    stores = place.open()
    try:
        await stores.erase()
    except AgentRuntimeError as error:
        notice(f"{place.namespace} could not be removed, and is still there: {error}")
    finally:
        await stores.aclose()


def _trials(place: Trial) -> list[Tried]:
    """Each trial's outcome. Raises `CommandFailed` when the process that makes them does not end well."""
    trials: list[Tried] = []
    with TemporaryDirectory(prefix="agent-runtime-") as folder, _process(place, Path(folder)) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise CommandFailed(f"nothing could be tried: {place.without_secrets(_noise(Path(folder)))}", code=FAILED)
        with _progress(_line.decode(first)) as step:
            for trial in _told(process.stdout):
                trials.append(trial)
                step(len(trials))
        if process.wait() not in (0, 1):
            raise CommandFailed(f"the trial was cut short: {place.without_secrets(_noise(Path(folder)))}", code=FAILED)
    return [msgspec.structs.replace(trial, why=place.without_secrets(trial.why)) for trial in trials]


def _told(lines: IO[str]) -> Iterator[Tried]:
    for line in lines:
        said = _line.decode(line)
        if isinstance(said, Tried):
            yield said


@contextmanager
def _process(place: Trial, folder: Path) -> Generator[subprocess.Popen[str]]:
    """pytest, with nothing of the current folder's but its modules; ended with the block."""
    settings = folder / "pytest.ini"
    settings.write_text(_SETTINGS, "utf-8")
    alone = ("-c", str(settings), "--rootdir", str(folder), "--noconftest", "--import-mode=importlib")
    plugins = ("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "anyio", "-p", _REPORTS)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    variables["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder)
    variables[VARIABLE] = msgspec.json.encode(place).decode()
    with (folder / "noise").open("wb") as noise:
        process = subprocess.Popen(
            (sys.executable, "-m", "pytest", *alone, *plugins, str(_PROMISES)),
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _noise(folder: Path) -> str:
    return (folder / "noise").read_text("utf-8", "replace")[-_MOST_NOISE:].strip() or "it said nothing"


@contextmanager
def _progress(first: Line) -> Generator[Callable[[int], None]]:
    """Shows on standard error how many trials are done: a bar on a terminal, a line now and then elsewhere."""
    total = first.total if isinstance(first, Found) else 0
    err = console(stderr=True)
    if not err.is_terminal:
        yield lambda count: None if count % _EVERY else notice(f"{count} of {total} trials")
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err, transient=True
    ) as bar:
        task = bar.add_task("trials", total=total)
        yield lambda count: bar.update(task, completed=count)


def _broken(found: list[Tried]) -> int:
    return sum(1 for promise in found if promise.why)


def _print_json(name: str, found: list[Tried]) -> None:
    broken = _broken(found)
    document = {
        "stores": name,
        "kept": len(found) - broken,
        "broken": broken,
        "seconds": sum(promise.seconds for promise in found),
        "promises": found,
    }
    typer.echo(msgspec.json.encode(document).decode())


def _print(name: str, found: list[Tried]) -> None:
    out = console()
    for part in dict.fromkeys(promise.part for promise in found):
        out.print(Text(part, style="bold"))
        for promise in found:
            if promise.part == part:
                mark = ("broken", "bold red") if promise.why else ("kept", "green")
                label = Text.assemble("  ", (f"{mark[0]:<7}", mark[1]), f"{promise.seconds:6.2f} s")
                entry(out, label, promise.promise, column=_COLUMN)
                if promise.why:
                    entry(out, Text(), promise.why, column=_COLUMN)
        out.print()
    broken = _broken(found)
    seconds = sum(promise.seconds for promise in found)
    out.print(printable(f"{name}: {len(found) - broken} promises kept, {broken} broken, in {seconds:.1f} s"))
