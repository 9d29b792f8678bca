"""Three ways to receive a run while it goes on; the layers are the same coroutines in all of them."""

import asyncio

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    RunCompleted,
    StreamEvent,
    TextDelta,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply


class Loud(BaseMiddleware):
    """Changes each piece of text on its way out, and the whole answer after the last piece."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def emit(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                event = TextDelta(text=event.text.upper(), step=event.step)
            await context.emit(event)

        result = await call_next(context.replace(emit=emit))
        return result.replace(output=result.output.upper())


def new_executor() -> AgentExecutor:
    client = ScriptedLLMClient([ScriptedReply(chunks=("Onions ", "have ", "layers."))])
    return AgentExecutor(config=AgentConfig(name="cook"), llm_client=client, middleware=[Loud()])


async def main() -> None:
    context = AgentContext(user_id="ann", current_task="What is an onion?")

    print("1. stream(): every event, and a prompt clean-up when the block is left")
    async with new_executor() as executor, executor.stream(context) as stream:
        async for event in stream:
            print("  ", type(event).__name__, event.text if isinstance(event, TextDelta) else "")
    print("  ", stream.result.output)

    print("2. execute_stream(): the text only")
    async with new_executor() as executor:
        pieces = [text async for text in executor.execute_stream(context)]
    print("  ", pieces)

    print("3. execute(emit=): the run pushes into your own function, no task and no queue between")
    last: list[StreamEvent] = []

    async def send(event: StreamEvent) -> None:
        last[:] = [event]

    async with new_executor() as executor:
        result = await executor.execute(context, emit=send)
    [completed] = last
    assert isinstance(completed, RunCompleted)
    print("  ", completed.result.output == result.output)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 1. stream(): every event, and a prompt clean-up when the block is left
#    RunStarted
#    ModelStarted
#    TextDelta ONIONS
#    TextDelta HAVE
#    TextDelta LAYERS.
#    ModelFinished
#    RunCompleted
#    ONIONS HAVE LAYERS.
# 2. execute_stream(): the text only
#    ['ONIONS ', 'HAVE ', 'LAYERS.']
# 3. execute(emit=): the run pushes into your own function, no task and no queue between
#    True
