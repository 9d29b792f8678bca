"""Each shipped layer keeps the promises of `MiddlewareContract`."""

import os
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from tests.stores.waited import waited

from agent_runtime import AgentContext, Layer, MemoryKeyValueStore, Secret
from agent_runtime.testing import MiddlewareContract
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.single_flight import SingleFlightMiddleware
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware
from agent_runtime_middleware.validation import ValidationMiddleware

SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"


class LayerPromises(MiddlewareContract):
    """The contract, with fewer runs for most promises."""

    runs = 1_000 if SOAK else 60


class TestAuthMiddleware(LayerPromises):
    def make(self) -> Layer:
        return AuthMiddleware(ApiKeys({}))

    def other_contexts(self) -> Sequence[AgentContext]:
        return [
            AgentContext(current_task="Without a credential."),
            AgentContext(current_task="With a wrong one.", credential=Secret("wrong")),
        ]


class TestAuthMiddlewareOfAPresentedKey(LayerPromises):
    key, record = ApiKeys.generate("ann")

    def make(self) -> Layer:
        return AuthMiddleware(ApiKeys({self.record.prefix: self.record}))

    def context(self) -> AgentContext:
        return AgentContext(user_id="ann", current_task="What is in the pond?", credential=self.key)


class TestLoggingMiddleware(LayerPromises):
    def make(self) -> Layer:
        return LoggingMiddleware()


class TestRetryMiddleware(LayerPromises):
    may_call_again = True

    def make(self) -> Layer:
        return RetryMiddleware(delay=0)


class TestTimeoutMiddleware(LayerPromises):
    def make(self) -> Layer:
        return TimeoutMiddleware(run=60, model=60, tool=60, first_token=60, idle=60)


class TestRateLimitMiddleware(LayerPromises):
    def make(self) -> Layer:
        return RateLimitMiddleware([Quota(requests=100_000, per=60), Quota(tokens=100_000_000, per=60)])


class TestRateLimitMiddlewareAtTheRunStage(LayerPromises):
    def make(self) -> Layer:
        return RateLimitMiddleware([Quota(tokens=100_000_000, per=60)], stage="run")


class TestCacheMiddleware(LayerPromises):
    def make(self) -> Layer:
        return CacheMiddleware(MemoryKeyValueStore(max_entries=self.runs // 5))


class TestCacheMiddlewareOverAStoreThatIsWaitedFor(LayerPromises):
    def make(self) -> Layer:
        return CacheMiddleware(waited(MemoryKeyValueStore(max_entries=self.runs // 5)), stale=300)


class TestCacheMiddlewareAtTheRunStage(LayerPromises):
    def make(self) -> Layer:
        return CacheMiddleware(MemoryKeyValueStore(max_entries=self.runs // 5), stage="run")


class TestSingleFlightMiddleware(LayerPromises):
    def make(self) -> Layer:
        return SingleFlightMiddleware()


class TestSingleFlightMiddlewareAtTheRunStage(LayerPromises):
    def make(self) -> Layer:
        return SingleFlightMiddleware(stage="run")


class TestTracingMiddleware(LayerPromises):
    def make(self) -> Layer:
        return TracingMiddleware(TracerProvider(shutdown_on_exit=False), content=True)


class TestTracingMiddlewareWithoutAnSdk(LayerPromises):
    def make(self) -> Layer:
        return TracingMiddleware()


class TestMetricsMiddleware(LayerPromises):
    def make(self) -> Layer:
        return MetricsMiddleware(MeterProvider(shutdown_on_exit=False))


class TestMetricsMiddlewareThatIsRead(LayerPromises):
    def make(self) -> Layer:
        return MetricsMiddleware(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


class TestMetricsMiddlewareWithoutAnSdk(LayerPromises):
    def make(self) -> Layer:
        return MetricsMiddleware()


class TestValidationMiddleware(LayerPromises):
    def make(self) -> Layer:
        return ValidationMiddleware(
            max_characters=10_000, max_bytes=100_000, max_messages=100, max_depth=8, metadata=dict
        )

    def other_contexts(self) -> Sequence[AgentContext]:
        return [AgentContext(user_id="ann", current_task="long " * 3_000)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("promises", LayerPromises.__subclasses__())
async def test_a_thousand_runs_at_once_do_not_mix(
    promises: type[LayerPromises], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "runs", 1_000 if SOAK or promises is TestCacheMiddleware else 250)
    await promises().test_many_runs_at_once_in_two_pipelines_do_not_mix()
