"""However many users, tenants, agents, models and tools there are: the number of series has a limit (S12, J6)."""

import os
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Stage,
    SystemEvent,
    ToolCall,
    ToolResult,
    Usage,
)
from agent_runtime_middleware.telemetry import MetricsMiddleware

RUNS = 100_000 if os.environ.get("AGENT_RUNTIME_SOAK") == "1" else 3_000
OVERFLOW = "otel.metric.overflow"


class Model:
    """Answers under a name of its own each time, and fails now and then."""

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        if request.context.current_task == "fail":
            raise ProviderUnavailable("down")
        return ModelResponse.of("hi", model=random.randbytes(8).hex(), usage=Usage(input_tokens=3, output_tokens=1))


async def answer(call: ToolCall) -> ToolResult:
    return ToolResult(content="3")


class Anything:
    """An agent that calls what the task's user made up."""

    async def run(self, context: AgentContext) -> str:
        await context.call_tool(ToolCall(id="1", name=f"tool {random.randbytes(8).hex()}"), answer)
        request = ModelRequest(messages=(), parameters={"model": random.randbytes(8).hex()})
        return (await context.call_model(request, Model())).text

    stages = frozenset({Stage.MODEL, Stage.TOOL})


def series(reader: InMemoryMetricReader) -> Iterator[tuple[str, dict[str, object], float]]:
    """Instrument, labels and number of each series."""
    data = reader.get_metrics_data() or MetricsData(resource_metrics=[])
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    number = getattr(point, "count", None)
                    yield metric.name, dict(point.attributes or {}), number if number is not None else point.value  # type: ignore[union-attr]  # a histogram's point has a count, any other a value


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the loop has no part in it


async def test_s12_the_number_of_series_has_a_limit_and_nothing_is_lost() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    layer = MetricsMiddleware(provider)
    chance = random.Random(7)

    for n in range(RUNS):
        agent = AgentExecutor(Anything(), agent_id=f"agent {chance.randbytes(8).hex()}", middleware=[layer])
        context = AgentContext(
            user_id=chance.randbytes(8).hex(),
            tenant_id=chance.randbytes(8).hex(),
            session_id=chance.randbytes(8).hex(),
            current_task="fail" if n % 10 == 0 else "hi",
        )
        await agent.execute(context)
        await layer.count(SystemEvent(event_type=f"custom.{n}", agent_id=context.user_id))
    found = list(series(reader))
    assert 1_900 < len(found) <= 2_000
    assert sum(OVERFLOW in labels for _, labels, _ in found) <= 8
    assert layer.overflowed > 0 and layer.lost == 0
    for name in ("agent_runtime.run.duration", "agent_runtime.tool.duration", "gen_ai.client.operation.duration"):
        assert sum(number for told, _, number in found if told == name) == RUNS
    assert sum(number for told, _, number in found if told == "agent_runtime.events") == RUNS
    assert sum(number for told, _, number in found if told == "agent_runtime.run.active") == 0
    provider.shutdown()


async def test_s12_what_the_layer_keeps_has_a_limit() -> None:
    """Names of 100 KB, as a model may make them up."""
    layer = MetricsMiddleware(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))
    tracemalloc.start()
    try:
        for n in range(3_000):
            await layer.count(SystemEvent(event_type=f"{n}" + "x" * 100_000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20 << 20
