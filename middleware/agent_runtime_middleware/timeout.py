"""Give a run, its model calls and its tools a deadline."""

import math

import anyio

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    CallTimeout,
    ConfigurationError,
    LayerKind,
    ModelRequest,
    ModelResponse,
    RunTimeout,
    ToolCall,
    ToolResult,
    watch_stream,
)


class TimeoutMiddleware(BaseMiddleware):
    """Ends what takes longer than its limit, in seconds; at least one limit is set.

    Args:
        run: Everything inside this layer; raises `RunTimeout`. Layers inside see it as `context.deadline`.
        model: One model call; raises `CallTimeout`, as the next three do.
        tool: One tool call.
        first_token: From the start of a model call to its first piece of text.
        idle: Between two pieces of text; fires at most a tenth later. A consumer that is slow is no silence.

    `details` of the error says which limit it was. What is inside is cancelled and has cleaned up when the error leaves;
    events emitted before stay emitted. A cancellation from outside is never turned into a timeout.

    Cost: one timer at each stage that has a limit, nothing at the others. `first_token` and `idle` have the model stream
    in plain runs too. Limits can only shorten those of the executor.
    Order: inside a retry it limits one attempt, outside all of them together; `CallTimeout` is retryable, `RunTimeout` not.
    """

    kind = LayerKind.TIMEOUT

    def __init__(
        self,
        *,
        run: float | None = None,
        model: float | None = None,
        tool: float | None = None,
        first_token: float | None = None,
        idle: float | None = None,
    ) -> None:
        limits = {"run": run, "model": model, "tool": tool, "first_token": first_token, "idle": idle}
        for which, seconds in limits.items():
            if seconds is not None and not 0 < seconds < math.inf:
                raise ConfigurationError(f"TimeoutMiddleware({which}={seconds!r}): seconds, above 0 and finite")
        set_limits = {which for which, seconds in limits.items() if seconds is not None}
        if not set_limits:
            raise ConfigurationError(f"TimeoutMiddleware() limits nothing; set one of {', '.join(limits)}")
        self.run = _or_never(run)
        self.model = _or_never(model)
        self.tool = _or_never(tool)
        self.first_token = _or_never(first_token)
        self.idle = _or_never(idle)
        self.needs_chunks = not set_limits.isdisjoint({"first_token", "idle"})
        # A stage without a limit gets the base's method back, so that no pipeline compiles this layer in there.
        for method, its_limits in _LIMITS_OF.items():
            if set_limits.isdisjoint(its_limits):
                setattr(self, method, getattr(super(), method))

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        deadline = anyio.current_time() + self.run
        with anyio.CancelScope(deadline=deadline):
            return await call_next(context.replace(deadline=min(deadline, context.deadline)))
        raise RunTimeout(
            f"run {context.run_id!r} took longer than {self.run:g} s", details={"limit": self.run, "which": "run"}
        )

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        with anyio.CancelScope(deadline=anyio.current_time() + self.model):
            if not self.needs_chunks:
                return await call_next(request)
            return await watch_stream(request, call_next, first_token=self.first_token, idle=self.idle)
        raise CallTimeout(
            f"model call {request.step} of run {request.run.run_id!r} took longer than {self.model:g} s",
            details={"limit": self.model, "which": "model"},
        )

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.CancelScope(deadline=anyio.current_time() + self.tool):
            return await call_next(call)
        raise CallTimeout(
            f"tool {call.name!r} took longer than {self.tool:g} s", details={"limit": self.tool, "which": "tool"}
        )


_LIMITS_OF = {"process": {"run"}, "process_model": {"model", "first_token", "idle"}, "process_tool": {"tool"}}


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
