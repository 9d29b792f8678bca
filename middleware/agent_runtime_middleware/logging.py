"""One structured record per run, per model call and per tool call."""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, Literal

import anyio
import msgspec

from agent_runtime import (
    AgentContext,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    ErrorType,
    LayerKind,
    ModelRequest,
    ModelResponse,
    Stage,
    Suspended,
    ToolCall,
    ToolResult,
    error_type_of,
    safe_text,
)

Outcome = Literal["success", "failure", "cancelled", "suspended"]

_EVENTS = {Stage.RUN: "agent_run", Stage.MODEL: "model_call", Stage.TOOL: "tool_call"}
_BARE = re.compile(r"[\w.:/@+-]+")


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one run or call did; written when it ends. What does not apply is `None`.

    Attributes:
        event: `agent_run`, `model_call` or `tool_call`.
        level: As in `logging`: info for success and a run that waits, warning for a failure that the runtime knows and for a
            cancellation, error for a bug.
        user_id: The principal's subject; without a principal, who the context claims to be.
        error: Safe to show: no prompt, no key, no backend's words.
        input_tokens: Of the whole run so far for `agent_run`, of the answer for `model_call`.
        attempts: 1 plus every repetition in the run.
        step: Which model call of the run, from 0.
        attempt: Which try of that call, from 1.
        served_by: Who answered a run in the agent's place: `cache` or `layer`.
        cached: True for a model call that a cache has answered.
        task: With `bodies` only, cut.
        output: With `bodies` only, cut.
    """

    event: str
    level: int
    stage: Stage
    outcome: Outcome
    duration_ms: float
    run_id: str
    agent_id: str
    user_id: str | None
    tenant_id: str | None
    session_id: str | None
    trace_id: str | None
    error_type: ErrorType | None = None
    error: str | None = None
    tool: str | None = None
    model: str | None = None
    step: int | None = None
    attempt: int | None = None
    attempts: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    served_by: str | None = None
    cached: bool | None = None
    task: str | None = None
    output: str | None = None

    def fields(self) -> dict[str, str | int | float]:
        """What is set, without event and level, in a fixed order; text is on one line and free of control characters."""
        values = {name: getattr(self, name) for name in self.__struct_fields__[2:]}
        return {
            name: _on_one_line(str(value)) if isinstance(value, str) else value
            for name, value in values.items()
            if value is not None
        }

    def __str__(self) -> str:
        """`event key=value …` on one line, whatever the values hold."""
        pairs = ((name, getattr(self, name)) for name in self.__struct_fields__[2:])
        return " ".join([self.event, *(f"{name}={_quoted(str(value))}" for name, value in pairs if value is not None)])


Write = Callable[[LogRecord], None]


class LoggerWriter:
    """Writes to a standard `logging` logger: the record's text as the message, its fields as `extra`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("agent_runtime")
        self.wants = self._logger.isEnabledFor

    def __call__(self, record: LogRecord) -> None:
        self._logger.log(record.level, "%s", record, extra={"event": record.event, **record.fields()})


