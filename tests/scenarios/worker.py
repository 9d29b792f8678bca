"""A process of a service with sessions, as scenarios start, stop and kill it: `python -m tests.scenarios.worker FILE ...`."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    Limits,
    LLMClient,
    ModelRequest,
    Owner,
    Resume,
    SessionConflict,
    SessionManager,
    SessionStore,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteSessionStore

OWNER = Owner(tenant_id=None, user_id="ann")
SESSION = "trip"
TTL = 1.0  # seconds, of the leases that are taken here


def tell(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def task(text: str = "") -> AgentContext:
    return AgentContext(user_id="ann", session_id=SESSION, current_task=text)


def listener() -> LLMClient:
    """A model that says what the user has told it."""

    def answer(request: ModelRequest) -> str:
        return " / ".join(message.content for message in request.messages if message.role == "user")

    return ScriptedLLMClient([answer], repeat=True)


def planner(cut_short: Callable[[], ScriptedReply | Exception] | None = None) -> LLMClient:
    """A model that wants two tools, one after the other, and is perhaps cut short between them."""

    def answer(request: ModelRequest) -> ScriptedReply | Exception:
        last = request.messages[-1]
        if last.role == "user":
            return ScriptedReply(tool_calls=(("book", {}),))
        if last.content == "booked":
            return ScriptedReply(tool_calls=(("pay", {}),)) if cut_short is None else cut_short()
        return ScriptedReply(text="You fly.")

    return ScriptedLLMClient([answer], repeat=True)


def service(store: SessionStore, client: LLMClient, world: Path) -> AgentExecutor:
    """What each process makes at its start. What its tools have done is in the file `world`."""

    def note(what: str) -> str:
        with world.open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")
        return what

    @tool(kind="effect")
    async def book() -> str:
        """Book a seat."""
        return note("booked")

    @tool(kind="effect")
    async def pay() -> str:
        """Pay for it."""
        return note("paid")

    return AgentExecutor(
        config=AgentConfig(name="travel", retry_attempts=1),
        llm_client=client,
        tools=[book, pay],
        session_manager=SessionManager(store),
        limits=Limits(lease=TTL, lease_renewal=TTL / 3),
        on_busy="wait",
    )


async def say(file: Path, text: str) -> None:
    """One turn of a conversation."""
    async with service(SQLiteSessionStore(file), listener(), file.with_name("world")) as executor:
        tell((await executor.execute(task(text))).output)


async def begin(file: Path) -> None:
    """A run that comes as far as the time between its two tools, and no further."""

    def hang() -> ScriptedReply:
        tell("between the tools")
        return ScriptedReply(delay=600)

    async with service(SQLiteSessionStore(file), planner(hang), file.with_name("world")) as executor:
        await executor.execute(task("Book and pay."))


async def go_on(file: Path) -> None:
    """What another process has begun."""
    async with service(SQLiteSessionStore(file), planner(), file.with_name("world")) as executor:
        tell((await executor.execute(task(), resume=Resume())).output)


async def hold(file: Path) -> None:
    """Take the lease, and write under it when told to."""
    async with SessionManager(SQLiteSessionStore(file)) as sessions:
        try:
            async with sessions.lease(SESSION, owner=OWNER, ttl=TTL) as lease:
                tell(lease.fence)
                sys.stdin.readline()  # holds up the event loop, as a pause of the whole process does
                await sessions.update_metadata(SESSION, {"by": "the first"}, owner=OWNER, lease=lease)
        except SessionConflict:
            tell("fenced off")


COMMANDS: Mapping[str, Callable[..., Awaitable[None]]] = {"say": say, "begin": begin, "go_on": go_on, "hold": hold}


async def main(*arguments: str) -> None:
    command, file, *rest = arguments
    await COMMANDS[command](Path(file), *rest)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
