"""How a run or call ended, in the words that spans and metrics share."""

from typing import Literal, NamedTuple

import anyio

from agent_runtime import (
    AgentContext,
    AgentResult,
    ErrorType,
    Suspended,
    ToolResult,
    error_type_of,
    repair_text,
    safe_text,
)

Outcome = Literal["success", "failure", "cancelled", "suspended"]

_MAX_LABEL = 255


class Ending(NamedTuple):
    """`text` is safe to show: our own words, and of anything else only its type."""

    outcome: Outcome
    error_type: ErrorType | None = None
    text: str | None = None


SUCCESS = Ending("success")
_TOOL_ERROR = Ending("failure", ErrorType.TOOL)
_SUSPENDED = Ending("suspended")


def raised(error: BaseException, context: AgentContext) -> Ending:
    """The ending of a call that raised."""
    if isinstance(error, Suspended):
        return _SUSPENDED
    if isinstance(error, Exception):
        return Ending("failure", error_type_of(error), safe_text(error))
    if context.run.edge.gone is not None:
        return Ending("cancelled", ErrorType.CONSUMER_GONE)
    # A coroutine that is closed outside of any event loop gets a GeneratorExit; there is no clock there.
    late = not isinstance(error, GeneratorExit) and anyio.current_time() >= context.deadline
    return Ending("cancelled", ErrorType.TIMEOUT if late else ErrorType.CANCELLED)


def of_run(result: AgentResult) -> Ending:
    """The ending of a run that a layer or the agent answered."""
    if result.success:
        return SUCCESS
    return Ending("failure", result.error_type or ErrorType.AGENT, result.error and repair_text(result.error))


def of_tool(result: ToolResult) -> Ending:
    """The ending of a tool call that gave a result; what the tool says is content."""
    return _TOOL_ERROR if result.is_error else SUCCESS


def served_by(context: AgentContext, result: AgentResult) -> str:
    """Who answered; a layer, where the agent was never started and no cache says that it did."""
    return "layer" if result.served_by == "agent" and context.run.executions == 0 else result.served_by


def label(text: str) -> str:
    """`text` as it may stand in a label or a name: not longer than others can take, and valid Unicode."""
    if len(text) > _MAX_LABEL:
        text = text[:_MAX_LABEL]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
