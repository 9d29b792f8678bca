"""A module that a user might write: copied next to the conversation of a test, and run by the program.

The task names the tools to call, in order: `reserve; charge`. Each writes what it does, and in which process, into `tools.log`.
"""

import logging
import os
import time
from pathlib import Path

import anyio
import msgspec

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    FunctionCall,
    Limits,
    MemorySessionStore,
    Message,
    ModelRequest,
    ModelResponse,
    SessionManager,
    TextDelta,
    Tool,
    ToolCall,
    tool,
)
from agent_runtime_middleware.auth import ApiKeyRecord, ApiKeys, AuthMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware


class Clerk:
    """In a model's place: calls the tools that the task names, one after the other, and says what they gave."""

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        asked = max(place for place, message in enumerate(request.messages) if message.role == "user")
        task = request.messages[asked].content
        given = [message.content for message in request.messages[asked:] if message.role == "tool"]
        wanted = [name for name in task.split("; ") if name in TOOLS]
        if len(given) < len(wanted):
            call = FunctionCall(id=f"call_{len(given)}", name=wanted[len(given)], arguments='{"note": "fragile"}')
            return ModelResponse(message=Message(role="assistant", tool_calls=(call,)))
        if task.endswith("endless"):
            for number in range(100_000):
                await request.emit(TextDelta(text=f"word{number} ", step=request.step))
                await anyio.sleep(0.005)
        if task == "bug":
            raise KeyError("price")
        earlier = sum(message.role == "user" for message in request.messages[:asked])
        return ModelResponse.of(f"Given: {', '.join(given)}." if given else f"{task!r} after {earlier} others.")


def log(what: str) -> None:
    with Path("tools.log").open("a", encoding="utf-8") as file:
        file.write(f"{what} {os.getpid()}\n")


async def reserve(note: str) -> str:
    """Reserve."""
    log("reserve")
    return "reserved"


async def charge(note: str) -> str:
    """Charge; where there is a file `hang`, it takes long."""
    log("charge")
    await anyio.sleep(25 if await anyio.Path("hang").exists() else 0)
    return "charged"


async def approve(call: ToolCall, note: str) -> str:
    """Ask for a word out of two."""
    details = {"choices": ["yes", "no"], "parcel": {"grams": 300, "from": "\x1b[31mred\x1b[0m"}}
    answer = await call.context.ask("Send the \x1b[31mparcel\x1b[0m?", key="approve", details=details)
    return f"approved: {answer}"


async def name(call: ToolCall, note: str) -> str:
    """Ask for anything."""
    return f"name: {await call.context.ask('Who are you?', key='name')!r}"


def stall(note: str) -> str:
    """Take long, in a thread that nobody can stop."""
    log("stall")
    time.sleep(20)
    return "done"


TOOLS: dict[str, Tool] = {
    made.name: made
    for made in (
        tool(kind="effect")(reserve),
        tool(kind="effect")(charge),
        tool(kind="pure")(approve),
        tool(kind="pure")(name),
        tool(kind="pure")(stall),
    )
}
LIMITS = Limits(lease=1.0, lease_renewal=0.25)
CONFIG = AgentConfig(name="clerk")

clerk = AgentExecutor(config=CONFIG, llm_client=Clerk(), tools=list(TOOLS.values()), limits=LIMITS)
fewer = AgentExecutor(config=CONFIG, llm_client=Clerk(), tools=[TOOLS["approve"]], limits=LIMITS)
forgetful = AgentExecutor(
    config=CONFIG, llm_client=Clerk(), tools=list(TOOLS.values()), session_manager=SessionManager(MemorySessionStore())
)


logged = AgentExecutor(
    config=CONFIG, llm_client=Clerk(), tools=list(TOOLS.values()), limits=LIMITS, middleware=[LoggingMiddleware()]
)


def loud() -> AgentExecutor:
    """Somebody wants to see what is logged."""
    logging.basicConfig()
    return logged


def guarded() -> AgentExecutor:
    """Ann has the key whose record is in the environment."""
    record = msgspec.json.decode(os.environ["SHOP_RECORD"], type=ApiKeyRecord)
    layers = [AuthMiddleware(ApiKeys({record.prefix: record}))]
    return AgentExecutor(
        config=CONFIG, llm_client=Clerk(), tools=list(TOOLS.values()), limits=LIMITS, middleware=layers
    )


async def plain(context: AgentContext) -> str:
    """No tools and no steps: cannot be resumed."""
    return f"Hello {context.user_id}."


simple = AgentExecutor(plain)
