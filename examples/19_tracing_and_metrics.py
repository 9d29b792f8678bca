"""Spans and measurements by OpenTelemetry's conventions for generative AI, shown as a tree instead of sent to a collector."""

import asyncio
from collections.abc import Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, format_trace_id

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ProviderUnavailable, ToolFailed, Usage, tool
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware


@tool(kind="pure")
async def price(item: str) -> float:
    """What an item costs."""
    if item != "tea":
        raise ToolFailed("we have only tea")
    return 2.5


SCRIPT: list[ScriptedReply | Exception] = [
    ProviderUnavailable("the model is overloaded"),
    ScriptedReply(
        tool_calls=(("price", {"item": "tea"}), ("price", {"item": "gold"})),
        usage=Usage(input_tokens=40, output_tokens=12),
    ),
    ScriptedReply(text="Tea is 2.50.", usage=Usage(input_tokens=70, output_tokens=6)),
]


SHOWN = ("gen_ai.tool.name", "gen_ai.token.type", "agent_runtime.outcome", "error.type")


def show_spans(spans: Sequence[ReadableSpan], parent: SpanContext | None = None, indent: str = "   ") -> None:
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.parent == parent:
            told = span.attributes or {}
            print(f"{indent}{span.name}:", told["agent_runtime.outcome"], told.get("error.type", ""))
            show_spans(spans, span.context, indent + "   ")


def show_metrics(reader: InMemoryMetricReader) -> None:
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            if isinstance(point, HistogramDataPoint):
                labels = [value for name, value in (point.attributes or {}).items() if name in SHOWN]
                print(
                    "  ", metric.name, *labels, "count", point.count, *([point.sum] if metric.unit == "{token}" else [])
                )


async def main() -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    traces, meters = TracerProvider(shutdown_on_exit=False), MeterProvider([reader], shutdown_on_exit=False)
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    executor = AgentExecutor(
        config=AgentConfig(name="waiter"),
        llm_client=ScriptedLLMClient(SCRIPT),
        tools=[price],
        # An application that has set its global providers leaves them out here. Inside the retry each attempt has a span.
        middleware=[RetryMiddleware(delay=0.01), TracingMiddleware(traces), MetricsMiddleware(meters)],
    )
    result = await executor.execute(AgentContext(user_id="ann", current_task="What do tea and gold cost?"))

    spans = exporter.get_finished_spans()
    print("spans")
    show_spans(spans)
    print(
        "   one trace:", {result.trace_id} == {format_trace_id(span.context.trace_id) for span in spans if span.context}
    )
    print("measurements")
    show_metrics(reader)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# spans
#    invoke_agent waiter: success
#       chat: failure provider
#       chat: success
#       execute_tool price: success
#       execute_tool price: failure tool
#       chat: success
#    one trace: True
# measurements
#    gen_ai.client.operation.duration failure provider count 1
#    gen_ai.client.operation.duration success count 2
#    gen_ai.client.token.usage input count 2 110
#    gen_ai.client.token.usage output count 2 18
#    agent_runtime.tool.duration price success count 1
#    agent_runtime.tool.duration price failure tool count 1
#    agent_runtime.run.duration success count 1
