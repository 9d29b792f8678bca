"""The same question is asked of the model once: for those who ask together, for later, and for the next process."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, Usage
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteKeyValueStore
from agent_runtime_middleware.cache import CacheMiddleware

ANN = AgentContext(user_id="ann", current_task="What is an onion?")
REPLY = ScriptedReply(chunks=("Onions ", "have ", "layers."), usage=Usage(input_tokens=9, output_tokens=4), delay=0.05)


async def process(cache: CacheMiddleware) -> int:
    """What one process does; gives how often it asked the model."""
    client = ScriptedLLMClient([REPLY], repeat=True)
    async with AgentExecutor(config=AgentConfig(name="cook"), llm_client=client, middleware=[cache]) as executor:
        together = await executor.execute_batch([ANN] * 3)
        print("   three at once:", [result.usage.output_tokens for result in together], "tokens")

        later = await executor.execute(ANN)
        print("   later:", later.output, later.usage.output_tokens, "tokens")
        print("   streamed:", [text async for text in executor.execute_stream(ANN)])
        await executor.execute(ANN.replace(user_id="bob"))  # what was said to ann is not for bob
    return len(client.requests)


async def main(file: Path) -> None:
    print("one process")
    async with SQLiteKeyValueStore(file) as store:
        cache = CacheMiddleware(store, ttl=300)
        print("  ", await process(cache), "calls of the model")
        print("  ", cache.stats)

    print("the next one, with the same file")
    async with SQLiteKeyValueStore(file) as store:
        print("  ", await process(CacheMiddleware(store, ttl=300)), "calls of the model")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "answers.db"))

# Output:
# one process
#    three at once: [4, 0, 0] tokens
#    later: Onions have layers. 0 tokens
#    streamed: ['Onions have layers.']
#    2 calls of the model
#    CacheStats(hits=2, stale_hits=0, shared=2, misses=2, store_failures=0, unreadable=0)
# the next one, with the same file
#    three at once: [0, 0, 0] tokens
#    later: Onions have layers. 0 tokens
#    streamed: ['Onions have layers.']
#    0 calls of the model
