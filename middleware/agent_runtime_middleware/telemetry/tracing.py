"""A span for each run, each model call and each tool call."""

from collections.abc import Callable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value, set_value
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    format_trace_id,
    get_tracer_provider,
    set_span_in_context,
)

import agent_runtime_middleware.telemetry.names as names
from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    LayerKind,
    Message,
    ModelRequest,
    ModelResponse,
    StateKey,
    ToolCall,
    ToolResult,
)
from agent_runtime_middleware.telemetry.content import arguments_json, messages_json
from agent_runtime_middleware.telemetry.ending import SUCCESS, Ending, label, of_run, of_tool, raised, served_by
from agent_runtime_middleware.telemetry.provider import LOOK_EVERY, records

_RUN_OF = create_key("agent_runtime.run_id")
"""In an OpenTelemetry context: the run that it is part of."""

_WHAT = {
    names.INVOKE_AGENT: names.GEN_AI_AGENT_NAME,
    names.CHAT: names.GEN_AI_REQUEST_MODEL,
    names.EXECUTE_TOOL: names.GEN_AI_TOOL_NAME,
}
_PARAMETERS = {
    "temperature": names.GEN_AI_REQUEST_TEMPERATURE,
    "max_tokens": names.GEN_AI_REQUEST_MAX_TOKENS,
    "top_p": names.GEN_AI_REQUEST_TOP_P,
    "frequency_penalty": names.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": names.GEN_AI_REQUEST_PRESENCE_PENALTY,
    "seed": names.GEN_AI_REQUEST_SEED,
}


