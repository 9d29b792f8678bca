"""The built-in agent: a model that calls typed tools until it can answer."""

import asyncio

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ToolCall, ToolFailed, tool
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

STOCK = {"apple": 12, "pear": 0}


@tool(kind="pure")
async def stock(item: str) -> int:
    """How many of an item are in the warehouse.

    Args:
        item: The item's name, in the singular.
    """
    if item not in STOCK:
        raise ToolFailed(f"there is no item {item!r}; known are {', '.join(STOCK)}")  # the model reads this
    return STOCK[item]


@tool(timeout=5)
def order(item: str, amount: int, call: ToolCall) -> dict[str, str | int]:
    """Order an item. A sync function runs in a worker thread; the model knows nothing of `call`."""
    return {"item": item, "ordered": amount, "for": call.context.user_id}


def client() -> ScriptedLLMClient:
    """A client that says what the script says. For a real model, in its place:

    from agent_runtime_adapters.openai import OpenAIClient
    OpenAIClient("gpt-5-mini")                                        # OPENAI_API_KEY in the environment
    OpenAIClient("qwen3", base_url="http://127.0.0.1:11434/v1")       # any compatible server
    """
    return ScriptedLLMClient(
        [
            ScriptedReply(tool_calls=(("stock", {"item": "pear"}), ("stock", {"item": "kiwi"}))),
            ScriptedReply(tool_calls=(("order", {"item": "pear", "amount": 20}),)),
            "I ordered 20 pears. We do not sell kiwis.",
        ]
    )


async def main() -> None:
    config = AgentConfig(name="clerk", system_prompt="You keep a fruit shop in stock.", temperature=0.0)
    async with AgentExecutor(config=config, llm_client=client(), tools=[stock, order]) as executor:
        result = await executor.execute(AgentContext(user_id="ann", current_task="Fill up the pears and kiwis."))
    print(result.output)
    print(result.usage.requests, "model calls")
    for message in result.messages:
        if message.role == "tool":
            print(f"{message.name}: {message.content}")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# I ordered 20 pears. We do not sell kiwis.
# 3 model calls
# stock: 0
# stock: {"error":"there is no item 'kiwi'; known are apple, pear","error_type":"tool"}
# order: {"item":"pear","ordered":20,"for":"ann"}
