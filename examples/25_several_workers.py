"""Two workers, one store: a session that is taken, a worker that is killed, its run resumed, and a quota that both count in.

`STORES_URL=redis://localhost:6379/0 python examples/25_several_workers.py` prints the same, and so does any other store on a server.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    Limits,
    ModelRequest,
    OnBusy,
    Owner,
    Resume,
    SessionManager,
    Stores,
    open_stores,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

ANN = Owner(tenant_id=None, user_id="ann")
TRIP = AgentContext(user_id=ANN.user_id, session_id="trip", current_task="Book a flight.")
A_RUN = f"three-{os.getpid()}" if len(sys.argv) < 3 else sys.argv[2]  # the quota is a new one each time


@tool(kind="effect")
async def book() -> str:
    """Book a flight."""
    print("   (booking)", flush=True)
    return "seat 12A"


def service(stores: Stores, *, thinks: float = 0, on_busy: OnBusy = "reject") -> AgentExecutor:
    """What each worker makes at its start. The model takes so many seconds after the tool."""

    def model(request: ModelRequest) -> ScriptedReply:
        said = request.messages[-1]
        if said.role == "user":
            return ScriptedReply(tool_calls=(("book", {}),))
        print("   (thinking)", flush=True)
        return ScriptedReply(text=f"You have {said.content}.", delay=thinks)

    return AgentExecutor(
        config=AgentConfig(name="agency"),
        llm_client=ScriptedLLMClient([model], repeat=True),
        tools=[book],
        session_manager=SessionManager(stores.sessions),
        middleware=[RateLimitMiddleware([Quota(requests=3, per=3_600, name=A_RUN)], store=stores.rate_limits)],
        on_busy=on_busy,
        limits=Limits(lease=2, lease_renewal=0.3),  # a killed worker's sessions are free after two seconds
    )


async def first_worker(url: str) -> None:
    async with open_stores(url) as stores, service(stores, thinks=600) as executor:
        await executor.execute(TRIP)


async def second_worker(url: str, first: "subprocess.Popen[str]") -> None:
    async with open_stores(url) as stores, service(stores) as executor, service(stores, on_busy="wait") as patient:
        print("the second worker gets a request for the same session")
        print("  ", (await executor.execute(TRIP)).error_type)
        first.kill()  # SIGKILL: it gives nothing back
        print("the first worker is killed, and the second one goes on")
        print("  ", (await patient.execute(TRIP, resume=Resume())).output)
        print("both have counted in one quota")
        print("  ", (await executor.execute(TRIP)).error_type)


async def forget(url: str) -> None:
    async with open_stores(url) as stores:
        await SessionManager(stores.sessions).delete("trip", owner=ANN)  # of an earlier time


def main(url: str) -> None:
    asyncio.run(forget(url))
    print("the first worker has a run of the session", flush=True)
    command = [sys.executable, __file__, url, A_RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            print(line, end="", flush=True)
            if "thinking" in line:
                break
        asyncio.run(second_worker(url, first))


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(first_worker(sys.argv[1]))
    else:
        with TemporaryDirectory() as folder:
            main(os.environ.get("STORES_URL", f"sqlite:///{Path(folder) / 'agent.db'}"))

# Output:
# the first worker has a run of the session
#    (booking)
#    (thinking)
# the second worker gets a request for the same session
#    conflict
# the first worker is killed, and the second one goes on
#    (thinking)
#    You have seat 12A.
# both have counted in one quota
#    rate_limit
