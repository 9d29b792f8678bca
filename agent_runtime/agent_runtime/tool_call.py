"""The core of the tool stage: a tool is started at most once for what it does, and what it gave is remembered."""

import time
from typing import Any, cast

import anyio
import msgspec

from agent_runtime.context import ToolCall
from agent_runtime.errors import (
    AgentRuntimeError,
    CallTimeout,
    ConfigurationError,
    LimitExceeded,
    OutcomeUnknown,
    Suspended,
    ToolFailed,
    error_type_of,
    safe_text,
)
from agent_runtime.events import EventType
from agent_runtime.journal import Journal
from agent_runtime.journal_items import ToolEnded
from agent_runtime.known_calls import NOT_DONE, KnownCall
from agent_runtime.types import ToolResult


async def invoke(call: ToolCall) -> ToolResult:
    """Run the call's function under the executor's limits on count and time.

    Of an `effect` tool, a call that has ended is not made again, here or in a run that is resumed: its result is given,
    or its failure raised, once more. One that may have been started, and did not end, is in doubt: the tool's reconcile
    hook says what became of it, or an answer to the run's question; without either the run is suspended.
    """
    run = call.context.run
    if run.closed or run.scope.cancel_called:
        raise run.refusal()
    journal = run.journal
    known = None if journal is None else journal.calls.get(call.idempotency_key)
    if journal is None or known is None:
        return await _start(call)
    effect = getattr(call.function, "kind", "effect") == "effect"
    if known.ended is not None and (effect or not known.fresh):
        return known.replay()
    if known.running:
        raise OutcomeUnknown(f"tool {call.name!r} is at work on this very call; an effect is not started twice")
    known.running = effect
    try:
        return await _make(call, journal, known, effect=effect)
    finally:
        known.running = False


async def _make(call: ToolCall, journal: Journal, known: KnownCall, *, effect: bool) -> ToolResult:
    if known.in_doubt:
        settled = await _settle(call, journal)
        if settled is not None:
            return settled
    if effect:
        return await _start_effect(call, journal, known)
    result = await _start(call)
    if journal.durable:
        await _keep(journal, call, result)
    return result


async def _start_effect(call: ToolCall, journal: Journal, known: KnownCall) -> ToolResult:
    _count(call)
    if journal.durable:
        await journal.tool_intended(call.idempotency_key)
        if call.run.closed or call.run.scope.cancel_called:
            raise call.run.refusal()
    known.in_doubt = True
    inside = msgspec.structs.replace(call, context=msgspec.structs.replace(call.context, may_ask=False))
    try:
        result = await _run(inside)
    except (CallTimeout, OutcomeUnknown) as error:
        settled = await _settle(call, journal, error)
        if settled is not None:
            return settled
        await _keep_failure(journal, call, error)
        raise
    except Suspended as error:
        raise ConfigurationError(
            f"tool {call.name!r} is an effect and asked in the middle of it; ask in a tool layer, or before the effect"
        ) from error
    except Exception as error:
        await _keep_failure(journal, call, error)
        raise
    else:
        await _keep(journal, call, result)
        return result


async def _keep(journal: Journal, call: ToolCall, result: ToolResult) -> None:
    """Record what the tool gave."""
    ended = journal.end(call.idempotency_key, result)
    if journal.durable:
        await _store(journal, call, ended)


async def _keep_failure(journal: Journal, call: ToolCall, error: Exception) -> None:
    ended = journal.end(call.idempotency_key, None, safe_text(error), error_type_of(error))
    journal.calls[call.idempotency_key].failure = error
    if journal.durable:
        await _store(journal, call, ended)


async def _store(journal: Journal, call: ToolCall, ended: ToolEnded) -> None:
    """It has happened: a cancellation waits for the store, for as long as one operation may take."""
    with anyio.CancelScope(deadline=anyio.current_time() + call.run.limits.store, shield=True):
        return await journal.note(ended, behind=True)
    raise _not_kept(journal, call)


def _not_kept(journal: Journal, call: ToolCall) -> OutcomeUnknown:
    """What the tool gave could not be stored in time: that ends the run."""
    journal.failure = OutcomeUnknown(
        f"what tool {call.name!r} gave could not be stored within {call.run.limits.store:g} s (Limits.store)"
    )
    return journal.failure


