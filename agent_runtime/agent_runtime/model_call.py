"""The core of the model stage, the clock over a streamed call, and the one retry of model calls."""

import random
import time
from collections.abc import Awaitable

import anyio

from agent_runtime.context import CallModel, ModelRequest
from agent_runtime.errors import (
    AgentRuntimeError,
    CallTimeout,
    ConsumerGone,
)
from agent_runtime.events import EventType
from agent_runtime.stream import Emit, ReasoningDelta, Reset, StreamEvent, TextDelta
from agent_runtime.types import ModelResponse, Usage

ONE_REQUEST = Usage(requests=1)


async def complete(request: ModelRequest) -> ModelResponse:
    """Ask the request's client, under the executor's limits, and account for it.

    A call that fails or is cancelled counts as one request and as one output token for each piece it had streamed: most
    providers send one token a piece, and none says what a broken call cost.
    """
    context = request.context
    run = context.run
    if run.closed or run.scope.cancel_called:
        raise run.refusal()
    run.model_calls += 1
    if request.attempt > 1:
        run.retries += 1
    if run.bus is not None:
        metadata = {"step": request.step, "attempt": request.attempt}
        await context.publish(EventType.LLM_INVOCATION_START, metadata=metadata)
    started = time.perf_counter()
    pieces = 0
    emit = request.emit

    def counting(event: StreamEvent) -> Awaitable[None]:
        nonlocal pieces
        pieces += 1
        return emit(event)

    try:
        response = await (_streamed(request, counting) if request.stream else request.client.complete(request))
        usage = _usage(request, response)
    except BaseException as error:
        run.spend(Usage(requests=1, output_tokens=pieces))
        if isinstance(error, Exception):
            run.failure = error
        raise
    run.spend(usage)
    if run.bus is not None:
        await context.publish(
            EventType.LLM_INVOCATION_COMPLETE,
            execution_time_ms=(time.perf_counter() - started) * 1000.0,
            metadata={"step": request.step, "attempt": request.attempt, "model": response.model},
        )
    return response


async def _streamed(request: ModelRequest, emit: Emit) -> ModelResponse:
    limits = request.run.limits
    return await watch_stream(
        request.replace(emit=emit), request.client.complete, first_token=limits.first_token, idle=limits.idle
    )


def _usage(request: ModelRequest, response: ModelResponse) -> Usage:
    if not isinstance(response, ModelResponse):  # pyright: ignore[reportUnnecessaryIsInstance]  # clients are users' code
        raise TypeError(
            f"{type(request.client).__name__}.complete returned {type(response).__name__}, not ModelResponse"
        )
    return response.usage if response.usage.requests else ONE_REQUEST + response.usage


class _StreamWatch:
    """The deadline of a streamed call: `first_token` seconds to the first piece, then `idle` between two pieces.

    The deadline moves only when a tenth of `idle` has passed since it last moved: a piece costs one look at a clock, and
    silence ends the call between `idle` and 1.1 `idle` after the last piece.
    """

    def __init__(self, scope: anyio.CancelScope, idle: float) -> None:
        self.scope = scope
        self.idle = idle
        self.spoke = False
        self._due = 0.0

    def heard(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self.spoke = True
            self._due = now + self.idle * 0.1
            self.scope.deadline = anyio.current_time() + self.idle * 1.1

    def pause(self) -> None:
        self.scope.deadline = float("inf")

    def resume(self) -> None:
        self._due = 0.0
        self.heard()


async def watch_stream(
    request: ModelRequest, call_next: CallModel, *, first_token: float = float("inf"), idle: float = float("inf")
) -> ModelResponse:
    """Call with a deadline on the first piece and on the silence between two pieces, both in seconds.

    Raises `CallTimeout` when the client is silent, and `ConsumerGone` when it is the caller's own sink that takes no
    more. The time in which a full stream buffer waits for its consumer does not count.
    """
    emit = request.emit
    edge = request.run.edge
    scope = anyio.CancelScope(deadline=anyio.current_time() + first_token)
    watch = _StreamWatch(scope, idle)

    def emit_and_note(event: StreamEvent) -> Awaitable[None]:
        watch.heard()
        return emit(event)

    with scope:
        with edge.watched_by(watch):
            return await call_next(request.replace(emit=emit_and_note))
    if edge.stalled:
        raise edge.lose(ConsumerGone(f"the stream's receiver took no event for {idle:g} s; the run was ended"))
    what, limit = ("idle", idle) if watch.spoke else ("first_token", first_token)
    raise CallTimeout(
        f"the model was silent for more than {limit:g} s ({what})", details={"limit": limit, "which": what}
    )


async def retry_model(
    request: ModelRequest, call_next: CallModel, *, attempts: int, delay: float = 1.0, max_delay: float = 60.0
) -> ModelResponse:
    """Call up to `attempts` times while the error is retryable; the last error is raised as it came.

    Between two tries it waits a random time up to `delay * 2**n` seconds, at most `max_delay` (exponential backoff with
    full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), and never less than the error's
    `retry_after`. It gives up at once when the wait would pass the run's deadline, and when text of this step has been
    delivered already; text that was emitted but not delivered is withdrawn with `Reset`.
    """
    emit = request.emit
    spoke = False

    def emit_and_note(event: StreamEvent) -> Awaitable[None]:
        nonlocal spoke
        spoke = spoke or isinstance(event, (TextDelta, ReasoningDelta))
        return emit(event)

    tried = request.replace(emit=emit_and_note) if request.stream else request
    attempt = 1
    while True:
        try:
            return await call_next(tried if attempt == tried.attempt else tried.replace(attempt=attempt))
        except AgentRuntimeError as error:
            wait = random.uniform(0, min(max_delay, delay * 2.0 ** min(attempt - 1, 60)))
            wait = max(wait, error.retry_after or 0.0)
            if attempt >= attempts or not _may_retry(request, error, wait):
                raise
            await request.context.publish(
                EventType.RETRY,
                error_type=error.error_type,
                error_message=str(error),
                metadata={"step": request.step, "attempt": attempt, "delay": wait},
            )
        await anyio.sleep(wait)
        if spoke:
            await emit(Reset(step=request.step))
            spoke = False
        attempt += 1


def _may_retry(request: ModelRequest, error: AgentRuntimeError, wait: float) -> bool:
    in_time = anyio.current_time() + wait < request.context.deadline
    return error.retryable and in_time and not request.run.closed and request.can_restart()
