"""Scenarios 84 and 85, and what 24 and 40 say of traces: what OpenTelemetry is told of a run."""

import random
import re
import subprocess
import sys
from collections.abc import Callable, Generator
from decimal import Decimal
from time import perf_counter

import anyio
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.spans import Recorder, attributes

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ErrorType,
    EventBus,
    EventType,
    Layer,
    ModelRequest,
    ModelResponse,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware

NAME = "scenario-shop"
ASKED = AgentContext(user_id="ann", session_id="s1", current_task="How much is the lamp?")
LOOK_UP = ScriptedReply(tool_calls=(("price", {"item": "lamp"}), ("price", {"item": "bulb"})))
ANSWER = ScriptedReply(
    chunks=(0.01, "It ", "is 3."), usage=Usage(input_tokens=9, output_tokens=4, cost=Decimal("0.002")), model="gpt-x-1"
)

Samples = dict[str, list[tuple[dict[str, str], float]]]


@tool(kind="pure")
def price(item: str) -> str:
    return "3"


def shop(layers: list[Layer], *script: ScriptedReply | Exception, bus: EventBus | None = None) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name=NAME, model="gpt-x", retry_delay=0),
        llm_client=ScriptedLLMClient(script or (LOOK_UP, ANSWER), repeat=True),
        tools=[price],
        middleware=layers,
        event_bus=bus,
    )


# 84


@pytest.fixture
def provider() -> Generator[MeterProvider]:
    provider = MeterProvider([PrometheusMetricReader()], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def scraped() -> Samples:
    """What Prometheus reads of these runs, through its own parser; the registry is everybody's."""
    samples: Samples = {}
    for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        for sample in family.samples:
            if sample.labels.get("gen_ai_agent_name") != NAME:
                continue
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return samples


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for told, value in samples[name] if labels.items() <= told.items())


async def _drop(event: StreamEvent) -> None:
    pass


