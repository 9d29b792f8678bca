"""MetricsMiddleware: what is measured, under which labels, and that there is a limit to their number."""

import logging
from collections.abc import Generator, Iterator
from contextlib import suppress
from decimal import Decimal
from time import perf_counter
from typing import Any, TypeAlias

import anyio
import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, MetricsData

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Stage,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
    model_middleware,
    reaches,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.telemetry import MetricsMiddleware, metrics

Point: TypeAlias = tuple[dict[str, Any], float]

ASKED = AgentContext(user_id="ann", tenant_id="acme", session_id="s1", current_task="How much is the lamp?")
LOOK_UP = ScriptedReply(
    tool_calls=(("price", {"item": "lamp"}),), usage=Usage(input_tokens=5, output_tokens=2, cost=Decimal("0.25"))
)
ANSWER = ScriptedReply(chunks=("It ", "is 3."), usage=Usage(input_tokens=9, output_tokens=4, cost=Decimal("0.5")))
RUN = {"gen_ai.agent.name": "shop", "agent_runtime.outcome": "success", "agent_runtime.served_by": "agent"}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.agent.name": "shop",
    "gen_ai.request.model": "gpt-x",
    "gen_ai.response.model": "scripted",
    "agent_runtime.cached": False,
}


class Measured:
    """A meter provider of the SDK whose metrics stay here."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self, name: str) -> list[Point]:
        """The labels, and the sum or for a histogram the count, of each series of an instrument."""
        return [(dict(point.attributes or {}), _number(point)) for point in self._points(name)]

    def sums(self, name: str) -> list[float]:
        return [point.sum for point in self._points(name)]

    def boundaries(self, name: str) -> set[tuple[float, ...]]:
        return {tuple(point.explicit_bounds) for point in self._points(name)}

    def units(self) -> dict[str, str | None]:
        return {metric.name: metric.unit for metric in self._metrics()}

    def _points(self, name: str) -> Iterator[Any]:
        for metric in self._metrics():
            if metric.name == name:
                yield from metric.data.data_points

    def _metrics(self) -> Iterator[Any]:
        data = self.reader.get_metrics_data() or MetricsData(resource_metrics=[])
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                yield from scope.metrics


def _number(point: Any) -> float:
    return float(point.count if isinstance(point, HistogramDataPoint) else point.value)


@pytest.fixture
def measured() -> Generator[Measured]:
    measured = Measured()
    yield measured
    measured.provider.shutdown()


@tool(kind="pure")
def price(item: str) -> str:
    return "3"


def shop(
    layer: MetricsMiddleware,
    *script: ScriptedReply | Exception,
    inside: tuple[Layer, ...] = (),
    outside: tuple[Layer, ...] = (),
    **options: Any,
) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="shop", model="gpt-x", retry_delay=0),
        llm_client=ScriptedLLMClient(script or (LOOK_UP, ANSWER)),
        tools=[price],
        middleware=[*outside, layer, *inside],
        **options,
    )


async def test_a_run_is_measured_with_its_calls(measured: Measured) -> None:
    layer = MetricsMiddleware(measured.provider)
    assert (await shop(layer).execute(ASKED)).success
    assert measured.points("agent_runtime.run.duration") == [(RUN, 1)]
    assert measured.points("agent_runtime.run.active") == [({"gen_ai.agent.name": "shop"}, 0)]
    assert measured.points("agent_runtime.run.cost") == [({"gen_ai.agent.name": "shop"}, 0.75)]
    ok = {"agent_runtime.outcome": "success"}
    assert measured.points("gen_ai.client.operation.duration") == [(CALL | ok, 2)]
    assert measured.points("agent_runtime.tool.duration") == [
        ({"gen_ai.agent.name": "shop", "gen_ai.tool.name": "price"} | ok, 1)
    ]
    assert measured.points("gen_ai.client.token.usage") == [
        (CALL | {"gen_ai.token.type": "input"}, 2),
        (CALL | {"gen_ai.token.type": "output"}, 2),
    ]
    assert measured.sums("gen_ai.client.token.usage") == [14, 6]
    assert measured.points("gen_ai.client.operation.time_to_first_chunk") == []
    assert layer.lost == layer.overflowed == 0


async def test_the_units_and_the_boundaries_are_those_of_the_conventions(measured: Measured) -> None:
    layer = MetricsMiddleware(measured.provider)
    await layer.count(SystemEvent(event_type="retry"))
    await shop(layer).execute(ASKED, emit=_drop)
    assert measured.units() == {
        "agent_runtime.run.duration": "s",
        "agent_runtime.run.active": "{run}",
        "agent_runtime.run.cost": "",
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.operation.time_to_first_chunk": "s",
        "gen_ai.client.token.usage": "{token}",
        "agent_runtime.tool.duration": "s",
        "agent_runtime.events": "{event}",
    }
    assert measured.boundaries("gen_ai.client.token.usage") == {tuple(4**n for n in range(14))}
    [seconds] = measured.boundaries("gen_ai.client.operation.duration")
    assert (seconds[0], seconds[-1], len(seconds)) == (0.01, 81.92, 14)
    [first] = measured.boundaries("gen_ai.client.operation.time_to_first_chunk")
    assert (first[0], first[-1], len(first)) == (0.001, 10.0, 16)


async def _drop(event: object) -> None:
    pass


async def test_a_streamed_call_is_measured_to_its_first_piece(measured: Measured) -> None:
    slow = ScriptedReply(chunks=(0.05, "a", 0.1, "b"))
    await shop(MetricsMiddleware(measured.provider), slow).execute(ASKED, emit=_drop)
    assert measured.points("gen_ai.client.operation.time_to_first_chunk") == [(CALL, 1)]
    [first] = measured.sums("gen_ai.client.operation.time_to_first_chunk")
    [whole] = measured.sums("gen_ai.client.operation.duration")
    assert 0.05 <= first <= whole - 0.1


async def test_a_call_that_breaks_after_its_first_piece_has_that_time_too(measured: Measured) -> None:
    broken = ScriptedReply(chunks=("a", ProviderUnavailable("down")))
    await shop(MetricsMiddleware(measured.provider), broken).execute(ASKED, emit=_drop)
    told = {name: value for name, value in CALL.items() if name != "gen_ai.response.model"}
    assert measured.points("gen_ai.client.operation.time_to_first_chunk") == [(told, 1)]


async def test_a_failure_is_measured_by_its_kind(measured: Measured) -> None:
    layer = MetricsMiddleware(measured.provider)
    executor = shop(layer, ProviderUnavailable("down"), KeyError("boom"))
    with pytest.raises(KeyError):
        await executor.execute(ASKED)
    assert [labels.get("error.type") for labels, _ in measured.points("gen_ai.client.operation.duration")] == [
        "provider",
        "internal",
    ]
    [(labels, count)] = measured.points("agent_runtime.run.duration")
    assert (labels["agent_runtime.outcome"], labels["error.type"], count) == ("failure", "internal", 1)
    assert "agent_runtime.served_by" not in labels
    assert measured.points("agent_runtime.run.active") == [({"gen_ai.agent.name": "shop"}, 0)]
    assert measured.points("agent_runtime.run.cost") == []


@pytest.mark.parametrize("raises", [True, False])
async def test_a_failed_tool_is_measured(measured: Measured, raises: bool) -> None:
    async def fails(call: ToolCall) -> ToolResult:
        if raises:
            raise ProviderUnavailable("down")
        return ToolResult(content="no", is_error=True)

    @reaches(Stage.TOOL)
    async def agent(context: AgentContext) -> str:
        with suppress(ProviderUnavailable):
            await context.call_tool(ToolCall(id="1", name="t"), fails)
        return "done"

    await AgentExecutor(agent, middleware=[MetricsMiddleware(measured.provider)]).execute(ASKED)
    [(labels, _)] = measured.points("agent_runtime.tool.duration")
    assert labels["error.type"] == ("provider" if raises else "tool")


async def test_a_cancelled_run_is_measured_and_no_longer_active(measured: Measured) -> None:
    scope = anyio.CancelScope()

    def give_up(request: ModelRequest) -> ScriptedReply:
        scope.cancel()
        return ScriptedReply(delay=60)

    executor = AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([give_up]),
        middleware=[MetricsMiddleware(measured.provider)],
    )
    with scope:
        await executor.execute(ASKED)
    for name in ("agent_runtime.run.duration", "gen_ai.client.operation.duration"):
        [(labels, _)] = measured.points(name)
        assert (labels["agent_runtime.outcome"], labels["error.type"]) == ("cancelled", "cancelled")
    assert measured.points("agent_runtime.run.active") == [({"gen_ai.agent.name": "shop"}, 0)]


async def test_runs_in_flight_are_counted(measured: Measured) -> None:
    seen: list[list[Point]] = []

    async def look(context: AgentContext, call_next: CallNext) -> AgentResult:
        seen.append(measured.points("agent_runtime.run.active"))
        return await call_next(context)

    await shop(MetricsMiddleware(measured.provider), inside=(look,)).execute(ASKED)
    assert seen == [[({"gen_ai.agent.name": "shop"}, 1)]]


async def test_who_answered_is_told(measured: Measured) -> None:
    @model_middleware
    async def keeps(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return ModelResponse.of("kept", cached=True)

    async def refuses(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(success=False, error="full", error_type=ErrorType.LIMIT)

    await shop(MetricsMiddleware(measured.provider), inside=(keeps,)).execute(ASKED)
    await shop(MetricsMiddleware(measured.provider), inside=(refuses,)).execute(ASKED)
    [(labels, _)] = measured.points("gen_ai.client.operation.duration")
    assert labels["agent_runtime.cached"] is True
    assert measured.points("gen_ai.client.token.usage") == []
    runs = [labels for labels, _ in measured.points("agent_runtime.run.duration")]
    assert [labels["agent_runtime.served_by"] for labels in runs] == ["cache", "layer"]
    assert [labels.get("error.type") for labels in runs] == [None, "limit"]


async def test_the_cost_of_a_repeated_run_is_counted_once(measured: Measured) -> None:
    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    layer = MetricsMiddleware(measured.provider)
    result = await shop(layer, ANSWER, ANSWER, outside=(twice,)).execute(ASKED)
    assert result.usage.cost == Decimal("1.0")
    assert measured.points("agent_runtime.run.cost") == [({"gen_ai.agent.name": "shop"}, 1.0)]


async def test_events_are_counted_by_type(measured: Measured) -> None:
    layer = MetricsMiddleware(measured.provider)

    async def tells(context: AgentContext, call_next: CallNext) -> AgentResult:
        await context.publish(EventType.CACHE_HIT)
        told = {"middleware": "CacheMiddleware", "degraded": True}
        await context.publish(EventType.MIDDLEWARE_FAILED, error_type=ErrorType.STORE, metadata=told)
        return await call_next(context)

    async with EventBus() as bus:
        for kind in (EventType.CACHE_HIT, EventType.MIDDLEWARE_FAILED):
            await bus.subscribe(kind, layer.count)
        await shop(layer, inside=(tells,), event_bus=bus).execute(ASKED)
        await bus.drain()
    await layer.count(SystemEvent(event_type="order.paid", metadata={"middleware": 7, "degraded": "no"}))
    shop_agent = {"gen_ai.agent.name": "shop"}
    assert sorted(measured.points("agent_runtime.events"), key=str) == [
        ({"agent_runtime.event.type": "cache_hit"} | shop_agent, 1),
        (
            {
                "agent_runtime.event.type": "middleware_failed",
                "error.type": "store",
                "agent_runtime.middleware": "CacheMiddleware",
                "agent_runtime.degraded": True,
            }
            | shop_agent,
            1,
        ),
        ({"agent_runtime.event.type": "order.paid"}, 1),
    ]


async def test_no_label_is_an_id_or_content(measured: Measured) -> None:
    await shop(MetricsMiddleware(measured.provider)).execute(ASKED, emit=_drop)
    data = measured.reader.get_metrics_data()
    assert data is not None
    text = data.to_json()
    assert not [secret for secret in ("ann", "acme", "s1", "lamp") if f'"{secret}"' in text]


async def test_what_is_beyond_the_limit_is_measured_in_one_series_and_counted(measured: Measured) -> None:
    layer = MetricsMiddleware(measured.provider, max_series=10)  # two, and one for what overflows of each instrument

    async def agent(context: AgentContext) -> str:
        return "done"

    for n in range(5):
        await AgentExecutor(agent, agent_id=f"agent {n}", middleware=[layer]).execute(ASKED)
    first = {"gen_ai.agent.name": "agent 0"}
    over = {"otel.metric.overflow": True}
    assert measured.points("agent_runtime.run.active") == [(first, 0), (over, 0)]
    assert [labels for labels, _ in measured.points("agent_runtime.run.duration")] == [RUN | first, over]
    assert [count for _, count in measured.points("agent_runtime.run.duration")] == [1, 4]
    assert layer.overflowed == 8


async def test_a_long_name_is_cut(measured: Measured) -> None:
    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        request = ModelRequest(messages=(), parameters={"model": "m" * 1_000})
        return (await context.call_model(request, ScriptedLLMClient([ModelResponse.of("hi")]))).text

    await AgentExecutor(agent, middleware=[MetricsMiddleware(measured.provider)]).execute(ASKED)
    [(labels, _)] = measured.points("gen_ai.client.operation.duration")
    assert labels["gen_ai.request.model"] == "m" * 255 and "gen_ai.response.model" not in labels


@pytest.mark.parametrize("series", [-1, 0, 8])
def test_a_limit_without_room_is_refused(series: int) -> None:
    with pytest.raises(ConfigurationError, match="above 8, one for each instrument"):
        MetricsMiddleware(max_series=series)


def test_there_is_room_for_what_overflows_of_each_instrument(measured: Measured) -> None:
    instruments = metrics._Instruments(measured.provider.get_meter("m"))  # pyright: ignore[reportPrivateUsage]  # their number
    assert len(vars(instruments)) == metrics._INSTRUMENTS  # pyright: ignore[reportPrivateUsage]  # the same


@pytest.mark.parametrize("provider", [None, api.NoOpMeterProvider()])
async def test_without_a_provider_the_layer_rests(provider: api.MeterProvider | None) -> None:
    layer = MetricsMiddleware(provider)
    seen: list[object] = []

    @model_middleware
    async def look(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        seen.append(type(request.emit))
        return await call_next(request)

    await layer.count(SystemEvent(event_type="retry"))
    assert (await shop(layer, inside=(look,)).execute(ASKED, emit=_drop)).success
    assert metrics._First not in seen and layer.lost == 0  # pyright: ignore[reportPrivateUsage]  # nothing is wrapped


async def test_a_provider_that_is_set_later_is_found(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = shop(MetricsMiddleware(), ANSWER, ANSWER)
    await executor.execute(ASKED)
    later = perf_counter() + 1.0
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: measured.provider)
    monkeypatch.setattr(metrics, "perf_counter", lambda: later)
    await executor.execute(ASKED)
    assert measured.points("agent_runtime.run.duration") == [(RUN, 1)]


async def test_an_instrument_that_raises_changes_no_run(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Histogram, "record", fails)
    monkeypatch.setattr(Counter, "add", fails)
    layer = MetricsMiddleware(measured.provider)
    result = await shop(layer).execute(ASKED)
    assert result.output == "It is 3."
    assert layer.lost == 2 + 4 + 1 + 1 + 1  # two model calls with their tokens, a tool call, the run, its cost


async def test_a_provider_that_cannot_be_loaded_changes_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_METER_PROVIDER", "there-is-none")
    layer = MetricsMiddleware()
    with caplog.at_level(logging.CRITICAL):
        assert (await shop(layer).execute(ASKED)).success
    assert layer.lost == 1


async def test_pieces_pass_unchanged(measured: Measured) -> None:
    pieces: list[str] = []

    async def send(event: object) -> None:
        if isinstance(event, TextDelta):
            pieces.append(event.text)

    await shop(MetricsMiddleware(measured.provider), ANSWER).execute(ASKED, emit=send)
    assert pieces == ["It ", "is 3."]
