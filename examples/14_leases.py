"""Whose turn it is: a lease keeps others out, and one who slept through its end cannot write any more."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from agent_runtime import AgentContext, AgentExecutor, Owner, SessionConflict, SessionManager
from agent_runtime_adapters.sqlite import SQLiteSessionStore

ANN = Owner(tenant_id=None, user_id="ann")


async def agent(context: AgentContext) -> str:
    await asyncio.sleep(0.05)
    return f"{len(context.messages)} messages before this one"


async def worker(file: Path) -> None:
    """Another process, with a store of its own: waits until the session is free, and writes."""
    async with SessionManager(SQLiteSessionStore(file)) as sessions:
        async with sessions.lease("s1", owner=ANN, wait=10) as lease:
            await sessions.update_metadata("s1", {"by": "the other"}, owner=ANN, lease=lease)
            print("   the other one has it, with a larger token:", lease.fence)


async def main(file: Path) -> None:
    async with SessionManager(SQLiteSessionStore(file)) as sessions:
        await sessions.create(session_id="s1", owner=ANN, agent_id="agent")

        print("who wants it meanwhile is refused, or waits")
        async with sessions.lease("s1", owner=ANN):
            try:
                async with sessions.lease("s1", owner=ANN):
                    print("   never")
            except SessionConflict as error:
                print("  ", error)

        print("a holder that stands still for too long")
        try:
            async with sessions.lease("s1", owner=ANN, ttl=0.2) as lease:
                print("   the first one has it, with the token:", lease.fence)
                other = Thread(target=asyncio.run, args=(worker(file),))
                other.start()
                other.join()  # blocks this event loop, as a paused process does: the lease is not renewed
                await sessions.update_metadata("s1", {"by": "the first"}, owner=ANN, lease=lease)
        except SessionConflict as error:
            print("  ", error)
        session = await sessions.get("s1", owner=ANN)
        print("   last written by", session and session.metadata["by"])

        print("runs of one session, one after the other")
        executor = AgentExecutor(agent, session_manager=sessions, on_busy="wait")
        context = AgentContext(user_id="ann", session_id="s1", current_task="How many?")
        results = await executor.execute_batch([context] * 3)
        print("  ", sorted(result.output for result in results))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "agent.db"))

# Output:
# who wants it meanwhile is refused, or waits
#    session 's1' is held by another run; try again when that has ended
# a holder that stands still for too long
#    the first one has it, with the token: 2
#    the other one has it, with a larger token: 3
#    session 's1' was taken over by another run while this one was paused; nothing was written
#    last written by the other
# runs of one session, one after the other
#    ['0 messages before this one', '2 messages before this one', '4 messages before this one']
