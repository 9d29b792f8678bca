"""A process that adds to a conversation: `python adds_items.py URL NAME`. It says when it begins."""

import asyncio
import sys

from agent_runtime import Owner, SessionManager, open_stores
from agent_runtime_adapters.openai_agents import OpenAIAgentsSession

OWNER = Owner(tenant_id=None, user_id="ann")
ITEMS = 30


async def add_items(url: str, name: str) -> None:
    async with open_stores(url) as stores:
        session = OpenAIAgentsSession("s1", SessionManager(stores.sessions), owner=OWNER)
        for n in range(ITEMS):
            await session.add_items([{"role": "user", "content": f"{name} {n}"}])


if __name__ == "__main__":
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    asyncio.run(add_items(*sys.argv[1:]))