class LoggingMiddleware(BaseMiddleware):
    """Writes one `LogRecord` per run, model call and tool call when it ends: in success, failure and cancellation.

    `write` is called in the event loop and must not block; where it has a method `wants(level)` that says no, no record
    is built. A `write` that raises changes nothing about the run: it is counted in `lost`, and the record goes to
    standard error. Records hold no task, message, argument or answer; `bodies=True` adds the task and the answer of a
    run, each cut after `max_body` characters. Credentials are never written.

    Cost: two looks at a clock per call, and the writing. Nothing per piece of a stream.
    Order: outside the layers that may refuse, or refusals are not seen. Inside a retry it sees each attempt.
    """

    kind = LayerKind.LOGGING

    def __init__(self, write: Write | None = None, *, bodies: bool = False, max_body: int = 2_000) -> None:
        self.lost = 0
        self._write = LoggerWriter() if write is None else write
        self._wants: Callable[[int], bool] = getattr(self._write, "wants", _always)
        self._bodies = bodies
        self._max_body = max_body

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        started = perf_counter()
        try:
            result = await call_next(context)
        except BaseException as error:
            self._log_run(context, started, _raised(error, context), None)
            raise
        ending = _SUCCESS if result.success else _Ending("failure", logging.WARNING, result.error_type, result.error)
        self._log_run(context, started, ending, result)
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        started = perf_counter()
        try:
            response = await call_next(request)
        except BaseException as error:
            self._log_model(request, started, _raised(error, request.context), None)
            raise
        self._log_model(request, started, _SUCCESS, response)
        return response

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        started = perf_counter()
        try:
            result = await call_next(call)
        except BaseException as error:
            self._log(Stage.TOOL, call.context, started, _raised(error, call.context), tool=call.name)
            raise
        self._log(Stage.TOOL, call.context, started, _TOOL_ERROR if result.is_error else _SUCCESS, tool=call.name)
        return result

    def _log_run(self, context: AgentContext, started: float, ending: "_Ending", result: AgentResult | None) -> None:
        run = context.run
        self._log(
            Stage.RUN,
            context,
            started,
            ending,
            attempts=1 + run.retries,
            input_tokens=run.usage.input_tokens,
            output_tokens=run.usage.output_tokens,
            served_by=None if result is None else _in_its_place(context, result),
            task=self._body(context.current_task),
            output=None if result is None else self._body(result.output),
        )

    def _log_model(
        self, request: ModelRequest, started: float, ending: "_Ending", response: ModelResponse | None
    ) -> None:
        self._log(
            Stage.MODEL,
            request.context,
            started,
            ending,
            step=request.step,
            attempt=request.attempt,
            model=response and response.model,
            input_tokens=response and response.usage.input_tokens,
            output_tokens=response and response.usage.output_tokens,
            cached=(response is not None and response.cached) or None,
        )

    def _body(self, text: str | None) -> str | None:
        return text[: self._max_body] if self._bodies and text is not None else None

    def _log(self, stage: Stage, context: AgentContext, started: float, ending: "_Ending", **fields: Any) -> None:
        try:
            if self._wants(ending.level):
                self._write(_record(stage, context, started, ending, fields))
        except Exception as error:  # noqa: BLE001 - whatever the writer raises, the run goes on
            self.lost += 1
            _last_resort(_record(stage, context, started, ending, fields), error)


class _Ending(msgspec.Struct, frozen=True, eq=False):
    """How a run or call ended."""

    outcome: Outcome
    level: int
    error_type: ErrorType | None = None
    error: str | None = None


_SUCCESS = _Ending("success", logging.INFO)
_TOOL_ERROR = _Ending("failure", logging.WARNING, ErrorType.TOOL)


def _raised(error: BaseException, context: AgentContext) -> _Ending:
    if isinstance(error, Suspended):
        return _Ending("suspended", logging.INFO, error.error_type, safe_text(error))
    if isinstance(error, Exception):
        level = logging.WARNING if isinstance(error, AgentRuntimeError) else logging.ERROR
        return _Ending("failure", level, error_type_of(error), safe_text(error))
    if context.run.edge.gone is not None:
        return _Ending("cancelled", logging.WARNING, ErrorType.CONSUMER_GONE)
    # A coroutine that is closed outside of any event loop gets a GeneratorExit; there is no clock there.
    late = not isinstance(error, GeneratorExit) and anyio.current_time() >= context.deadline
    return _Ending("cancelled", logging.WARNING, ErrorType.TIMEOUT if late else ErrorType.CANCELLED)


def _record(
    stage: Stage, context: AgentContext, started: float, ending: _Ending, fields: Mapping[str, Any]
) -> LogRecord:
    principal = context.run.principal
    return LogRecord(
        event=_EVENTS[stage],
        level=ending.level,
        stage=stage,
        outcome=ending.outcome,
        duration_ms=round((perf_counter() - started) * 1000.0, 3),
        run_id=context.run_id,
        agent_id=context.agent_id,
        user_id=principal.subject if principal else context.user_id or None,
        tenant_id=principal.tenant if principal else context.tenant_id,
        session_id=context.session_id,
        trace_id=context.run.trace_id,
        error_type=ending.error_type,
        error=ending.error,
        **fields,
    )


def _in_its_place(context: AgentContext, result: AgentResult) -> str | None:
    """Who answered, where it was not the agent."""
    if result.served_by != "agent":
        return result.served_by
    return "layer" if context.run.executions == 0 else None


def _last_resort(record: LogRecord, error: Exception) -> None:
    """Write to standard error, where nobody can be told that this fails too."""
    with suppress(Exception):
        sys.stderr.write(f"log record lost ({type(error).__name__} in its writer): {record}\n")


def _always(level: int) -> bool:
    return True


def _on_one_line(text: str) -> str:
    """`text` with line breaks, terminal escapes, bidirectional marks and lone surrogates written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(text: str) -> str:
    if _BARE.fullmatch(text):
        return text
    return '"' + _on_one_line(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