async def _settle(call: ToolCall, journal: Journal, error: AgentRuntimeError | None = None) -> ToolResult | None:
    """What became of a call in doubt: its result, or `None` when it has not happened. Raises `Suspended`, `ToolFailed`.

    `error` is how it ended here and now: then there can be no answer yet, and where nobody can be asked, it stands.
    """
    knows, result = (False, None) if error is not None else await _decided(call, journal)
    reconcile = getattr(call.function, "reconcile", None)
    if not knows and reconcile is not None and not _is_at_work(call):
        knows, result = await _reconciled(call, journal, reconcile)
    if knows:
        return result
    if journal.durable:
        raise journal.ask(journal.doubt(call.idempotency_key)) from error
    if error is not None:
        return None
    raise OutcomeUnknown(
        f"tool {call.name!r} was started in this run already, and nobody knows whether it ended; it is not started again"
    )


async def _decided(call: ToolCall, journal: Journal) -> tuple[bool, ToolResult | None]:
    """Whether a person has said what became of the call, and its result if it has happened.

    Who says that it has not, while a thread of it is at work here, is asked again.
    """
    decision = journal.decision(call.idempotency_key)
    if decision == NOT_DONE:
        if not _is_at_work(call):
            return True, None
        await journal.doubt_again(call.idempotency_key)
    answer = cast("dict[str, Any]", decision) if isinstance(decision, dict) else {}
    if isinstance(text := answer.get("result"), str):
        result = ToolResult(content=text)
        await _keep(journal, call, result)
        return True, result
    if isinstance(text := answer.get("error"), str):
        failure = ToolFailed(text)
        await _keep_failure(journal, call, failure)
        raise failure
    return False, None


def _is_at_work(call: ToolCall) -> bool:
    """Whether the thread of a call that was given up goes on: whatever a hook says now may be wrong in a moment."""
    is_at_work = getattr(call.function, "is_at_work", None)
    return is_at_work is not None and is_at_work(call.idempotency_key)


async def _reconciled(call: ToolCall, journal: Journal, reconcile: Any) -> tuple[bool, ToolResult | None]:
    """Whether the tool's hook knows what became of the call, and its result if it has happened."""
    try:
        with anyio.CancelScope(deadline=anyio.current_time() + call.run.limits.tool):
            outcome = await reconcile(call)
            if outcome is None:
                return True, None
            result = ToolResult(content=outcome) if isinstance(outcome, str) else outcome
            if not isinstance(result, ToolResult):
                raise TypeError(
                    f"reconcile of tool {call.name!r} returned {type(result).__name__}, not text or ToolResult"
                )
            await _keep(journal, call, result)
            return True, result
    except AgentRuntimeError as error:
        if error is journal.failure:
            raise
    return False, None


async def _start(call: ToolCall) -> ToolResult:
    _count(call)
    return await _run(call)


def _count(call: ToolCall) -> None:
    run = call.context.run
    run.tool_calls += 1
    if getattr(call.function, "kind", "effect") != "pure":
        run.effects = True
    if run.tool_calls > run.limits.tool_calls:
        limit = run.limits.tool_calls
        raise LimitExceeded(
            f"run {run.run_id!r} made more than {limit} tool calls (Limits.tool_calls)", details={"limit": limit}
        )


async def _run(call: ToolCall) -> ToolResult:
    """Start the function, and tell the bus."""
    context = call.context
    run = context.run
    if run.bus is not None:
        await context.publish(EventType.TOOL_STARTED, metadata={"tool": call.name})
    started = time.perf_counter()
    try:
        result = await _within_time(call)
    except Exception as error:
        run.failure = error
        await _tool_ended(call, started, error)
        raise
    if run.bus is not None:
        await _tool_ended(call, started, None)
    return result


async def _within_time(call: ToolCall) -> ToolResult:
    seconds: float = getattr(call.function, "timeout", None) or call.context.run.limits.tool
    with anyio.CancelScope(deadline=anyio.current_time() + seconds):
        result = await call.function(call)
        if not isinstance(result, ToolResult):  # pyright: ignore[reportUnnecessaryIsInstance]  # functions are users' code
            raise TypeError(f"tool {call.name!r} returned {type(result).__name__}, not ToolResult")
        return result
    raise CallTimeout(f"tool {call.name!r} took longer than {seconds:g} s", details={"limit": seconds})


async def _tool_ended(call: ToolCall, started: float, error: Exception | None) -> None:
    await call.context.publish(
        EventType.TOOL_COMPLETED,
        execution_time_ms=(time.perf_counter() - started) * 1000.0,
        error_type=None if error is None else error_type_of(error),
        error_message=None if error is None else safe_text(error),
        metadata={"tool": call.name},
    )
