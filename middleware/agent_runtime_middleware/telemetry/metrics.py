"""What runs, model calls and tool calls take, as OpenTelemetry metrics with a bounded number of series."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import TypeAlias

from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider, UpDownCounter, get_meter_provider

import agent_runtime_middleware.telemetry.names as names
from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    Emit,
    LayerKind,
    ModelRequest,
    ModelResponse,
    ReasoningDelta,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolResult,
)
from agent_runtime_middleware.telemetry.ending import SUCCESS, Ending, label, of_run, of_tool, raised, served_by
from agent_runtime_middleware.telemetry.provider import LOOK_EVERY, records

Labels: TypeAlias = Mapping[str, str | bool]
Instrument: TypeAlias = Counter | Histogram | UpDownCounter

# Advised by the conventions for these instruments; seconds and tokens.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS = tuple(4**n for n in range(14))

_OVERFLOW: Labels = {names.OVERFLOW: True}
_INSTRUMENTS = 8


class MetricsMiddleware(BaseMiddleware):
    """Measures runs, model calls and tool calls with OpenTelemetry: durations, tokens, time to the first piece, cost.

    Labels are the agent, the model, the tool, the outcome and the kind of error, who served it and whether it was cached:
    no id of a user, tenant, session or run.

    Args:
        meter_provider: Where measurements go; by default to the application's global provider, if it has set one.
        max_series: Sets of labels that all instruments have together. What would be one more is measured under
            `otel.metric.overflow`, and counted in `overflowed`.

    `await bus.subscribe(EventType.CACHE_HIT, metrics.count)` counts events of a type as well.

    Where no provider is set, the layer does nothing but look for one, once a second. What the SDK raises changes nothing
    about the run; it is counted in `lost`.

    Cost: one look at a clock per call without an SDK; with one, two looks at a clock and one to three measurements per
    call, and in streamed model calls one more function call per piece.
    Order: outside the layers that may refuse, or refusals are not measured. Inside a retry it measures each attempt.
    """

    kind = LayerKind.METRICS

    def __init__(self, meter_provider: MeterProvider | None = None, *, max_series: int = 2_000) -> None:
        if max_series <= _INSTRUMENTS:
            raise ConfigurationError(
                f"MetricsMiddleware(max_series={max_series!r}): above {_INSTRUMENTS}, one for each instrument"
            )
        self.lost = 0
        self.overflowed = 0
        self._next_look = 0.0
        self._provider = meter_provider
        self._instruments: _Instruments | None = None
        self._room = max_series - _INSTRUMENTS  # the others are for what overflows
        self._series: dict[tuple[object, ...], Labels] = {}

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        to = self._instruments or self._configured()
        if to is None:
            return await call_next(context)
        agent = label(context.agent_id)
        spent = context.run.usage.cost or 0
        active = self._labels(to.run_active, {names.GEN_AI_AGENT_NAME: agent})
        self._measure(to.run_active.add, 1, active)
        started = perf_counter()
        ending, by = SUCCESS, None
        try:
            result = await call_next(context)
            ending, by = of_run(result), served_by(context, result)
        except BaseException as error:
            ending = raised(error, context)
            raise
        finally:
            told = {names.GEN_AI_AGENT_NAME: agent, **_ended(ending), names.SERVED_BY: by}
            self._record(to.run_duration, perf_counter() - started, told)
            self._measure(to.run_active.add, -1, active)
            cost = float((context.run.usage.cost or 0) - spent)
            if cost > 0:
                self._measure(to.run_cost.add, cost, self._labels(to.run_cost, {names.GEN_AI_AGENT_NAME: agent}))
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        to = self._instruments or self._configured()
        if to is None:
            return await call_next(request)
        first = _First(request.emit)
        if request.stream:
            request = request.replace(emit=first)
        started = perf_counter()
        ending = SUCCESS
        response: ModelResponse | None = None
        try:
            response = await call_next(request)
            return response  # noqa: TRY300 - `finally` looks at it
        except BaseException as error:
            ending = raised(error, request.context)
            raise
        finally:
            self._record_model(to, request, response, ending, perf_counter() - started, first.at and first.at - started)

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        to = self._instruments or self._configured()
        if to is None:
            return await call_next(call)
        started = perf_counter()
        ending = SUCCESS
        try:
            result = await call_next(call)
            ending = of_tool(result)
        except BaseException as error:
            ending = raised(error, call.context)
            raise
        finally:
            told = {names.GEN_AI_AGENT_NAME: label(call.context.agent_id), names.GEN_AI_TOOL_NAME: label(call.name)}
            self._record(to.tool_duration, perf_counter() - started, {**told, **_ended(ending)})
        return result

    async def count(self, event: SystemEvent) -> None:
        """Count `event` by its type: subscribe this method to the types that are of interest, `cache_hit` or `retry`.

        Where the event says so, by the kind of error, the layer, and whether the run went on without what failed.
        """
        to = self._instruments or self._configured()
        if to is None:
            return
        layer = event.metadata.get("middleware")
        told = {
            names.EVENT_TYPE: label(str(event.event_type)),
            names.GEN_AI_AGENT_NAME: label(event.agent_id) or None,
            names.ERROR_TYPE: event.error_type and str(event.error_type),
            names.MIDDLEWARE: label(layer) if isinstance(layer, str) else None,
            names.DEGRADED: event.metadata.get("degraded") is True or None,
        }
        self._measure(to.events.add, 1, self._labels(to.events, told))

    def _record_model(
        self,
        to: "_Instruments",
        request: ModelRequest,
        response: ModelResponse | None,
        ending: Ending,
        seconds: float,
        first: float | None,
    ) -> None:
        model, provider = request.model, request.provider
        told: dict[str, str | bool | None] = {
            names.GEN_AI_OPERATION_NAME: names.CHAT,
            names.GEN_AI_AGENT_NAME: label(request.context.agent_id),
            names.GEN_AI_PROVIDER_NAME: None if provider is None else label(provider),
            names.GEN_AI_REQUEST_MODEL: None if model is None else label(model),
            names.GEN_AI_RESPONSE_MODEL: None if response is None or response.model is None else label(response.model),
            names.CACHED: response is not None and response.cached,
        }
        self._record(to.model_duration, seconds, {**told, **_ended(ending)})
        if first is not None:
            self._record(to.first_chunk, first, told)
        if response is not None:
            for kind, tokens in (("input", response.usage.input_tokens), ("output", response.usage.output_tokens)):
                if tokens:
                    self._record(to.tokens, tokens, {**told, names.GEN_AI_TOKEN_TYPE: kind})

    def _record(self, instrument: Histogram, amount: float, told: Mapping[str, str | bool | None]) -> None:
        self._measure(instrument.record, amount, self._labels(instrument, told))

    def _measure(self, measure: Callable[[float, Labels], None], amount: float, labels: Labels) -> None:
        try:
            measure(amount, labels)
        except Exception:  # noqa: BLE001 - whatever the SDK raises, the run goes on
            self.lost += 1

    def _labels(self, instrument: Instrument, told: Mapping[str, str | bool | None]) -> Labels:
        """`told` without `None`, or the overflow set where there is no room for one more."""
        key = (instrument, *told.values())
        labels = self._series.get(key)
        if labels is not None:
            return labels
        if len(self._series) >= self._room:
            self.overflowed += 1
            return _OVERFLOW
        labels = self._series[key] = {name: value for name, value in told.items() if value is not None}
        return labels

    def _configured(self) -> "_Instruments | None":
        now = perf_counter()
        if now < self._next_look:
            return None
        self._next_look = now + LOOK_EVERY
        try:
            provider = get_meter_provider() if self._provider is None else self._provider
            if records(provider, MeterProvider):
                self._instruments = _Instruments(provider.get_meter(names.SCOPE))
        except Exception:  # noqa: BLE001 - whatever the SDK raises, the run goes on
            self.lost += 1
        return self._instruments


class _Instruments:
    """What is measured with; `_INSTRUMENTS` is their number."""

    def __init__(self, meter: Meter) -> None:
        self.run_duration = _seconds(meter, names.RUN_DURATION, "Runs, from the first layer to the last.")
        self.run_active = meter.create_up_down_counter(names.RUN_ACTIVE, "{run}", "Runs in flight.")
        self.run_cost = meter.create_counter(names.RUN_COST, "", "What runs cost, where the client names a price.")
        self.model_duration = _seconds(meter, names.GEN_AI_CLIENT_OPERATION_DURATION, "Model calls.")
        self.first_chunk = _seconds(
            meter,
            names.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            "From the start of a streamed model call to its first piece of text.",
            _FIRST,
        )
        self.tokens = meter.create_histogram(
            names.GEN_AI_CLIENT_TOKEN_USAGE,
            "{token}",
            "Tokens of a model call.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.tool_duration = _seconds(meter, names.TOOL_DURATION, "Tool calls.")
        self.events = meter.create_counter(names.EVENTS, "{event}", "Events by type.")


class _First:
    """When the first piece of text went by, in `perf_counter()` seconds."""

    def __init__(self, emit: Emit) -> None:
        self.at: float | None = None
        self._emit = emit

    def __call__(self, event: StreamEvent) -> Awaitable[None]:
        if self.at is None and isinstance(event, TextDelta | ReasoningDelta):
            self.at = perf_counter()
        return self._emit(event)


def _seconds(meter: Meter, name: str, description: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)


def _ended(ending: Ending) -> dict[str, str | None]:
    return {names.OUTCOME: ending.outcome, names.ERROR_TYPE: ending.error_type and str(ending.error_type)}