class TracingMiddleware(BaseMiddleware):
    """Makes an OpenTelemetry span for each run, each model call and each tool call, and ends it once, however that ends.

    Spans follow the conventions for generative AI (`invoke_agent …`, `chat …`, `execute_tool …`). The run's span is a child
    of the host's current one; spans of model and tool calls, of runs inside a tool, and those that instrumented libraries
    make, are children of what they are part of, also where an agent works in other tasks or threads. The run, its events
    and its result carry the `trace_id`.

    Args:
        tracer_provider: Where spans go; by default to the application's global provider, if it has set one.
        content: Also put the task, messages, arguments and answers into spans. They hold none by default: of an error that
            is not ours only its type. Credentials are never put there.
        max_content: Characters of text in one such attribute.

    Where no provider is set, the layer does nothing but look for one, once a second. What the SDK raises changes nothing
    about the run; it is counted in `lost`.

    Cost: one look at a clock per call without an SDK; with one, a span per run and call, nothing per piece of a stream.
    Order: the outermost, so that refusals and all events have their trace. Inside a retry each attempt has a span.
    """

    kind = LayerKind.TRACING

    def __init__(
        self, tracer_provider: TracerProvider | None = None, *, content: bool = False, max_content: int = 8_000
    ) -> None:
        self.lost = 0
        self.max_content = max_content if content else 0
        self._next_look = 0.0
        self._provider = tracer_provider
        self._tracer: Tracer | None = None
        self._inside = StateKey[Context]("tracing")

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        tracer = self._tracer or self._configured()
        if tracer is None:
            return await call_next(context)
        result: AgentResult | None = None
        with _Open(self, tracer, get_current(), context, names.INVOKE_AGENT, context.agent_id) as span:
            span.at_end = lambda: self._of_run(context, result)
            context.run.state[self._inside] = span.inside
            context.run.trace_id = span.trace_id or context.run.trace_id
            if self.max_content:
                asked = (Message(role="user", content=context.current_task),)
                span.tell(lambda: {names.GEN_AI_INPUT_MESSAGES: messages_json(asked, self.max_content)})
            result = await call_next(context)
            span.ending = of_run(result)
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        tracer = self._tracer or self._configured()
        if tracer is None:
            return await call_next(request)
        response: ModelResponse | None = None
        retries = request.run.retries
        model = request.model or ""
        with _Open(self, tracer, self._inside_of(request.context), request.context, names.CHAT, model) as span:
            span.at_end = lambda: self._of_model(request, response, retries)
            if self.max_content:
                span.tell(lambda: {names.GEN_AI_INPUT_MESSAGES: messages_json(request.messages, self.max_content)})
            response = await call_next(request)
        return response

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        tracer = self._tracer or self._configured()
        if tracer is None:
            return await call_next(call)
        result: ToolResult | None = None
        with _Open(self, tracer, self._inside_of(call.context), call.context, names.EXECUTE_TOOL, call.name) as span:
            span.at_end = lambda: self._of_tool(call, result)
            if self.max_content:
                span.tell(lambda: {names.GEN_AI_TOOL_CALL_ARGUMENTS: arguments_json(call.arguments, self.max_content)})
            result = await call_next(call)
            span.ending = of_tool(result)
        return result

    def _inside_of(self, context: AgentContext) -> Context:
        """What is current, where that is part of this run; otherwise the run's own, wherever the agent has gone."""
        current = get_current()
        if get_value(_RUN_OF, current) == context.run_id:
            return current
        return context.run.state.get(self._inside, current)

    def _configured(self) -> Tracer | None:
        now = perf_counter()
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_EVERY
        try:
            provider = get_tracer_provider() if self._provider is None else self._provider
            if records(provider, TracerProvider):
                self._tracer = provider.get_tracer(names.SCOPE)
        except Exception:  # noqa: BLE001 - whatever the SDK raises, the run goes on
            self.lost += 1
        return self._tracer

    def _of_run(self, context: AgentContext, result: AgentResult | None) -> dict[str, Any]:
        run = context.run
        user, tenant = context.user_id, context.tenant_id
        if run.principal is not None:
            user, tenant = run.principal.subject, run.principal.tenant
        told = {
            names.GEN_AI_AGENT_ID: context.agent_id,
            names.GEN_AI_CONVERSATION_ID: context.session_id,
            names.GEN_AI_USAGE_INPUT_TOKENS: run.usage.input_tokens,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: run.usage.output_tokens,
            names.RUN_ID: run.run_id,
            names.PARENT_RUN_ID: context.parent_run_id,
            names.RESUMED_FROM: run.resumed_from,
            names.ATTEMPTS: 1 + run.retries,
            names.ENDUSER_ID: user or None,
            names.TENANT_ID: tenant,
        }
        if result is not None:
            told[names.SERVED_BY] = served_by(context, result)
            if self.max_content:
                answer = Message(role="assistant", content=result.output)
                told[names.GEN_AI_OUTPUT_MESSAGES] = messages_json((answer,), self.max_content)
        return told

    def _of_model(self, request: ModelRequest, response: ModelResponse | None, retries: int) -> dict[str, Any]:
        told: dict[str, Any] = {
            name: value
            for parameter, name in _PARAMETERS.items()
            if isinstance(value := request.parameters.get(parameter), int | float)
        }
        stop = request.parameters.get("stop")
        if isinstance(stop, list | tuple):
            told[names.GEN_AI_REQUEST_STOP_SEQUENCES] = [str(text) for text in stop]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # the provider's JSON
        told[names.GEN_AI_PROVIDER_NAME] = request.provider
        told[names.GEN_AI_REQUEST_STREAM] = request.stream
        told[names.STEP] = request.step
        told[names.ATTEMPT] = request.attempt
        repeated = (
            request.run.retries - retries - (request.attempt > 1)
        )  # by layers inside; this one itself may be a repetition
        if repeated > 0:
            told[names.ATTEMPTS] = 1 + repeated
        return told if response is None else told | self._of_response(response)

    def _of_response(self, response: ModelResponse) -> dict[str, Any]:
        usage = response.usage
        told: dict[str, Any] = {
            names.GEN_AI_RESPONSE_MODEL: None if response.model is None else label(response.model),
            names.GEN_AI_RESPONSE_FINISH_REASONS: [label(response.finish_reason)],
            names.GEN_AI_USAGE_INPUT_TOKENS: usage.input_tokens,
            names.GEN_AI_USAGE_OUTPUT_TOKENS: usage.output_tokens,
            names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens or None,
            names.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens or None,
            names.CACHED: response.cached,
        }
        if self.max_content:
            told[names.GEN_AI_OUTPUT_MESSAGES] = messages_json((response.message,), self.max_content)
        return told

    def _of_tool(self, call: ToolCall, result: ToolResult | None) -> dict[str, Any]:
        told = {names.GEN_AI_TOOL_CALL_ID: label(call.id), names.GEN_AI_TOOL_TYPE: "function"}
        if self.max_content and result is not None:
            told[names.GEN_AI_TOOL_CALL_RESULT] = result.content[: self.max_content]
        return told


