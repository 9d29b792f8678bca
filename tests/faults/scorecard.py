"""All figures in two tables: `python -m tests.faults.scorecard` writes them into `docs/reliability.md`.

`python -m tests.faults.scorecard layers` makes and writes one of them. A figure that `make soak` has made at this commit is
taken as it is; what is missing is made now. Fails where one is not met.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

import msgspec
from tests.faults.figures import FOLDER, ROOT, Figure, commit, committed_at, stamped
from tests.faults.places import DURABLE, STORES

PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- {}: begin, written by python -m tests.faults.scorecard -->"
END = "<!-- {}: end -->"
TESTED = FOLDER / "soak.xml"  # what pytest says of the tests with the full counts
EACH = tuple(STORES)
KEPT = tuple(DURABLE)


class Line(msgspec.Struct, frozen=True):
    """A figure of the table: made by a program of this folder, or by tests whose names hold all of `words`."""

    name: str
    title: str
    stores: Sequence[str]
    program: str = ""
    count: int = 1
    words: Sequence[str] = ()


SESSIONS = (
    Line("R1", "a cancellation at every await of 8 scenarios, by a scope and natively", EACH, "cancel", 3),
    Line("R2", "every store call fails, before or after its effect, once and four times", EACH, "outage", 1),
    Line("R3", "a worker killed with SIGKILL at any moment", KEPT, "kill", 200),
    Line("R5", "one run resumed by 8 workers at once", EACH, "race", 200),
    Line("R6", "a worker paused for longer than its lease", KEPT, "fence", 100),
    Line("R7", "the store's clock steps by an hour between calls", EACH, "skew", 500),
    Line("R8", "random sequences of calls, compared with a model", EACH, words=("tests.machines",)),
    Line("R12", "streams left at every event, in every way", ("any",), words=("tests.reliability.test_streams",)),
    Line("R17", "a service told to end, with SIGTERM, under load", KEPT, "drain", 50),
    Line("R19", "what is stored, with a byte changed", ("memory", "sqlite"), "damage", 10_000),
    Line("P1", "one user's sessions among 100,000", ("redis", "postgres"), "crowd", 100_000),
    Line("S3", "owners with names that look alike", EACH, "isolation", 5_000),
    Line("S4", "hostile records", EACH, "foreign", 1),
)
LAYERS = (
    Line("R18", "a thousand runs at once at the edge of a quota, in one process and in four", EACH, "limits", 100),
    Line(
        "S5", "secrets in 12 places, looked for in all that is told", ("any",), words=("tests.security.test_canaries",)
    ),
    Line(
        "S7",
        "every pattern, at one, two and four times the length",
        ("any",),
        words=("tests.reliability.test_regexes",),
    ),
    Line("S9", "text that would forge a log line", ("any",), words=("tests.security.test_log_lines",)),
    Line(
        "S12", "100,000 users, tenants, agents, models and tools", ("any",), words=("tests.reliability.test_metrics",)
    ),
    Line(
        "F",
        "answers kept and shared: crossed, failed, stampeding, revoked",
        ("any",),
        words=("tests.reliability.test_cache",),
    ),
)
CARDS = {"sessions": SESSIONS, "layers": LAYERS}


def made(line: Line, store: str) -> Figure:
    """The figure of `make soak`, or a new one."""
    place = FOLDER / f"{line.name}-{store}.json"
    if place.is_file():
        figure = msgspec.json.decode(place.read_bytes(), type=Figure)
        if figure.commit == commit():
            return figure
    if not line.program:
        return counted(line, store, tested(line.words[0]))
    command = [sys.executable, "-m", f"tests.faults.{line.program}", "--store", store, "-n", str(line.count)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    subprocess.run([*command, "--report", str(place)], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if not place.is_file():
        sys.exit(f"{line.name}, {store}: the program has failed")
    return msgspec.json.decode(place.read_bytes(), type=Figure)


def tested(word: str) -> ElementTree.Element:
    """What pytest says of the tests below `word`, "tests.machines" for instance, with the full counts."""
    if TESTED.is_file() and TESTED.stat().st_mtime >= committed_at():
        return ElementTree.parse(TESTED).getroot()
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = FOLDER / f"{word}.xml"
    if not report.is_file() or report.stat().st_mtime < committed_at():
        place = ROOT.joinpath(*word.split("."))
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", place if place.is_dir() else f"{place}.py", f"--junitxml={report}"],
            cwd=ROOT,
            check=False,
            env={**os.environ, "AGENT_RUNTIME_SOAK": "1"},
        )
    return ElementTree.parse(report).getroot()


def counted(line: Line, store: str, report: ElementTree.Element) -> Figure:
    """The tests of this line and store, as a figure."""
    cases = [case for case in report.iter("testcase") if _belongs(case, line, store)]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return stamped(
        Figure(
            name=line.name,
            store=store,
            faults=len(cases),
            unit="machines, each 2,000 sequences of 50 steps" if line.name == "R8" else "tests",
            bad={"failures": len(failed) if cases else 1},
            first=[f"{case.get('classname')} {case.get('name')}" for case in failed],
            seconds=round(sum(float(case.get("time") or 0) for case in cases), 2),
        )
    )


def _belongs(case: ElementTree.Element, line: Line, store: str) -> bool:
    name = f"{case.get('classname')} {case.get('name')}"
    if not all(word in name for word in line.words):
        return False
    return store == "any" or ("sqlite" in name.lower()) == (store == "sqlite")


def rows(figures: Sequence[tuple[Line, Figure]]) -> Iterator[str]:
    yield "| | fault | store | made | what must be 0 | seen on the way | seed | s |"
    yield "|---|---|---|---|---|---|---|---|"
    for line, figure in figures:
        wrong = {what: count for what, count in figure.bad.items() if count}
        bad = "; ".join(f"**{count} {what}**" for what, count in wrong.items())
        zero = "; ".join(what for what in figure.bad if what not in wrong)
        seen = "; ".join(f"{what}: {count:,.10g}" for what, count in figure.seen.items())
        verdict = " — ".join(part for part in (bad, f"0 {zero}" if zero else "") if part)
        seed = "" if figure.seed is None else str(figure.seed)
        yield (
            f"| {line.name} | {line.title} | {figure.store} | {figure.faults:,} {figure.unit} | {verdict} | {seen} | {seed} | "
            f"{figure.seconds:,.0f} |"
        )


def table(figures: Sequence[tuple[Line, Figure]]) -> str:
    first = figures[0][1]
    day = datetime.now(UTC).date().isoformat()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    made_of = f"{platform.python_implementation()} {first.python}, SQLite {first.sqlite}, {machine}"
    return "\n".join([f"Made on {day} at commit {first.commit} with {made_of}.", "", *rows(figures)])


def replaced(page: str, card: str, table: str) -> str:
    """The page with the table between the marks of that card."""
    begin, end = BEGIN.format(card), END.format(card)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.scorecard", description=__doc__)
    parser.add_argument("what", nargs="*", help="only these cards (sessions, layers) or figures (R3, S4, ...)")
    asked = parser.parse_args().what
    met = True
    for card, lines in CARDS.items():
        whole = not asked or card in asked
        figures: list[tuple[Line, Figure]] = []
        for line in lines:
            if not whole and line.name not in asked:
                continue
            for store in line.stores:
                figures.append((line, made(line, store)))
                print(figures[-1][1], flush=True)
        met = met and all(figure.met for _, figure in figures)
        if whole:
            PAGE.write_text(replaced(PAGE.read_text("utf-8"), card, table(figures)), "utf-8")
            print(f"written: the table of {card} in {PAGE.relative_to(ROOT)}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
