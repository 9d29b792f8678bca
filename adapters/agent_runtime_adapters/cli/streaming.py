"""One streamed run, shown as it happens."""

from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    ConsumerGone,
    Resume,
    StreamEvent,
    TextDelta,
    ToolStarted,
)
from agent_runtime_adapters.cli.exits import FAILED, CommandFailed, Interrupted, described, exit_code
from agent_runtime_adapters.cli.retelling import Retelling
from agent_runtime_adapters.cli.terminal import Answer, Progress

_HEED = 0.25  # seconds after which a signal is heeded, at the latest

T = TypeVar("T")


async def streamed(
    executor: AgentExecutor,
    context: AgentContext,
    answer: Answer,
    progress: Progress | None = None,
    *,
    resume: Resume | None = None,
    retelling: Retelling | None = None,
) -> AgentResult:
    """Run `context`, write the text as it comes, and return the result, also of a run that failed.

    Raises `BrokenPipeError` when nobody reads the output any more; the run has been ended and has cleaned up then.
    """

    told_again = retelling or Retelling()

    async def show(event: StreamEvent) -> None:
        if told_again.hides(event):
            return
        if isinstance(event, TextDelta):
            answer.write(event.text)
        elif isinstance(event, ToolStarted) and progress is not None:
            answer.end()
            progress.say("tool", told_again.tool(event))

    try:
        result = await executor.execute(context, emit=show, resume=resume)
    finally:
        answer.end()
    if isinstance(result.exception, ConsumerGone) and result.exception.__cause__ is not None:
        raise result.exception.__cause__
    return result


def run_to_end(function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    """Run `function` in an event loop. Ctrl-C, or a signal like it, cancels it: `Interrupted` once it has cleaned up.

    The loop has a thread of its own: a signal finds this one waiting, and never the loop at work.
    """
    try:
        with failed_run(), start_blocking_portal() as portal:
            given: Future[T] = portal.start_task_soon(function, *arguments)
            return settled(given)
    except KeyboardInterrupt as interrupt:
        raise Interrupted("interrupted; the run was cancelled", code=exit_code(interrupt)) from None


def settled(future: Future[T]) -> T:
    """What a future holds, once it is there; Ctrl-C is heeded while it waits.

    Python may note a signal just before it begins to wait, and then heeds it only when the wait is over: so waits are short.
    """
    while not future.done():
        wait((future,), timeout=_HEED)
    return future.result()


@contextmanager
def failed_run() -> Generator[None]:
    """Inside, a bug in the agent, a tool or a layer becomes `CommandFailed`."""
    try:
        yield
    except (AgentRuntimeError, CommandFailed, OSError):
        raise
    except Exception as error:
        raise CommandFailed(
            f"the run raised {described(error)}", hint="this is a bug in the agent, a tool or a layer", code=FAILED
        ) from error
