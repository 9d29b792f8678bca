"""A process of a service with sessions, as scenarios start, stop and kill it: `python -m tests.scenarios.worker`."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec

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
    Stores,
    open_stores,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

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


def noting(world: Path) -> Callable[[str], str]:
    """Writes down what happens in the world."""

    def note(what: str) -> str:
        with world.open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")
        return what

    return note


def service(store: SessionStore, client: LLMClient, world: Path) -> AgentExecutor:
    """What each process makes at its start. What its tools have done is in the file `world`."""

    note = noting(world)

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


async def say(stores: Stores, world: Path, text: str) -> None:
    """One turn of a conversation."""
    async with service(stores.sessions, listener(), world) as executor:
        tell((await executor.execute(task(text))).output)


async def begin(stores: Stores, world: Path) -> None:
    """A run that comes as far as the time between its two tools, and no further."""

    def hang() -> ScriptedReply:
        tell("between the tools")
        return ScriptedReply(delay=600)

    async with service(stores.sessions, planner(hang), world) as executor:
        await executor.execute(task("Book and pay."))


async def go_on(stores: Stores, world: Path) -> None:
    """What another process has begun."""
    async with service(stores.sessions, planner(), world) as executor:
        tell((await executor.execute(task(), resume=Resume())).output)


async def hold(stores: Stores, world: Path) -> None:
    """Take the lease, and write under it when told to."""
    sessions = SessionManager(stores.sessions)
    try:
        async with sessions.lease(SESSION, owner=OWNER, ttl=TTL) as lease:
            tell(lease.fence)
            sys.stdin.readline()  # holds up the event loop, as a pause of the whole process does
            await sessions.update_metadata(SESSION, {"by": "the first"}, owner=OWNER, lease=lease)
    except SessionConflict:
        tell("fenced off")


async def ask(stores: Stores, world: Path, callers: str) -> None:
    """So many callers at once of one question, over a cache that other processes share; each call of the model is noted."""

    def model(request: ModelRequest) -> ScriptedReply:
        note("asked")
        return ScriptedReply(text="A frog.", delay=0.2)

    note = noting(world)
    executor = AgentExecutor(
        config=AgentConfig(name="support", retry_attempts=1),
        llm_client=ScriptedLLMClient([model], repeat=True),
        middleware=[CacheMiddleware(stores.key_values, claim=10)],
    )
    tell("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with executor:
        contexts = [AgentContext(user_id="ann", current_task="What is in the pond?")] * int(callers)
        results = await executor.execute_batch(contexts, max_concurrency=int(callers))
    tell(sum(result.output == "A frog." for result in results))


async def knock(stores: Stores, world: Path, callers: str, quota: str) -> None:
    """So many runs at once of one user who has a quota that other processes share."""

    async def agent(context: AgentContext) -> str:
        return "in"

    layer = RateLimitMiddleware([Quota(requests=int(quota), per=3_600)], store=stores.rate_limits)
    tell("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with AgentExecutor(agent, middleware=[layer]) as executor:
        contexts = [AgentContext(user_id="ann", current_task="hi")] * int(callers)
        results = await executor.execute_batch(contexts, max_concurrency=int(callers))
    tell(sum(result.success for result in results))


COMMANDS: Mapping[str, Callable[..., Awaitable[None]]] = {
    "say": say,
    "begin": begin,
    "go_on": go_on,
    "hold": hold,
    "ask": ask,
    "knock": knock,
}


async def main(*arguments: str) -> None:
    command, url, options, world, *rest = arguments
    async with open_stores(url, **msgspec.json.decode(options, type=dict[str, Any])) as stores:
        await COMMANDS[command](stores, Path(world), *rest)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
