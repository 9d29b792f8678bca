"""The table of figures says what was found."""

from xml.etree import ElementTree

import msgspec
import pytest
from tests.faults.figures import Figure
from tests.faults.scorecard import BEGIN, CARDS, END, LAYERS, PAGE, SESSIONS, Line, counted, replaced, table

FIGURE = Figure(
    name="R3",
    store="sqlite",
    faults=1_200,
    unit="kills",
    bad={"lost": 0, "doubled": 0},
    seen={"questions asked": 3},
    seed=7,
    seconds=12.3,
    commit="abc",
    python="3.11",
    sqlite="3.40",
)
LINE = Line("R3", "killed", ("sqlite",), "kill", 200)
REPORT = ElementTree.fromstring(
    '<testsuites><testsuite><testcase classname="tests.machines.a.TestA" name="runTest" time="1.5"/>'
    '<testcase classname="tests.machines.b.TestSQLiteB" name="runTest" time="2"><failure/></testcase>'
    '<testcase classname="tests.unit.c" name="test_c" time="9"/></testsuite></testsuites>'
)


def test_a_row_has_all_counts_and_the_seed() -> None:
    text = table([(LINE, FIGURE)])
    assert "at commit abc with CPython 3.11, SQLite 3.40" in text
    assert "| R3 | killed | sqlite | 1,200 kills | 0 lost; doubled | questions asked: 3 | 7 | 12 |" in text


def test_what_is_not_zero_stands_out() -> None:
    text = table([(LINE, msgspec.structs.replace(FIGURE, bad={"lost": 2, "doubled": 0}))])
    assert "**2 lost** — 0 doubled" in text


def test_tests_of_another_store_or_folder_are_not_counted() -> None:
    machines = next(line for line in SESSIONS if line.name == "R8")
    memory, sqlite = (counted(machines, store, REPORT) for store in ("memory", "sqlite"))
    assert (memory.faults, memory.met, memory.seconds) == (1, True, 1.5)
    assert (sqlite.faults, sqlite.met) == (1, False)


def test_figures_without_a_test_are_not_met() -> None:
    streams = next(line for line in SESSIONS if line.name == "R12")
    assert not counted(streams, "any", REPORT).met


def test_tests_are_counted_as_a_figure_of_the_layers() -> None:
    report = ElementTree.fromstring(
        '<testsuites><testsuite><testcase classname="tests.security.test_log_lines" name="a" time="1"/></testsuite></testsuites>'
    )
    lines = next(line for line in LAYERS if line.name == "S9")
    assert counted(lines, "any", report).met


@pytest.mark.parametrize("card", CARDS)
def test_the_page_has_its_place_for_the_table(card: str) -> None:
    page = PAGE.read_text("utf-8")
    begin, end = BEGIN.format(card), END.format(card)
    assert page.count(begin) == page.count(end) == 1
    assert replaced(f"a\n{begin}\nold\n{end}\nb", card, "new") == f"a\n{begin}\nnew\n{end}\nb"
