"""The outcomes as a table for people, JSON lines for machines, and a verdict for CI."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata

import msgspec

from benchmarks.budgets import Budget
from benchmarks.harness import Outcome, Spread

BEGIN = "<!-- benchmarks: begin, written by python -m benchmarks -->"
END = "<!-- benchmarks: end -->"
LIBRARIES = ("onion-agent-runtime", "anyio", "msgspec", "pydantic")
SHOWN_DIGITS = 3


def versions() -> dict[str, str]:
    """What was measured, and on what."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return {"python": python, "machine": machine} | {name: metadata.version(name) for name in LIBRARIES}


def over_budget(outcome: Outcome, budget: Budget) -> str | None:
    """What is wrong with `outcome`; `None` when it is within `budget` and the margin."""
    allowed = budget.ratio * budget.margin
    if outcome.ratio.median <= allowed:
        return None
    return (
        f"{outcome.case.name} ({budget.title}): {number(outcome.ratio.median)} times the limit, "
        f"allowed are {number(budget.ratio)} × {budget.margin:g} = {number(allowed)}"
    )


def json_lines(outcomes: Sequence[Outcome], budgets: Mapping[str, Budget]) -> str:
    """One object a line, with everything that is needed to compare two runs."""
    at, on = datetime.now(UTC).isoformat(timespec="seconds"), versions()
    lines = (
        msgspec.json.encode(
            {
                "case": outcome.case.name,
                "title": budgets[outcome.case.name].title,
                "unit": outcome.case.unit,
                "limit": outcome.limit,
                "ours": outcome.ours,
                "ratio": outcome.ratio,
                "target_ratio": budgets[outcome.case.name].target_ratio,
                "budget_ratio": budgets[outcome.case.name].ratio,
                "rounds": outcome.rounds,
                "at": at,
                "versions": on,
            }
        )
        for outcome in outcomes
    )
    return "".join(f"{line.decode()}\n" for line in lines)


def table(outcomes: Sequence[Outcome], budgets: Mapping[str, Budget]) -> str:
    """The generated part of the page, without its markers."""
    on = versions()
    lines = [
        "Measured on "
        + ", ".join(on[name] for name in ("python", "machine"))
        + "; "
        + ", ".join(f"{name} {on[name]}" for name in LIBRARIES)
        + f"; {max(o.rounds for o in outcomes)} rounds.",
        "",
        "| | figure | unit | limit | ours (range) | ours ÷ limit (range) | target (ours / limit where it was set) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(outcome, budgets[outcome.case.name]) for outcome in outcomes]
    reasons: dict[str, list[str]] = {}
    for name in (outcome.case.name for outcome in outcomes):
        if budgets[name].reason:
            reasons.setdefault(budgets[name].reason, []).append(name)
    if reasons:
        lines += ["", "Above the target's ratio, and why:", ""]
        lines += [f"- **{'; '.join(names)}**: {reason}." for reason, names in reasons.items()]
    return "\n".join(lines)


def row(outcome: Outcome, budget: Budget) -> str:
    verdict = "met" if outcome.ratio.median <= budget.target_ratio else "above"
    cells = (
        outcome.case.name,
        budget.title,
        outcome.case.unit,
        number(outcome.limit.median),
        spread(outcome.ours),
        spread(outcome.ratio),
        f"≤ {number(budget.target_ratio)} ({budget.target:g} / {budget.limit:g})",
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def spread(values: Spread) -> str:
    """ "12.3 (11.9–14)", or the one number that all rounds gave."""
    if values.low == values.high:
        return number(values.median)
    return f"{number(values.median)} ({number(values.low)}–{number(values.high)})"


def number(value: float) -> str:
    """Three digits that mean something: 0.0123, 1.23, 123, 12345."""
    digits = SHOWN_DIGITS - len(str(int(abs(value)))) if abs(value) >= 1 else SHOWN_DIGITS
    return f"{value:.{max(digits, 0)}f}" if digits <= SHOWN_DIGITS else f"{value:.{SHOWN_DIGITS}g}"


def replaced(page: str, generated: str) -> str:
    """`page` with `generated` between the markers; a page without them is a `ValueError`."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {BEGIN!r} and, after it, a line {END!r}")
    return f"{before}{BEGIN}\n{generated}\n{END}{after}"