class _Open:
    """One span while it is open: current inside the `with`, ended once behind it. What the SDK raises is only counted.

    Attributes:
        inside: The OpenTelemetry context of what is inside the span.
        trace_id: As 32 hexadecimal digits; `None` where the SDK made no trace.
        at_end: Gives the last attributes; asked only where the span is recorded. `None` in them is left out.
        ending: How it ended, unless by an exception.
    """

    def __init__(
        self,
        layer: TracingMiddleware,
        tracer: Tracer,
        parent: Context,
        context: AgentContext,
        operation: str,
        what: Any,
    ) -> None:
        self.inside = parent
        self.trace_id: str | None = None
        self.at_end: Callable[[], Mapping[str, Any]] = dict
        self.ending = SUCCESS
        self._layer = layer
        self._context = context
        self._span: Span | None = None
        self._recording = False
        what = label(what) if isinstance(what, str) else ""
        given = {names.GEN_AI_OPERATION_NAME: operation}
        if what:
            given[_WHAT[operation]] = what
        try:
            self._span = span = tracer.start_span(
                f"{operation} {what}" if what else operation,
                parent,
                SpanKind.CLIENT if operation is names.CHAT else SpanKind.INTERNAL,
                given,
            )
            self._recording = span.is_recording()
            self.inside = set_value(_RUN_OF, context.run_id, set_span_in_context(span, parent))
            if (made := span.get_span_context()).is_valid:
                self.trace_id = format_trace_id(made.trace_id)
        except Exception:  # noqa: BLE001 - whatever the SDK raises, the run goes on
            layer.lost += 1

    def tell(self, attributes: Callable[[], Mapping[str, Any]]) -> None:
        """Set attributes where somebody records them."""
        try:
            if self._span is not None and self._recording:
                self._span.set_attributes({name: value for name, value in attributes().items() if value is not None})
        except Exception:  # noqa: BLE001 - whatever the SDK raises, the run goes on
            self._layer.lost += 1

    def __enter__(self) -> Self:
        self._token = attach(self.inside)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not GeneratorExit or get_current() is self.inside:
            detach(self._token)  # a coroutine may be closed in another context, where nothing was attached
        if self._span is None:
            return
        if error is not None:
            self.ending = raised(error, self._context)
        self.tell(self.at_end)
        try:
            if self._recording:
                _tell_ending(self._span, self.ending, error)
        except Exception:  # noqa: BLE001 - the same
            self._layer.lost += 1
        try:
            self._span.end()
        except Exception:  # noqa: BLE001 - the same
            self._layer.lost += 1


def _tell_ending(span: Span, ending: Ending, error: BaseException | None) -> None:
    """Of an exception, the type and what is safe to show: its own words may be anybody's prompt or key."""
    span.set_attribute(names.OUTCOME, ending.outcome)
    if ending.error_type is None:
        return
    span.set_attribute(names.ERROR_TYPE, ending.error_type)
    span.set_status(StatusCode.ERROR, ending.text)
    if error is not None and ending.text is not None:
        kind = type(error)
        told = {names.EXCEPTION_TYPE: f"{kind.__module__}.{kind.__qualname__}", names.EXCEPTION_MESSAGE: ending.text}
        span.add_event("exception", told)
