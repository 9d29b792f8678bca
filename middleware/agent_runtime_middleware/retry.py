"""Try a model call again when it failed in a way that may pass."""

import math

from agent_runtime import (
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    LayerKind,
    ModelRequest,
    ModelResponse,
    retry_model,
)


class RetryMiddleware(BaseMiddleware):
    """Makes a model call up to `attempts` times while its error is retryable; the last error is raised as it came.

    What it waits for and when it gives up is `retry_model`'s promise: a random time up to `delay` seconds, doubled each
    time and at most `max_delay`, never less than the provider's Retry-After, never past the run's deadline, never after
    text of the step has been delivered. It turns the retry of the built-in agent's config off: one owner of retries.

    Cost: one comparison per model call; in a streamed call one more function call per piece.
    Order: what stands inside is done again in each attempt (a timeout limits one attempt), what stands outside sees the
    call once. Tools are never retried.
    """

    kind = LayerKind.RETRY

    def __init__(self, *, attempts: int = 3, delay: float = 1.0, max_delay: float = 60.0) -> None:
        if attempts < 1:
            raise ConfigurationError(f"RetryMiddleware(attempts={attempts!r}): the first attempt counts; at least 1")
        for name, seconds in (("delay", delay), ("max_delay", max_delay)):
            if not 0 <= seconds < math.inf:
                raise ConfigurationError(f"RetryMiddleware({name}={seconds!r}): seconds, from 0 and finite")
        self.attempts = attempts
        self.delay = delay
        self.max_delay = max_delay

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await retry_model(request, call_next, attempts=self.attempts, delay=self.delay, max_delay=self.max_delay)
