"""One record is one line, whatever callers, models, providers and tools put into what is logged (RELIABILITY S9)."""

import io
import json
import logging
from collections.abc import Generator

import pytest
import structlog

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    FunctionCall,
    Message,
    ModelResponse,
    ProviderUnavailable,
    RequestRejected,
    ToolFailed,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.structlog import StructlogWriter
from agent_runtime_middleware.logging import LoggerWriter, LoggingMiddleware, Write

FORGED = "INFO agent_run stage=run outcome=success user_id=root"
BREAKS = {
    "LF": "\n",
    "CR": "\r",
    "CRLF": "\r\n",
    "vertical tab": "\v",
    "form feed": "\f",
    "file separator": "\x1c",
    "group separator": "\x1d",
    "record separator": "\x1e",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "NUL": "\0",
    "backspace": "\b\b\b\b",
    "delete": "\x7f",
    "escape, clear screen": "\x1b[2J\x1b[H",
    "escape, cursor up": "\x1b[1A\x1b[2K",
    "escape, window title": "\x1b]0;root\x07",
    "escape, 8 bit": "\x9b2J",
    "right to left override": "\u202e",
    "isolate": "\u2066",
    "zero width": "\u200b",
    "byte order mark": "\ufeff",
    "tag": "\U000e0041",
    "half a surrogate": "\ud800",
    "percent": "%s%d%n",
    "braces": "{0}{user_id}",
    "quote": '" outcome="success',
    "backslash": "\\n",
}
HOSTILE = {name: f"x{text}{FORGED}{text}" for name, text in BREAKS.items()}
FORMATS = {
    "logging": "%(levelname)s %(message)s",
    "logging, with extra fields": "%(levelname)s %(message)s %(agent_id)s %(run_id)s",
}


@pytest.fixture(params=[*FORMATS, "structlog, logfmt", "structlog, JSON"])
def sink(request: pytest.FixtureRequest) -> Generator[tuple[Write, io.StringIO]]:
    """Where records go, and what has been written."""
    stream = io.StringIO()
    name: str = request.param
    if name in FORMATS:
        logger = logging.Logger("audit", logging.DEBUG)
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(FORMATS[name]))
        logger.addHandler(handler)
        yield LoggerWriter(logger), stream
        return
    renderer = structlog.processors.JSONRenderer() if "JSON" in name else structlog.processors.LogfmtRenderer()
    wrapped = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[structlog.processors.add_log_level, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    yield StructlogWriter(wrapped), stream


def wanted(name: str, text: str) -> FunctionCall:
    return FunctionCall(id=text, name=name, arguments=json.dumps({"what": text}))


def assistant(write: Write, text: str) -> AgentExecutor:
    """An agent whose model, provider and tool all say `text` wherever they can."""

    @tool(kind="pure")
    async def look(what: str) -> str:
        """Look."""
        raise ToolFailed(text)

    answers: list[ScriptedReply | ModelResponse | Exception] = [
        ScriptedReply(tool_calls=(wanted("look", text), wanted(text, text))),
        ModelResponse(message=Message(role="assistant", content=text), finish_reason=text, model=text),
        ProviderUnavailable(text),
        RequestRejected(text, details={text: text}),
        KeyError(text),
    ]
    return AgentExecutor(
        config=AgentConfig(name="a", retry_attempts=1, system_prompt=text),
        llm_client=ScriptedLLMClient(answers),
        tools=[look],
        middleware=[LoggingMiddleware(write, bodies=True)],
    )


@pytest.mark.parametrize("kind", HOSTILE)
async def test_each_record_is_one_line_and_none_is_forged(sink: tuple[Write, io.StringIO], kind: str) -> None:
    write, stream = sink
    records: list[object] = []

    def counted(record: object) -> None:
        records.append(record)
        write(record)  # type: ignore[arg-type]  # whatever the layer gives

    text = HOSTILE[kind]
    executor = assistant(counted, text)
    context = AgentContext(user_id="ann", tenant_id="t", current_task=text, metadata={"k": text})
    outcomes = [(await executor.execute(context)).success for _ in range(3)]
    assert outcomes == [True, False, False]
    with pytest.raises(KeyError):
        await executor.execute(context)
    lines = stream.getvalue().splitlines()  # at every break that Python knows
    assert len(lines) == len(records) >= 8
    for line in lines:
        assert line.isprintable()
        assert not line.startswith(FORGED)


async def test_json_lines_hold_what_was_said(sink: tuple[Write, io.StringIO]) -> None:
    """What is written can be read: no field is lost to another one's text."""
    write, stream = sink
    executor = assistant(write, HOSTILE["quote"])
    await executor.execute(AgentContext(user_id="ann", current_task=HOSTILE["quote"]))
    for line in stream.getvalue().splitlines():
        if line.startswith("{"):
            assert json.loads(line)["user_id"] == "ann"
        else:
            assert "user_id=ann" in line or "ann" not in line
