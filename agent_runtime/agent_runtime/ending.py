"""How a run ends: which error, which result, which last words."""

import anyio
import msgspec

from agent_runtime.context import AgentContext
from agent_runtime.errors import (
    AgentFailed,
    AgentRuntimeError,
    ConsumerGone,
    ErrorType,
    RunCancelled,
    RunTimeout,
    Suspended,
    error_type_of,
    safe_text,
)
from agent_runtime.events import EventType
from agent_runtime.run import Run
from agent_runtime.stream import RunCompleted, RunFailed, RunSuspended, StreamEvent
from agent_runtime.types import AgentResult, RunStatus, ServedBy

LAST_WORDS = 2.0  # seconds in which the end of a run can be told, whatever cancels it


def cut_short(context: AgentContext, cause: BaseException | None = None) -> AgentRuntimeError:
    """Why the run's own scope was cancelled."""
    run = context.run
    error: AgentRuntimeError
    if run.edge.gone is not None:
        error = run.edge.gone
    elif run.cancel_requested:
        error = RunCancelled(f"run {run.run_id!r} was cancelled")
    else:
        limit = max(0.0, round(run.elapsed_ms() / 1000.0 + context.deadline - anyio.current_time(), 3))
        error = RunTimeout(
            f"run {run.run_id!r} took longer than {limit:g} s: the shortest of Limits.run, AgentConfig.timeout "
            "(in the place of the former) and the context's deadline",
            details={"limit": limit, "which": "run"},
        )
    if cause is not error and error.__cause__ is None:
        error.__cause__ = cause
    return error


def failure_of(error: AgentRuntimeError) -> AgentResult:
    if isinstance(error, AgentFailed) and isinstance(error.result, AgentResult):
        result = error.result
        return result.replace(error=str(error), error_type=result.error_type or ErrorType.AGENT, exception=error)
    return AgentResult(
        success=False,
        error=str(error),
        error_type=error.error_type,
        error_details=error.details,
        retryable=error.retryable,
        retry_after=error.retry_after,
        questions=error.questions if isinstance(error, Suspended) else (),
        exception=error,
    )


def completed(run: Run, result: AgentResult) -> AgentResult:
    """`result` with what only the runtime knows."""
    served_by: ServedBy = result.served_by
    if run.executions == 0 and served_by == "agent":
        served_by = "layer"
    completed: AgentResult = msgspec.structs.replace(
        result,
        usage=run.usage,
        execution_time_ms=run.elapsed_ms(),
        attempts=1 + run.retries,
        served_by=served_by,
        run_id=run.run_id,
        resumed_from=run.resumed_from,
        trace_id=run.trace_id,
    )
    return completed


def status_of(error: Exception | None) -> RunStatus:
    if error is None:
        return RunStatus.COMPLETED
    if isinstance(error, RunTimeout):
        return RunStatus.TIMEOUT
    if isinstance(error, Suspended):
        return RunStatus.SUSPENDED
    return RunStatus.CANCELLED if isinstance(error, RunCancelled | ConsumerGone) else RunStatus.FAILED


async def tell_end(context: AgentContext, status: RunStatus, error: Exception | None, result: AgentResult) -> None:
    """Close the run and tell bus and stream, once; nothing can cut this short but its own time limit."""
    run = context.run
    if not run.admitted:  # refused at entry: what it calls itself was not checked
        context = context.replace(agent_id="", user_id="", session_id=None)
    run.status = status
    if run.bus is None and not run.edge.listening:
        return
    with anyio.CancelScope(deadline=anyio.current_time() + LAST_WORDS, shield=True):
        await context.publish(
            _TOLD.get(status, EventType.ERROR_OCCURRED),
            execution_time_ms=run.elapsed_ms(),
            error_type=None if error is None else error_type_of(error),
            error_message=None if error is None else safe_text(error),
            metadata={"served_by": result.served_by, "attempts": 1 + run.retries},
        )
        if run.edge.gone is None:
            await _last_event(context, error, result)
    run.edge.close()


_TOLD = {
    RunStatus.COMPLETED: EventType.AGENT_COMPLETED,
    RunStatus.CANCELLED: EventType.RUN_CANCELLED,
    RunStatus.SUSPENDED: EventType.RUN_SUSPENDED,
}


async def _last_event(context: AgentContext, error: Exception | None, result: AgentResult) -> None:
    last: StreamEvent
    if error is None:
        last = RunCompleted(result=result.to_record())
    elif isinstance(error, Suspended):
        last = RunSuspended(run_id=context.run.run_id, questions=error.questions)
    else:
        last = RunFailed(
            run_id=context.run.run_id,
            error_type=error_type_of(error),
            error=safe_text(error),
            error_details=dict(result.error_details),
            retryable=result.retryable,
            retry_after=result.retry_after,
        )
    try:
        await context.emit(last)
    except ConsumerGone:
        pass  # the run has ended already, and there is nobody left to tell
