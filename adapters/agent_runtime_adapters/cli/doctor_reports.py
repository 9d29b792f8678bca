"""What the process that tries stores says to the one that has started it: a line of JSON for each promise. A pytest plugin."""

import sys
from collections.abc import Generator
from typing import cast

import msgspec
import pytest
from hypothesis import settings

from agent_runtime_adapters.cli.doctor_lines import Found, Line, Tried

_MOST_WORDS = 400

# Before the promises are imported: what they compare is told, and nothing is left in the current folder.
pytest.register_assert_rewrite("agent_runtime.testing")
settings.register_profile("doctor", database=None, deadline=None, derandomize=True)
settings.load_profile("doctor")


def pytest_collection_finish(session: pytest.Session) -> None:
    _say(Found(len(session.items)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" or report.failed:
        _say(
            Tried(
                part=str(getattr(item.cls, "part", "")),
                promise=item.originalname.removeprefix("test_").replace("_", " "),
                seconds=report.duration,
                why=_words(call.excinfo.value) if report.failed and call.excinfo else "",
            )
        )
    return report


def _words(error: BaseException) -> str:
    """An error in one line; of a group the first one."""
    if isinstance(error, BaseExceptionGroup):
        return _words(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    words = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{f': {words}' if words else ''}"[:_MOST_WORDS]


def _say(line: Line) -> None:
    sys.stdout.write(f"{msgspec.json.encode(line).decode()}\n")
    sys.stdout.flush()
