"""L: what each layer that comes with the runtime costs, beside a layer that does nothing; and a whole onion of them."""

import logging
import statistics
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    Layer,
    ModelRequest,
    ModelResponse,
    Secret,
)
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggerWriter, LoggingMiddleware
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.single_flight import SingleFlightMiddleware
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware
from agent_runtime_middleware.validation import ValidationMiddleware
from benchmarks.harness import Case, Measure, Sides, per_call

PASSING = 50  # layers between which the cost of one that does nothing is taken
KEY, RECORD = ApiKeys.generate("u")
ASKED = AgentContext(agent_id="agent", user_id="u", current_task="t")
WITH_KEY = AgentContext(agent_id="agent", credential=Secret(KEY.reveal()), current_task="t")


class Model:
    """Answers at once."""

    def __init__(self) -> None:
        self.calls = 0
        self._answer = ModelResponse.of("hi")

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        self.calls += 1
        return self._answer


class Passing(BaseMiddleware):
    """Does nothing, around the run and around the model call."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await call_next(request)


def executor(*layers: Layer) -> AgentExecutor:
    """A built-in agent whose model answers at once: a layer costs the same around a slow one."""
    return AgentExecutor(config=AgentConfig(name="agent"), llm_client=Model(), middleware=layers)


async def per_run(measured: AgentExecutor, context: AgentContext) -> Measure:
    """Microseconds of a run, after one that has answered."""
    assert (await measured.execute(context)).output == "hi"
    return per_call(lambda: measured.execute(context))


def added(without: Measure, with_layers: Measure, count: int) -> Measure:
    """What one of `count` layers adds to a run, by turns."""

    async def measured(number: int) -> float:
        parts = max(number // 8, 1)
        turns = [await with_layers(parts) - await without(parts) for _ in range(min(number, 8))]
        return statistics.median(turns) / count

    return measured


def silent() -> LoggingMiddleware:
    return LoggingMiddleware(LoggerWriter(logging.Logger("silent", logging.CRITICAL)))


def keys() -> AuthMiddleware:
    return AuthMiddleware(ApiKeys({RECORD.prefix: RECORD}))


def traced() -> TracingMiddleware:
    return TracingMiddleware(TracerProvider())


def metered() -> MetricsMiddleware:
    return MetricsMiddleware(MeterProvider([InMemoryMetricReader()]))


def requests() -> RateLimitMiddleware:
    return RateLimitMiddleware([Quota(requests=MANY, per=60)])


def tokens() -> RateLimitMiddleware:
    return RateLimitMiddleware([Quota(tokens=MANY, per=60, reserve=1)])


def forgetful() -> CacheMiddleware:
    return CacheMiddleware(ttl=1e-6)  # seconds: what it keeps is gone when it is asked for


MANY = 1e12  # so much that nothing is refused, however long the round
LAYERS: Mapping[str, tuple[Callable[[], Layer], AgentContext]] = {
    "logging": (silent, ASKED),
    "auth": (keys, WITH_KEY),
    "validation": (ValidationMiddleware, ASKED),
    "rate limit": (requests, ASKED),
    "rate limit, tokens": (tokens, ASKED),
    "cache, hit": (CacheMiddleware, ASKED),
    "cache, miss": (forgetful, ASKED),
    "single flight": (SingleFlightMiddleware, ASKED),
    "retry": (RetryMiddleware, ASKED),
    "timeout": (partial(TimeoutMiddleware, run=60), ASKED),
    "tracing, no SDK": (TracingMiddleware, ASKED),
    "tracing, SDK": (traced, ASKED),
    "metrics, no SDK": (MetricsMiddleware, ASKED),
    "metrics, SDK": (metered, ASKED),
}


@asynccontextmanager
async def one_layer(make: Callable[[], Layer], context: AgentContext) -> AsyncGenerator[Sides]:
    bare = await per_run(executor(), ASKED)
    passing = await per_run(executor(*passing_layers(PASSING)), ASKED)
    layered = await per_run(executor(make()), context)
    yield Sides(limit=added(bare, passing, PASSING), ours=added(bare, layered, 1))


@asynccontextmanager
async def whole_onion(cache: Callable[[], CacheMiddleware]) -> AsyncGenerator[Sides]:
    """The onion of the documentation, from the outside inwards."""
    layers = [
        TracingMiddleware(),
        MetricsMiddleware(),
        silent(),
        keys(),
        ValidationMiddleware(),
        requests(),
        cache(),
        RetryMiddleware(),
        TimeoutMiddleware(run=60),
    ]
    passing = await per_run(executor(*passing_layers(len(layers))), ASKED)
    yield Sides(limit=passing, ours=await per_run(executor(*layers), WITH_KEY))


def passing_layers(count: int) -> list[Layer]:
    return [Passing().named(f"passing {number}") for number in range(count)]


def case(name: str) -> Case:
    make, context = LAYERS[name]
    return Case(f"L, {name}", "µs", partial(one_layer, make, context))


CASES = (
    *(case(name) for name in LAYERS),
    Case("L, whole onion", "µs", partial(whole_onion, forgetful)),
    Case("L, whole onion, cached", "µs", partial(whole_onion, CacheMiddleware)),
)
