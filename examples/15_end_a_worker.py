"""A worker is told to end (SIGTERM): it takes nothing new, and leaves the run that it cannot end to the next worker."""

import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import TaskStatus

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ModelRequest, Resume, SessionManager, tool
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteSessionStore

CONTEXT = AgentContext(user_id="ann", session_id="report", current_task="Read chapter 1 and sum it up.")


@tool(kind="pure")
async def read(chapter: int) -> str:
    """Read a chapter."""
    print(f"   (reading chapter {chapter})", flush=True)
    return "a long text"


def start_process(file: Path, *, seconds: float) -> AgentExecutor:
    """What each worker does at its start. The model takes so many `seconds` to sum up."""

    def model(request: ModelRequest) -> ScriptedReply:
        if request.messages[-1].role == "user":
            return ScriptedReply(tool_calls=(("read", {"chapter": 1}),))
        print("   (summing up)", flush=True)
        return ScriptedReply(text="It is long.", delay=seconds)

    return AgentExecutor(
        config=AgentConfig(name="reporter"),
        llm_client=ScriptedLLMClient([model], repeat=True),
        tools=[read],
        session_manager=SessionManager(SQLiteSessionStore(file)),
        shutdown_grace=0.1,  # seconds for what is under way; a service gives it more
    )


async def close_on_sigterm(executor: AgentExecutor, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            await executor.aclose()


async def worker(file: Path) -> None:
    async with start_process(file, seconds=600) as executor, anyio.create_task_group() as group:
        await group.start(close_on_sigterm, executor)
        result = await executor.execute(CONTEXT)
        print(f"   {result.error_type}: {result.error}".replace(result.run_id, "..."))
        group.cancel_scope.cancel()


async def next_worker(file: Path) -> None:
    async with start_process(file, seconds=0) as executor:
        print("  ", (await executor.execute(CONTEXT, resume=Resume())).output)


def main(file: Path) -> None:
    print("a worker is told to end", flush=True)
    with subprocess.Popen([sys.executable, __file__, file], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="")
            if "summing up" in line:
                child.terminate()
    print("the next one goes on, at once")
    anyio.run(next_worker, file)


if __name__ == "__main__":
    if sys.argv[1:]:
        anyio.run(worker, Path(sys.argv[1]))
    else:
        with TemporaryDirectory() as folder:
            main(Path(folder) / "agent.db")

# Output:
# a worker is told to end
#    (reading chapter 1)
#    (summing up)
#    cancelled: run '...' was cancelled
# the next one goes on, at once
#    (summing up)
#    It is long.
