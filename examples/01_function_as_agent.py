"""An async function is an agent: give it to an executor, run a context, read the result."""

import asyncio

from agent_runtime import AgentContext, AgentExecutor, AgentResult


async def shout(context: AgentContext) -> str:
    return context.current_task.upper()


async def count(context: AgentContext) -> AgentResult:
    """Where text is not enough, an agent returns a result of its own."""
    words = context.current_task.split()
    return AgentResult(output=f"{len(words)} words", data={"words": words})


async def main() -> None:
    executor = AgentExecutor(shout)
    result = await executor.execute(AgentContext(user_id="ann", current_task="hello, onion"))
    print(result.output)
    print(executor.agent_id, result.success, result.served_by, result.attempts)

    result = await AgentExecutor(count).execute(AgentContext(user_id="ann", current_task="one two three"))
    print(result.output, result.data)


if __name__ == "__main__":
    asyncio.run(main())
    # In a script without a loop of its own, `run_sync` does the same.
    print(AgentExecutor(shout).run_sync(AgentContext(user_id="ann", current_task="bye")).output)

# Output:
# HELLO, ONION
# shout True agent 1
# 3 words {'words': ['one', 'two', 'three']}
# BYE
