"""A conversation that is remembered, and nobody else's."""

import asyncio

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    MemorySessionStore,
    ModelRequest,
    Owner,
    SessionManager,
)
from agent_runtime.testing import ScriptedLLMClient

ANN, BOB = Owner(tenant_id=None, user_id="ann"), Owner(tenant_id=None, user_id="bob")


def answer(request: ModelRequest) -> str:
    """Stands for a model: says what it was told before."""
    heard = [message.content for message in request.messages if message.role == "user"]
    return f"You said: {' / '.join(heard)}"


async def main() -> None:
    sessions = SessionManager(MemorySessionStore(), ttl=3600)
    client = ScriptedLLMClient([answer], repeat=True)
    executor = AgentExecutor(config=AgentConfig(name="friend"), llm_client=client, session_manager=sessions)

    async def say(user: str, text: str) -> None:
        context = AgentContext(user_id=user, session_id="s1", current_task=text)
        print(f"{user}: {(await executor.execute(context)).output}")

    async with executor:
        await say("ann", "I am Ann.")
        await say("ann", "Who am I?")
        await say("bob", "Who am I?")  # the same id, another owner: another session

        print(len(await sessions.messages("s1", owner=ANN)), "messages of ann's")
        print(len(await sessions.messages("s1", owner=BOB)), "messages of bob's")

        checkpoint = await sessions.save_checkpoint("s1", {"mood": "curious"}, owner=ANN)
        await say("ann", "And now?")
        fork = await sessions.fork("s1", checkpoint.checkpoint_id, owner=ANN)
        print(fork.message_count, "messages in the fork,", fork.session_id != "s1")

        async def count() -> None:
            await sessions.update_metadata("s1", lambda old: {"seen": old.get("seen", 0) + 1}, owner=ANN)

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(count())
        session = await sessions.get("s1", owner=ANN)
        print(session and session.metadata)

        print(await sessions.delete("s1", owner=ANN), await sessions.get("s1", owner=ANN))


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# ann: You said: I am Ann.
# ann: You said: I am Ann. / Who am I?
# bob: You said: Who am I?
# 4 messages of ann's
# 2 messages of bob's
# ann: You said: I am Ann. / Who am I? / And now?
# 4 messages in the fork, True
# {'seen': 50}
# True None
