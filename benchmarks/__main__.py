"""`python -m benchmarks` measures everything and writes the table; `--check` fails where a budget is exceeded."""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import (
    a_runs,
    b_streams,
    c_waiting,
    d_stores,
    e_limits,
    f_events,
    g_weight,
    h_values,
    l_layers,
    s_servers,
)
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.harness import Case, Outcome, measure
from benchmarks.report import json_lines, over_budget, replaced, row, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
CASES = (
    *a_runs.CASES,
    *b_streams.CASES,
    *c_waiting.CASES,
    *d_stores.CASES,
    *s_servers.CASES,
    *e_limits.CASES,
    *f_events.CASES,
    *g_weight.CASES,
    *h_values.CASES,
    *l_layers.CASES,
)

ROUNDS, SECONDS = 9, 0.1  # of a run, and of one side in one round
CHECK_ROUNDS, CHECK_SECONDS = 5, 0.02
# Left out of the check: the same code as C1, ten times, and histories that take long to make.
SLOW = (
    "C2",
    "C2, tuned GC",
    "D, Redis after 1,000 turns",
    "D, Redis after 10,000 turns",
    "D, PostgreSQL after 10,000 turns",
    "D, MongoDB after 1,000 turns",
)


async def measured(cases: Sequence[Case], budgets: Mapping[str, Budget], *, rounds: int) -> list[Outcome]:
    """Measure all `cases` and print each as it comes."""
    outcomes: list[Outcome] = []
    for case in cases:
        outcome = await measure(case, rounds=rounds, seconds=SECONDS)
        outcomes.append(outcome)
        print(row(outcome, budgets[case.name]), flush=True)
    return outcomes


async def failures(cases: Sequence[Case], budgets: Mapping[str, Budget], *, rounds: int, seconds: float) -> list[str]:
    """What is over its budget, also when it is measured again with three times as many rounds, each twice as long."""
    failed: list[str] = []
    for case in cases:
        outcome = await measure(case, rounds=rounds, seconds=seconds)
        problem = over_budget(outcome, budgets[case.name])
        if problem is not None:
            print(f"again: {problem}", flush=True)
            outcome = await measure(case, rounds=3 * rounds, seconds=2 * seconds)
            problem = over_budget(outcome, budgets[case.name])
        print(row(outcome, budgets[case.name]), flush=True)
        if problem is not None:
            failed.append(problem)
    return failed


def chosen(names: Sequence[str]) -> list[Case]:
    """The cases whose name starts with one of `names`; all without any."""
    cases = [case for case in CASES if not names or case.name.startswith(tuple(names))]
    if not cases:
        sys.exit(f"no case is named {', '.join(names)}; there are: {'; '.join(case.name for case in CASES)}")
    return cases


def write(outcomes: Sequence[Outcome]) -> None:
    RESULTS.write_text(json_lines(outcomes, BUDGETS), "utf-8")
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), table(outcomes, BUDGETS)), "utf-8")
    print(f"written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("case", nargs="*", help="only cases whose name starts so (A1, B, ...); nothing is written then")
    parser.add_argument("--rounds", type=int, default=None, help=f"default {ROUNDS}, for a check {CHECK_ROUNDS}")
    parser.add_argument("--check", action="store_true", help="a short run that fails where a budget is exceeded")
    options = parser.parse_args()
    cases = chosen(options.case)
    if options.check:
        cases = [case for case in cases if options.case or case.name not in SLOW]
        rounds = options.rounds or CHECK_ROUNDS
        failed = asyncio.run(failures(cases, BUDGETS, rounds=rounds, seconds=CHECK_SECONDS))
        sys.exit("over budget:\n" + "\n".join(f"- {problem}" for problem in failed) if failed else 0)
    outcomes = asyncio.run(measured(cases, BUDGETS, rounds=options.rounds or ROUNDS))
    if not options.case:
        write(outcomes)


if __name__ == "__main__":
    main()
