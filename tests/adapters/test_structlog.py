"""StructlogWriter: the logging layer's records as structlog events."""

import importlib
import io
import json
import logging
import sys

import pytest
import structlog

from agent_runtime import AgentContext, AgentExecutor
from agent_runtime_adapters.structlog import StructlogWriter
from agent_runtime_middleware.logging import LoggingMiddleware


def logger(stream: io.StringIO, level: int) -> structlog.typing.FilteringBoundLogger:
    made: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return made


async def agent(context: AgentContext) -> str:
    return "done"


@pytest.mark.parametrize(("level", "lines"), [(logging.INFO, 1), (logging.WARNING, 0)])
async def test_a_run_is_one_structlog_event_if_its_level_is_wanted(level: int, lines: int) -> None:
    stream = io.StringIO()
    layer = LoggingMiddleware(StructlogWriter(logger(stream, level)))
    context = AgentContext(agent_id="agent", user_id="u", current_task="hi")
    result = await AgentExecutor(agent, middleware=[layer]).execute(context)
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(written) == lines and layer.lost == 0
    for event in written:
        assert event.pop("duration_ms") >= 0
        assert event == {
            "event": "agent_run",
            "level": "info",
            "stage": "run",
            "outcome": "success",
            "run_id": result.run_id,
            "agent_id": "agent",
            "user_id": "u",
            "attempts": 1,
            "input_tokens": 0,
            "output_tokens": 0,
        }


def test_the_level_filter_of_the_configuration_is_asked_by_default() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        writer = StructlogWriter()
        assert writer.wants(logging.ERROR) and not writer.wants(logging.WARNING)
    finally:
        structlog.reset_defaults()


def test_without_the_library_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    monkeypatch.delitem(sys.modules, "agent_runtime_adapters.structlog")
    with pytest.raises(ImportError, match=r"onion-agent-runtime\[structlog\]"):
        importlib.import_module("agent_runtime_adapters.structlog")
