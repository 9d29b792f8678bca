"""Conversations behind one URL: a service moves from a SQLite file to Redis, MongoDB or PostgreSQL by changing it.

`STORES_URL=redis://localhost:6379/0 python examples/24_change_the_url.py` prints the same, and so does any other store.
"""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ModelRequest, Owner, SessionManager, open_stores
from agent_runtime.testing import ScriptedLLMClient

ANN = Owner(tenant_id=None, user_id="ann")


def answer(request: ModelRequest) -> str:
    """Stands for a model: says what it was told before."""
    heard = [message.content for message in request.messages if message.role == "user"]
    return f"You said: {' / '.join(heard)}"


async def turn(url: str, text: str) -> None:
    """One turn by a process of its own: opens the stores, runs, and closes them."""
    client = ScriptedLLMClient([answer])
    async with open_stores(url) as stores:
        sessions = SessionManager(stores.sessions, ttl=30 * 86_400)
        executor = AgentExecutor(config=AgentConfig(name="friend"), llm_client=client, session_manager=sessions)
        async with executor:
            context = AgentContext(user_id=ANN.user_id, session_id="moving", current_task=text)
            result = await executor.execute(context)
            print(result.output or f"{result.error_type}: {result.error}")


async def main(url: str) -> None:
    async with open_stores(url) as stores:
        await SessionManager(stores.sessions).delete("moving", owner=ANN)  # of an earlier time
    await turn(url, "I am Ann.")
    await turn(url, "Who am I?")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(os.environ.get("STORES_URL", f"sqlite:///{Path(folder) / 'agent.db'}")))

# Output:
# You said: I am Ann.
# You said: I am Ann. / Who am I?
