"""The tables and lists in docs/ say what the code says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import agent_runtime
import agent_runtime.testing
from agent_runtime import AgentRuntimeError, EventType, Limits, SessionManager, Stage, StreamEvent
from agent_runtime.lint import RULES, unreached

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, first_header: str) -> list[list[str]]:
    """The cells of the table on `page` whose first column has this header, without code marks."""
    lines = iter((DOCS / page).read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {first_header} |"):
            break
    next(lines)
    table: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            return table
        table.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return table


def errors(parent: type[AgentRuntimeError] = AgentRuntimeError) -> Iterator[type[AgentRuntimeError]]:
    for error in parent.__subclasses__():
        if error.__module__ == "agent_runtime.errors":
            yield error
            yield from errors(error)


def test_the_errors_with_kind_word_and_whether_they_may_pass() -> None:
    told = {name: (kind, word, retryable) for name, kind, word, retryable, _ in rows("concepts/errors.md", "error")}
    assert told == {
        error.__name__: (error.kind, error.error_type, "yes" if error.retryable else "no") for error in errors()
    }


def test_the_lint_codes_with_kinds_reasons_and_fixes() -> None:
    never_runs = unreached(Stage.MODEL, "layer")
    assert rows("concepts/onion.md", "code") == [
        *(
            [
                rule.code,
                rule.severity,
                ", ".join(sorted(rule.outer)),
                ", ".join(sorted(rule.inner)),
                rule.reason,
                rule.fix,
            ]
            for rule in RULES
        ),
        [never_runs.code, never_runs.severity, "", "", never_runs.reason, never_runs.fix.replace("`", "")],
    ]


def test_the_limits_with_their_defaults() -> None:
    units = {"s": 1, "KiB": 1 << 10, "MiB": 1 << 20}
    told: dict[str, float] = {}
    for name, default, _ in rows("concepts/context-and-result.md", "limit"):
        number, _, unit = default.partition(" ")
        told[name] = float(number.replace(",", "")) * units.get(unit, 1)
    assert told == {name: getattr(Limits(), name) for name in Limits.__struct_fields__}


def test_the_events_of_a_stream() -> None:
    assert [name for name, _ in rows("concepts/streaming.md", "event")] == [
        event.__name__ for event in get_args(StreamEvent)
    ]


def test_every_event_type_is_named() -> None:
    page = (DOCS / "concepts/events.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+)`", page))
    assert {str(kind) for kind in EventType} - named <= {"any", "custom"}


def test_every_method_of_the_session_manager_is_in_the_reference() -> None:
    page = (DOCS / "reference/sessions.md").read_text("utf-8")
    for_the_executor = {
        "acquire",
        "release",
        "renewing",
        "renewing_later",
        "journal",
        "stored_runs",
        "record",
        "finish_run",
    }
    methods = {name for name in dir(SessionManager) if not name.startswith("_")}
    assert set(re.findall(r"^        - (\w+)$", page, re.MULTILINE)) == methods - for_the_executor


@pytest.mark.parametrize("module", [agent_runtime, agent_runtime.testing], ids=lambda module: module.__name__)
def test_every_public_name_has_its_place_in_the_reference(module: object) -> None:
    name = getattr(module, "__name__", "")
    pattern = re.compile(rf"^::: {re.escape(name)}\.(\w+)$", re.MULTILINE)
    found = [match for page in sorted((DOCS / "reference").glob("*.md")) for match in pattern.findall(page.read_text())]
    assert sorted(found) == sorted(getattr(module, "__all__", ()))
