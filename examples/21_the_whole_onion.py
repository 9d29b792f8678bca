"""Auth, validation, rate limit, cache, retry, timeout, logging, tracing and metrics around one agent, plain and streamed."""

import asyncio
from collections.abc import Sequence

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ProviderUnavailable, Secret
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware
from agent_runtime_middleware.validation import ValidationMiddleware

KEY, RECORD = ApiKeys.generate("ann")
SPANS, METRICS = InMemorySpanExporter(), InMemoryMetricReader()
TRACES = TracerProvider(shutdown_on_exit=False)
TRACES.add_span_processor(SimpleSpanProcessor(SPANS))
SHOWN = {"agent_runtime.cached": "cached", "agent_runtime.attempts": "attempts", "error.type": "error"}


def log(record: LogRecord) -> None:
    if record.event == "agent_run":
        print("   [log]", record.user_id, record.outcome)


EXECUTOR = AgentExecutor(
    config=AgentConfig(name="cook"),
    llm_client=ScriptedLLMClient(
        [
            ScriptedReply(chunks=("Onions ", "have ", "layers.")),
            ProviderUnavailable("the model is overloaded"),
            "Leeks, too.",
        ]
    ),
    middleware=[
        TracingMiddleware(TRACES),  # who observes: all of it, refusals too
        MetricsMiddleware(MeterProvider([METRICS], shutdown_on_exit=False)),
        LoggingMiddleware(log),
        AuthMiddleware(ApiKeys({RECORD.prefix: RECORD})),  # who admits
        ValidationMiddleware(max_characters=200),
        RateLimitMiddleware([Quota(requests=3, per=3_600)]),
        CacheMiddleware(),  # who saves work
        RetryMiddleware(delay=0.01),  # who repeats it
        TimeoutMiddleware(run=30, model=10),  # inside the retry: 10 seconds for each attempt
    ],
    strict=True,
)


def tree(spans: Sequence[ReadableSpan], parent: SpanContext | None = None, indent: str = "   ") -> None:
    for span in spans:
        if span.parent == parent:
            told = span.attributes or {}
            print(f"{indent}{span.name}:", *[f"{what} {told[name]!s}" for name, what in SHOWN.items() if name in told])
            tree(spans, span.context, indent + "   ")


async def ask(task: str, key: Secret = KEY) -> None:
    """One plain run, and its trace."""
    SPANS.clear()
    result = await EXECUTOR.execute(AgentContext(credential=key, current_task=task))
    print("  ", result.output or result.error_type, "- by the", result.served_by)
    tree(SPANS.get_finished_spans())


async def main() -> None:
    async with EXECUTOR:
        print("streamed, from the model")
        context = AgentContext(credential=KEY, current_task="What is an onion?")
        print("  ", [text async for text in EXECUTOR.execute_stream(context)])
        print("plain, from the cache")
        await ask("What is an onion?")
        print("the model fails, and is asked again")
        await ask("What is a leek?")
        print("too long, too often, and by nobody we know")
        await ask("What is garlic?" * 100)
        await ask("What is garlic?")
        await ask("What is garlic?", Secret("ar_0123456789abcdef_" + "x" * 43))

    print("runs, as they are measured")
    data = METRICS.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        if metric.name == "agent_runtime.run.duration":
            for point in metric.data.data_points:
                told = point.attributes or {}
                how = f"by the {told['agent_runtime.served_by']!s}" if "error.type" not in told else told["error.type"]
                print("  ", getattr(point, "count", 0), how)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# streamed, from the model
#    [log] ann success
#    ['Onions ', 'have ', 'layers.']
# plain, from the cache
#    [log] ann success
#    Onions have layers. - by the cache
#    invoke_agent cook: attempts 1
#       chat: cached True
# the model fails, and is asked again
#    [log] ann success
#    Leeks, too. - by the agent
#    invoke_agent cook: attempts 2
#       chat: cached False attempts 2
# too long, too often, and by nobody we know
#    [log] ann failure
#    limit - by the layer
#    invoke_agent cook: attempts 1 error limit
#    [log] ann failure
#    rate_limit - by the layer
#    invoke_agent cook: attempts 1 error rate_limit
#    [log] None failure
#    authentication - by the layer
#    invoke_agent cook: attempts 1 error authentication
# runs, as they are measured
#    2 by the agent
#    1 by the cache
#    1 limit
#    1 rate_limit
#    1 authentication
