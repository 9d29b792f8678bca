"""What runs, model calls and tool calls do, told to OpenTelemetry. Needs its API only; without an SDK both layers rest."""

from agent_runtime_middleware.telemetry.metrics import MetricsMiddleware
from agent_runtime_middleware.telemetry.tracing import TracingMiddleware

__all__ = ["MetricsMiddleware", "TracingMiddleware"]
