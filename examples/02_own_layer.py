"""Layers of your own: the order in which they run, an answer without the agent, and what `explain` and `lint` say."""

import asyncio
from time import perf_counter

from agent_runtime import AgentContext, AgentExecutor, AgentResult, BaseMiddleware, CallNext, LayerKind
from agent_runtime_middleware.logging import LoggingMiddleware


class Stopwatch(BaseMiddleware):
    """What stands before `call_next` runs on the way in, what stands after it on the way out."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        print("in:  stopwatch")
        started = perf_counter()
        result = await call_next(context)
        print("out: stopwatch")
        return result.replace(metadata={**result.metadata, "seconds": perf_counter() - started})


class OpeningHours(BaseMiddleware):
    """Answers itself, without the agent, while the shop is closed: it returns and does not call the next layer."""

    kind = LayerKind.GUARD  # what `lint` knows it by

    def __init__(self, *, closed: bool) -> None:
        self.closed = closed

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if self.closed:
            return AgentResult(output="We are closed.")
        return await call_next(context)


async def in_lower_case(context: AgentContext, call_next: CallNext) -> AgentResult:
    """A function is a layer too. It passes on a changed copy of the context."""
    print("in:  in_lower_case")
    return await call_next(context.replace(current_task=context.current_task.lower()))


async def agent(context: AgentContext) -> str:
    print("     agent")
    return f"You asked: {context.current_task}"


async def main() -> None:
    context = AgentContext(user_id="ann", current_task="WHY ONIONS")

    open_shop = AgentExecutor(agent, middleware=[Stopwatch(), OpeningHours(closed=False), in_lower_case])
    result = await open_shop.execute(context)
    print(result.output, "-", "seconds" in result.metadata)

    closed_shop = AgentExecutor(agent, middleware=[OpeningHours(closed=True), LoggingMiddleware()])
    result = await closed_shop.execute(context)
    print(result.output, "- served by the", result.served_by)

    print(open_shop.explain())
    for finding in closed_shop.lint():
        print(finding)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# in:  stopwatch
# in:  in_lower_case
#      agent
# out: stopwatch
# You asked: why onions - True
# We are closed. - served by the layer
# agent agent
# run stage
#   Stopwatch (other) from __main__.Stopwatch
#     OpeningHours (guard) from __main__.OpeningHours
#       in_lower_case (other) from __main__.in_lower_case
#         = the agent
# AR008 warning (run stage, OpeningHours, LoggingMiddleware): What the outer layer refuses is not observed. Fix: Put logging, tracing and metrics outside the layers that may refuse.
