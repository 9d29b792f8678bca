"""The benchmarks' own arithmetic, their verdict, and each quick case once."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle

import msgspec
import pytest
from benchmarks.__main__ import CASES, SLOW, chosen, failures
from benchmarks.budgets import BUDGETS, MARGIN, Budget
from benchmarks.harness import Case, Measure, Outcome, Sides, Spread, calls, measure, scaled, times
from benchmarks.report import BEGIN, END, json_lines, number, over_budget, replaced, row, table

QUICK = [case for case in CASES if case.name not in SLOW and not case.name.startswith(("C1", "G1"))]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # the default loop is what is measured


def giving(values: Iterator[float], log: list[str] | None = None, name: str = "") -> Measure:
    """A side that takes no time and gives what it is told."""

    async def measured(_: int) -> float:
        if log is not None:
            log.append(name)
        return next(values)

    return measured


def case(limit: Measure, ours: Measure, *, counted: bool = False) -> Case:
    @asynccontextmanager
    async def prepare() -> AsyncGenerator[Sides]:
        yield Sides(limit=limit, ours=ours)

    return Case("X1", "µs", prepare, counted=counted)


def outcome(ratio: float) -> Outcome:
    one, other = Spread.of([1.0]), Spread.of([ratio])
    return Outcome(case(giving(cycle([1.0])), giving(cycle([ratio]))), 1, one, other, other)


BUDGET = Budget("an example", target=4.0, limit=2.0)


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([9.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=9.0)


async def test_the_sides_take_turns_and_the_first_changes() -> None:
    log: list[str] = []
    await measure(case(giving(cycle([1.0]), log, "limit"), giving(cycle([1.0]), log, "ours")), rounds=3, seconds=0)
    assert log[2:] == ["limit", "ours", "ours", "limit", "limit", "ours"]


async def test_ratios_are_taken_round_by_round() -> None:
    limit, ours = iter([0.0, 1.0, 10.0, 2.0]), iter([0.0, 3.0, 30.0, 8.0])  # the first of each warms up
    result = await measure(case(giving(limit), giving(ours)), rounds=3, seconds=0)
    assert (result.limit, result.ours) == (Spread(2.0, 1.0, 10.0), Spread(8.0, 3.0, 30.0))
    assert result.ratio == Spread(median=3.0, low=3.0, high=4.0)


async def test_a_count_is_taken_once() -> None:
    result = await measure(case(giving(iter([2.0])), giving(iter([6.0])), counted=True), rounds=9, seconds=1.0)
    assert (result.rounds, result.ratio.median) == (1, 3.0)


async def test_a_round_is_doubled_until_it_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    async def side(number: int) -> float:
        nonlocal clock
        clock += number * 0.001
        return 0.0

    monkeypatch.setattr("benchmarks.harness.time.perf_counter", lambda: clock)
    assert await times(side, seconds=0.1) == 64


async def test_a_part_is_a_fraction_of_the_whole() -> None:
    assert await scaled(giving(iter([1_000.0])), 100)(1) == 10.0


async def test_calls_are_counted_also_of_a_coroutine_that_waits() -> None:
    async def layer() -> None:
        for _ in range(3):
            await times(giving(cycle([0.0])), seconds=0)

    async def run() -> None:
        await layer()
        await layer()

    assert await calls(layer, run) == 2


@pytest.mark.parametrize(
    ("ratio", "margin", "passes"),
    [(2.0, MARGIN, True), (2.0 * MARGIN, MARGIN, True), (3.1, MARGIN, False), (2.0, 1.0, True), (2.1, 1.0, False)],
)
def test_a_ratio_may_exceed_its_budget_by_the_margin(ratio: float, margin: float, passes: bool) -> None:
    budget = Budget("an example", target=4.0, limit=2.0, margin=margin)
    assert (over_budget(outcome(ratio), budget) is None) is passes


def test_what_was_measured_above_the_target_is_the_budget() -> None:
    budget = Budget("an example", target=4.0, limit=2.0, measured=5.0, reason="because")
    assert over_budget(outcome(7.0), budget) is None
    assert over_budget(outcome(7.6), budget) is not None


async def checked(ratios: Iterator[float]) -> list[str]:
    return await failures([case(giving(cycle([1.0])), giving(ratios))], {"X1": BUDGET}, rounds=1, seconds=0)


async def test_a_check_passes_within_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert await checked(cycle([2.5])) == []
    assert "again" not in capsys.readouterr().out


async def test_a_check_fails_over_the_budget_and_says_by_how_much() -> None:
    assert await checked(cycle([4.0])) == ["X1 (an example): 4.00 times the limit, allowed are 2.00 × 1.5 = 3.00"]


async def test_a_case_that_fails_once_is_measured_again(capsys: pytest.CaptureFixture[str]) -> None:
    noisy = iter([0.0, 9.0, 0.0, 9.0, 2.0, 2.0])  # warm-up and one round; warm-up and three rounds
    assert await checked(noisy) == []
    assert "again: X1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.012"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12346")],
)
def test_numbers_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_has_a_row_for_each_case_and_the_reasons() -> None:
    budget = Budget("an example", target=4.0, limit=2.0, measured=5.0, reason="it is far")
    page = table([outcome(5.0)], {"X1": budget})
    assert row(outcome(5.0), budget) == "| X1 | an example | µs | 1.00 | 5.00 | 5.00 | ≤ 2.00 (4 / 2) | above |"
    assert row(outcome(5.0), budget) in page
    assert page.endswith("- **X1**: it is far.")


def test_a_line_of_json_says_all_that_is_needed_to_compare() -> None:
    line = msgspec.json.decode(json_lines([outcome(3.0)], {"X1": BUDGET}))
    assert (line["case"], line["ratio"], line["target_ratio"]) == ("X1", {"median": 3.0, "low": 3.0, "high": 3.0}, 2.0)
    assert {"python", "machine", "anyio", "msgspec", "pydantic"} <= line["versions"].keys()


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="the page needs a line"):
        replaced(page, "new")


def test_every_case_has_a_budget_and_every_budget_a_case() -> None:
    names = [case.name for case in CASES]
    assert sorted(names) == sorted(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_above_the_target_has_a_reason_and_no_other_has(name: str) -> None:
    budget = BUDGETS[name]
    assert bool(budget.reason) is (budget.measured is not None)
    assert budget.measured is None or budget.measured > budget.target_ratio


def test_cases_are_chosen_by_the_start_of_their_name() -> None:
    assert [case.name for case in chosen(["B3", "H2"])] == [
        "B3, stream()",
        "B3, own emit",
        "B3, built-in agent, stream()",
        "H2",
    ]
    with pytest.raises(SystemExit, match="no case is named Z"):
        chosen(["Z"])


def name_of(quick: Case) -> str:
    return quick.name


@pytest.mark.parametrize("quick", QUICK, ids=name_of)
async def test_each_quick_case_gives_its_answer(quick: Case) -> None:
    result = await measure(quick, rounds=1, seconds=0.001)
    assert result.limit.median > 0