async def test_s84_one_run_gives_counters_latencies_tokens_and_cost_that_prometheus_reads(
    provider: MeterProvider,
) -> None:
    layer = MetricsMiddleware(provider)
    async with EventBus() as bus:
        await bus.subscribe(EventType.RETRY, layer.count)
        await shop([layer], LOOK_UP, ANSWER, bus=bus).execute(ASKED, emit=_drop)
        await bus.drain()
    samples = scraped()
    assert total(samples, "agent_runtime_run_duration_seconds_count", agent_runtime_outcome="success") == 1
    assert total(samples, "agent_runtime_run_duration_seconds_bucket", le="+Inf") == 1
    assert total(samples, "agent_runtime_run_active") == 0
    assert total(samples, "agent_runtime_run_cost_total") == pytest.approx(0.002)
    assert total(samples, "agent_runtime_tool_duration_seconds_count", gen_ai_tool_name="price") == 2
    assert total(samples, "gen_ai_client_operation_duration_seconds_count", gen_ai_request_model="gpt-x") == 2
    assert total(samples, "gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 9
    assert total(samples, "gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 4
    assert total(samples, "gen_ai_client_operation_time_to_first_chunk_seconds_count") == 1
    assert 0.01 <= total(samples, "gen_ai_client_operation_time_to_first_chunk_seconds_sum") < 10


async def test_s84_exceptions_are_measured_too(provider: MeterProvider) -> None:
    layer = MetricsMiddleware(provider)
    with pytest.raises(KeyError):
        await shop([layer], KeyError("boom")).execute(ASKED)
    samples = scraped()
    for name in ("agent_runtime_run_duration_seconds_count", "gen_ai_client_operation_duration_seconds_count"):
        assert total(samples, name, error_type="internal", agent_runtime_outcome="failure") == 1


async def test_s84_random_users_make_no_series(provider: MeterProvider) -> None:
    executor = shop([MetricsMiddleware(provider)])
    before: dict[str, int] = {}
    for n in range(100):
        await executor.execute(AgentContext(user_id=f"u{n}", tenant_id=f"t{n}", session_id=f"s{n}", current_task="hi"))
        if n == 0:
            before = {name: len(found) for name, found in scraped().items()}
    assert {name: len(found) for name, found in scraped().items()} == before


# 85, 24, 40


async def test_s85_one_trace_with_the_right_parents_across_tasks_and_streams() -> None:
    recorder = Recorder()
    executor = shop([TracingMiddleware(recorder.provider)])
    async with executor:
        async with executor.stream(ASKED) as stream:
            text = [event.text async for event in stream if isinstance(event, TextDelta)]
    assert (
        recorder.tree
        == """\
invoke_agent scenario-shop
  chat gpt-x
  execute_tool price
  execute_tool price
  chat gpt-x"""
    )
    assert "".join(text) == "It is 3." and stream.result.trace_id


async def test_s85_each_of_many_runs_at_once_has_its_own_trace() -> None:
    recorder = Recorder()
    executor = shop([TracingMiddleware(recorder.provider)])
    seen: dict[str, str | None] = {}

    async def ask(n: int) -> None:
        await anyio.sleep(random.random() / 100)
        result = await executor.execute(ASKED.replace(user_id=f"user {n}"))
        seen[result.run_id] = result.trace_id

    async with anyio.create_task_group() as group:
        for n in range(50):
            group.start_soon(ask, n)
    runs = [attributes(span) for span in recorder.spans if span.name == "invoke_agent scenario-shop"]
    assert {run["agent_runtime.run_id"] for run in runs} == set(seen)
    assert len(set(seen.values())) == len(recorder.trees) == 50


WITHOUT_SDK = """
import sys
sys.modules["opentelemetry.sdk"] = None  # as if it were not installed
from agent_runtime import AgentContext, AgentExecutor
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware

async def agent(context):
    return "done"

executor = AgentExecutor(agent, middleware=[TracingMiddleware(), MetricsMiddleware()])
result = executor.run_sync(AgentContext(user_id="ann", current_task="hi"))
print(result.output, result.trace_id)
"""


def test_s85_without_the_sdk_there_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_SDK], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("done None\n", "")


class PassesOn(BaseMiddleware):
    """What any layer costs that works at all three stages."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await call_next(request)

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        return await call_next(call)


async def seconds_per_run(executors: list[AgentExecutor], rounds: int, runs: int) -> list[float]:
    """The best of each, measured in turns that change their order: a collection of garbage may not always meet the same."""
    best = [float("inf")] * len(executors)
    for _ in range(rounds):
        for place in random.sample(range(len(executors)), len(executors)):
            started = perf_counter()
            for _ in range(runs):
                await executors[place].execute(ASKED)
            best[place] = min(best[place], (perf_counter() - started) / runs)
    return best


@pytest.mark.parametrize("make", [TracingMiddleware, MetricsMiddleware])
async def test_s85_without_the_sdk_the_layer_costs_next_to_nothing(make: Callable[[], Layer]) -> None:
    async def agent(context: AgentContext) -> str:
        return "done"

    resting = AgentExecutor(agent, middleware=[make()])
    passing = AgentExecutor(agent, middleware=[PassesOn()])
    [rests, passes] = await seconds_per_run([resting, passing], rounds=30, runs=50)
    assert rests - passes < 5e-6 or rests < 1.25 * passes


async def test_s24_an_answer_of_a_layer_is_marked_in_the_trace() -> None:
    recorder = Recorder()

    async def from_a_store(context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(output="prepared")

    executor = shop([TracingMiddleware(recorder.provider), from_a_store])
    async with executor:
        result = await executor.execute(ASKED)
        async with executor.stream(ASKED) as stream:
            async for _ in stream:
                pass
    assert result.served_by == stream.result.served_by == "layer"
    assert recorder.trees == ["invoke_agent scenario-shop by layer"] * 2


@pytest.mark.parametrize("fails", [False, True])
async def test_s40_all_events_of_a_run_carry_the_trace_of_its_result(fails: bool) -> None:
    recorder = Recorder()
    events: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        events.append(event)

    async def refuses(context: AgentContext, call_next: CallNext) -> AgentResult:
        if fails:
            return AgentResult(success=False, error="full", error_type=ErrorType.LIMIT)
        return await call_next(context)

    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, note)
        result = await shop([TracingMiddleware(recorder.provider), refuses], bus=bus).execute(ASKED)
        await bus.drain()
    assert result.trace_id is not None and re.fullmatch("[0-9a-f]{32}", result.trace_id)
    kinds = [event.event_type for event in events if event.event_type != EventType.MIDDLEWARE_EXECUTED]
    assert kinds[0] == (EventType.ERROR_OCCURRED if fails else EventType.AGENT_STARTED)
    assert {(event.run_id, event.trace_id) for event in events} == {(result.run_id, result.trace_id)}
