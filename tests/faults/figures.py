"""What a program of this folder has found, as one line of the scorecard."""

import argparse
import logging
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import msgspec
from tests.faults.places import server

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "faults"
SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one store.

    Attributes:
        faults: How many faults were made, of the kind that `unit` names.
        bad: What must not happen, and how often it did; all of it is 0, or the figure is not met.
        seen: What else was counted on the way.
        first: The first things that went wrong, in words.
    """

    name: str
    store: str
    faults: int
    unit: str
    bad: dict[str, int]
    seen: dict[str, float] = {}
    first: list[str] = []
    seed: int | None = None
    seconds: float = 0.0
    commit: str = ""
    python: str = ""
    sqlite: str = ""

    @property
    def met(self) -> bool:
        return not any(self.bad.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self.bad.items())
        seen = "; ".join(f"{what} {count:g}" for what, count in self.seen.items())
        where = f" (seed {self.seed})" if self.seed is not None else ""
        problems = "".join(f"\n  - {problem}" for problem in self.first)
        return f"{self.name} {self.store}: {self.faults} {self.unit} in {self.seconds:.1f} s{where}: {counts}. {seen}{problems}"


class Tally:
    """Counts what goes wrong, and keeps the first of it in words."""

    def __init__(self, *bad: str) -> None:
        self.bad = dict.fromkeys(bad, 0)
        self.seen: dict[str, float] = {}
        self.first: list[str] = []

    def wrong(self, what: str, words: str) -> None:
        self.bad[what] += 1
        if len(self.first) < 10:
            self.first.append(f"{what}: {words}")

    def saw(self, what: str, count: float = 1) -> None:
        self.seen[what] = self.seen.get(what, 0) + count

    def most(self, what: str, value: float) -> None:
        self.seen[what] = max(self.seen.get(what, 0), value)

    def figure(self, name: str, store: str, faults: int, unit: str, *, seed: int | None, since: float) -> Figure:
        return stamped(
            Figure(
                name=name,
                store=store,
                faults=faults,
                unit=unit,
                bad=self.bad,
                seen={what: round(count, 3) for what, count in self.seen.items()},
                first=self.first,
                seed=seed,
                seconds=round(time.perf_counter() - since, 2),
            )
        )


def stamped(figure: Figure) -> Figure:
    return msgspec.structs.replace(
        figure, commit=commit(), python=platform.python_version(), sqlite=sqlite3.sqlite_version
    )


def commit() -> str:
    """The commit, with a plus where the sources of the product differ from it."""
    name = _git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{name}+" if _git("status", "--porcelain", "--", "agent_runtime", "adapters", "middleware") else name


def committed_at() -> float:
    """When the commit was made, in Unix seconds."""
    return float(_git("log", "-1", "--format=%ct") or 0)


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def kept(figure: Figure) -> Figure:
    """The figure, which the scorecard finds where it was made with the full counts."""
    if SOAK:
        FOLDER.mkdir(parents=True, exist_ok=True)
        place = FOLDER / f"{figure.name}-{figure.store}.json".replace("/", "_")
        place.write_bytes(msgspec.json.format(msgspec.json.encode(figure)))
    return figure


Program = Callable[[str, int, int], Awaitable[Figure]]
"""`program(store, count, seed)`."""


def main(program: Program, stores: Mapping[str, object], *, count: int, description: str | None) -> None:
    """The command line of a program: prints the figure, exits with 1 where it is not met."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-n", type=int, default=count, help=f"how many; by default {count}")
    parser.add_argument("--store", choices=sorted(stores), default=next(iter(stores)))
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--report", type=Path, help="write the figure as JSON")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the runtime says what it could not store; here that is the plan
    with server(options.store):
        figure = anyio.run(program, options.store, options.n, options.seed)
    print(figure)
    if options.report is not None:
        options.report.write_bytes(msgspec.json.format(msgspec.json.encode(figure)))
    sys.exit(0 if figure.met else 1)
