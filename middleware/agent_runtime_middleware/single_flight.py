"""Ask once for all who ask the same at the same time."""

from typing import Literal, get_args

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    EventType,
    LayerKind,
    ModelRequest,
    ModelResponse,
    Share,
    SingleFlight,
    Stage,
    model_answer_key,
    run_answer_key,
    shared_response,
    shared_result,
)


class SingleFlightMiddleware(BaseMiddleware):
    """Of callers that ask the same at the same time in this process, one asks, and all get its answer. Nothing is kept.

    Args:
        stage: "model": one model call; "run": a whole run, only where it has no session.
        share: Whose questions are the same question: one user's, a tenant's, or everyone's.
        version: Whatever shapes the answer and is not in the key; see `run_answer_key`.

    Each waits under its own deadlines, and cancelling one disturbs nobody. When the one that asks is lost, one of the others
    asks anew; when it fails, they fail alike; when its answer is not for others (it wants tools; for a run, see
    `shared_result`), each asks itself. What others get is `cached`, costs nothing, and arrives in one piece. For one
    event loop at a time.

    Cost: the key, and nothing else for who asks alone. Those who wait do so until the whole answer is there, however slowly
    the consumer of the first takes it.
    Order: inside auth, guards and redaction, like a cache.
    """

    kind = LayerKind.CACHE

    def __init__(self, *, stage: Literal["model", "run"] = "model", share: Share = "user", version: str = "") -> None:
        if stage not in ("model", "run"):
            raise ConfigurationError(f'SingleFlightMiddleware(stage={stage!r}): "model" or "run"')
        if share not in get_args(Share):
            raise ConfigurationError(f"SingleFlightMiddleware(share={share!r}): one of {', '.join(get_args(Share))}")
        self.stage = Stage(stage)
        self.share: Share = share
        self.version = version
        self._responses = SingleFlight[ModelResponse]()
        self._results = SingleFlight[AgentResult]()
        # The other stage gets the base's method back, so that no pipeline compiles this layer in there.
        other = "process_model" if stage == "run" else "process"
        setattr(self, other, getattr(super(), other))

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        key = model_answer_key(request, share=self.share, version=self.version)
        if key is None:
            return await call_next(request)
        response, asked = await self._responses.share(
            key,
            lambda: call_next(request),
            owner=request.context.owner,
            shared=lambda response: shared_response(request, response),
        )
        if not asked:
            await self._tell(request.context)
        return response

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        key = run_answer_key(context, share=self.share, version=self.version)
        if key is None:
            return await call_next(context)
        result, asked = await self._results.share(
            key,
            lambda: call_next(context),
            owner=context.owner,
            shared=lambda result: shared_result(context, result),
        )
        if not asked:
            await self._tell(context)
        return result

    async def _tell(self, context: AgentContext) -> None:
        metadata = {"middleware": self.name, "stage": self.stage, "age": 0.0, "stale": False}
        await context.publish(EventType.CACHE_HIT, metadata=metadata)
