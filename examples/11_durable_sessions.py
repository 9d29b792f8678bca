"""Conversations in one file: what one process was told, the next one knows; a session that is busy says so."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ModelRequest, Owner, SessionManager
from agent_runtime.testing import ScriptedLLMClient
from agent_runtime_adapters.sqlite import SQLiteSessionStore

ANN, BOB = Owner(tenant_id=None, user_id="ann"), Owner(tenant_id=None, user_id="bob")


def answer(request: ModelRequest) -> str:
    """Stands for a model: says what it was told before."""
    heard = [message.content for message in request.messages if message.role == "user"]
    return f"You said: {' / '.join(heard)}"


def start_process(file: Path) -> AgentExecutor:
    """What each process of a service does at its start. Any number of them may share the file."""
    sessions = SessionManager(SQLiteSessionStore(file), ttl=30 * 86_400)
    client = ScriptedLLMClient([answer], repeat=True)
    return AgentExecutor(config=AgentConfig(name="friend"), llm_client=client, session_manager=sessions)


async def say(executor: AgentExecutor, text: str) -> None:
    result = await executor.execute(AgentContext(user_id="ann", session_id="s1", current_task=text))
    print("  ", result.output or f"{result.error_type}: {result.error}")


async def main(file: Path) -> None:
    print("one process")
    async with start_process(file) as first:
        await say(first, "I am Ann.")

    print("another one, later")
    async with start_process(file) as second:
        await say(second, "Who am I?")

    print("two at once: the session is one's at a time")
    async with SessionManager(SQLiteSessionStore(file)) as sessions, start_process(file) as other:
        async with sessions.lease("s1", owner=ANN):
            await say(other, "Are you there?")
        await say(other, "And now?")
        data = await sessions.export("s1", owner=ANN)

    print("a session as bytes, for another owner, in another file")
    async with SessionManager(SQLiteSessionStore(file.with_name("other.db"))) as others:
        session = await others.import_session(data, owner=BOB)
        print("  ", session.owner.user_id, session.message_count, "messages")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "agent.db"))

# Output:
# one process
#    You said: I am Ann.
# another one, later
#    You said: I am Ann. / Who am I?
# two at once: the session is one's at a time
#    conflict: session 's1' is held by another run; try again when that has ended
#    You said: I am Ann. / Who am I? / And now?
# a session as bytes, for another owner, in another file
#    bob 6 messages
