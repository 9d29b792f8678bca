"""A module that a user might write: copied next to the files of a batch, and run by the program.

The task is a number, or `form`. Each run writes a line into `begun.log` when it begins and into `ended.log` at its end.
"""

import json
import os
from pathlib import Path

import anyio

from agent_runtime import AgentContext, AgentExecutor, AgentResult, InvalidInput, RateLimited, Usage

TAKES = float(os.environ.get("LABOUR_TAKES", "0"))
FAILURES = {
    "invalid": InvalidInput("it is not allowed"),
    "limited": RateLimited("too many", retry_after=3),
    "bug": KeyError("price"),
}


def log(name: str, what: str) -> None:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(f"{what}\n")


async def work(context: AgentContext) -> AgentResult | str:
    """Take a while; where there is a file of the task's name, fail as it says."""
    log("begun.log", context.current_task)
    try:
        await anyio.sleep(TAKES)
    except anyio.get_cancelled_exc_class():
        log("cancelled.log", context.current_task)
        raise
    how = anyio.Path(f"fail-{context.current_task}")
    if await how.exists():
        failure = await how.read_text("utf-8")
        if failure == "other bug":
            json.loads(failure)
        raise FAILURES[failure]
    log("ended.log", context.current_task)
    if context.current_task == "whose":
        return f"{context.user_id} of {context.tenant_id}, {dict(context.metadata)}"
    return AgentResult(output=f"done {context.current_task}", usage=Usage(input_tokens=10, output_tokens=2, requests=1))


def executor() -> AgentExecutor:
    """A new one for each batch: one that was closed runs nothing more."""
    return AgentExecutor(work)


hasty = AgentExecutor(work, shutdown_grace=0.0)
