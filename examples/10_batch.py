"""Many contexts through one executor: in their order, or as they end; each fails alone."""

import asyncio

from agent_runtime import AgentContext, AgentExecutor, InvalidInput


async def agent(context: AgentContext) -> str:
    number = int(context.current_task)
    if number == 3:
        raise InvalidInput("three is not allowed")
    if number == 4:
        raise KeyError("a bug")
    await asyncio.sleep(number / 100)
    return f"{number}² is {number**2}"


async def main() -> None:
    executor = AgentExecutor(agent)
    contexts = [AgentContext(user_id="ann", current_task=str(number)) for number in (5, 1, 3, 4)]

    print("in their order")
    for result in await executor.execute_batch(contexts, max_concurrency=4):
        print("  ", result.output or f"{result.error_type}: {result.error}")

    print("as they end; leaving the block cancels the rest")
    async with executor.batch(contexts[:2], max_concurrency=2) as done:
        async for index, result in done:
            print("  ", index, result.output)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# in their order
#    5² is 25
#    1² is 1
#    validation: three is not allowed
#    internal: internal error (KeyError)
# as they end; leaving the block cancels the rest
#    1 1² is 1
#    0 5² is 25
