"""A conversation of the OpenAI Agents SDK in our stores: it goes on in the next process, and is one owner's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from agent_runtime import Owner, SessionManager, open_stores
from agent_runtime_adapters.openai_agents import OpenAIAgentsSession

ANN, BOB = Owner(tenant_id="acme", user_id="ann"), Owner(tenant_id="acme", user_id="bob")


class Echo(Model):
    """Stands for a model: says what it was told before."""

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **options: Any) -> ModelResponse:
        heard = [item["content"] for item in input if item.get("role") == "user"]
        text = ResponseOutputText(annotations=[], text=f"You said: {' / '.join(heard)}", type="output_text")
        message = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *rest: Any, **options: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


async def say(sessions: SessionManager, owner: Owner, text: str) -> None:
    """What each process of a service does for a request."""
    session = OpenAIAgentsSession("s1", sessions, owner=owner)
    agent = Agent(name="friend", model=Echo())
    result = await Runner.run(agent, text, session=session, run_config=RunConfig(tracing_disabled=True))
    print("  ", result.final_output)


async def main(url: str) -> None:
    print("one process")
    async with open_stores(url) as stores:
        await say(SessionManager(stores.sessions, ttl=30 * 86_400), ANN, "I am Ann.")

    print("the next one, for two users with the same session id")
    async with open_stores(url) as stores:
        sessions = SessionManager(stores.sessions, ttl=30 * 86_400)
        await say(sessions, ANN, "Who am I?")
        await say(sessions, BOB, "Who am I?")

        print("what is kept of it")
        session = await sessions.get("s1", owner=ANN)
        print("  ", session, session and session.agent_id)
        conversation = OpenAIAgentsSession("s1", sessions, owner=ANN)
        await conversation.pop_item()
        await conversation.pop_item()
        await say(sessions, ANN, "What do you know of me?")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(f"sqlite:///{Path(folder) / 'agent.db'}"))

# Output:
# one process
#    You said: I am Ann.
# the next one, for two users with the same session id
#    You said: I am Ann. / Who am I?
#    You said: Who am I?
# what is kept of it
#    Session('s1', version=1, 4 messages) openai-agents
#    You said: I am Ann. / What do you know of me?
