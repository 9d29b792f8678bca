"""A process is killed in the middle of a tool. Another one goes on with its run, and repeats nothing that was finished."""

import asyncio
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, Limits, Message, Resume, SessionManager, tool
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteSessionStore

CONTEXT = AgentContext(user_id="ann", session_id="trip", current_task="Book flight 7 and pay for it.")


def start_process(folder: Path, *, hangs: bool = False) -> AgentExecutor:
    """What each process does at its start. `hangs` is the fault: paying takes for ever."""
    world = folder / "world.txt"  # stands for the world outside: what tools did is done

    def done(what: str) -> None:
        with world.open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    @tool(kind="effect")
    async def book(flight: int) -> str:
        """Book a seat."""
        done(f"booked flight {flight}")
        return "seat 12A"

    @tool(kind="effect")
    async def pay(euros: int) -> str:
        """Pay."""
        if hangs:
            print("paying", flush=True)
            await asyncio.sleep(600)
        done(f"paid {euros} euros")
        return "paid"

    answers = {
        "user": ScriptedReply(tool_calls=(("book", {"flight": 7}),)),
        "seat 12A": ScriptedReply(tool_calls=(("pay", {"euros": 90}),)),
        "paid": ScriptedReply(text="You fly in seat 12A."),
    }

    def model(last: Message) -> ScriptedReply:
        return answers["user" if last.role == "user" else last.content]

    return AgentExecutor(
        config=AgentConfig(name="travel"),
        llm_client=ScriptedLLMClient([lambda request: model(request.messages[-1])], repeat=True),
        tools=[book, pay],
        session_manager=SessionManager(SQLiteSessionStore(folder / "agent.db"), ttl=7 * 86_400),
        limits=Limits(lease=1, lease_renewal=0.3),  # a dead process keeps its session for a second
        on_busy="wait",
    )


def kill_a_process_in_the_middle_of_paying(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, __file__, folder], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        print("   the child says:", child.stdout.readline().strip())
        child.kill()  # SIGKILL: nothing in it can react


async def go_on(folder: Path) -> None:
    async with start_process(folder) as executor:
        result = await executor.execute(CONTEXT, resume=Resume())
        [question] = result.questions
        print("  ", result.error_type, "-", question.text)
        print("  ", question.details)

        print("ann looks at her bank account: nothing was paid")
        result = await executor.execute(CONTEXT, resume=Resume(answers={question.key: "not_done"}))
        print("  ", result.output, result.usage.requests, "model call")
        print("the world:", (folder / "world.txt").read_text("utf-8").splitlines())


def main() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        print("a process is killed")
        kill_a_process_in_the_middle_of_paying(folder)
        print("another one goes on")
        asyncio.run(go_on(folder))


if __name__ == "__main__":
    if sys.argv[1:]:
        start_process(Path(sys.argv[1]), hangs=True).run_sync(CONTEXT)
    else:
        main()

# Output:
# a process is killed
#    the child says: paying
# another one goes on
#    suspended - Tool 'pay' was started, and nobody knows whether it ended. What became of it?
#    {'tool': 'pay', 'arguments': {'euros': 90}}
# ann looks at her bank account: nothing was paid
#    You fly in seat 12A. 1 model call
# the world: ['booked flight 7', 'paid 90 euros']
