"""A layer asks a person before a tool does anything. The run waits in the file, for as long as it takes."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    LayerKind,
    ModelRequest,
    Resume,
    SessionManager,
    ToolCall,
    ToolFailed,
    ToolResult,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.sqlite import SQLiteSessionStore


class AskFirst(BaseMiddleware):
    """Has a person approve each call of a tool with an effect."""

    kind = LayerKind.GUARD

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        if getattr(call.function, "kind", "effect") != "effect":
            return await call_next(call)
        # The key is that of this call with these arguments: a yes to it is a yes to nothing else.
        answer = await call.context.ask(
            f"May the agent call {call.name}?", key=f"approve:{call.idempotency_key}", details=call.arguments
        )
        if answer is not True:
            raise ToolFailed("a person has refused this call")  # the model is told so
        return await call_next(call)


@tool(kind="effect")
async def delete_account(name: str) -> str:
    """Delete an account for ever."""
    print(f"   (deleting {name})")
    return f"{name} is deleted"


def model(request: ModelRequest) -> ScriptedReply:
    last = request.messages[-1]
    if last.role == "user":
        return ScriptedReply(tool_calls=(("delete_account", {"name": last.content.split()[-1]}),))
    return ScriptedReply(text=f"The tool said: {last.content}")


def start_process(file: Path) -> AgentExecutor:
    return AgentExecutor(
        config=AgentConfig(name="admin"),
        llm_client=ScriptedLLMClient([model], repeat=True),
        tools=[delete_account],
        middleware=[AskFirst()],
        session_manager=SessionManager(SQLiteSessionStore(file), ttl=7 * 86_400),  # people answer within a week
    )


async def asked(file: Path, session_id: str, task: str) -> AgentResult:
    """The request: it ends at once, with a question."""
    async with start_process(file) as executor:
        result = await executor.execute(AgentContext(user_id="ann", session_id=session_id, current_task=task))
        [question] = result.questions
        print("  ", result.error_type, "-", question.text, question.details)
        return result


async def answered(file: Path, session_id: str, result: AgentResult, answer: Any) -> None:
    """The answer: another request, perhaps days later, in another process."""
    async with start_process(file) as executor:
        context = AgentContext(user_id="ann", session_id=session_id, current_task="")
        resume = Resume(run_id=result.run_id, answers={result.questions[0].key: answer})
        print("  ", (await executor.execute(context, resume=resume)).output)


async def main(file: Path) -> None:
    print("yes")
    result = await asked(file, "s1", "Delete the account carl")
    await answered(file, "s1", result, True)
    print("no")
    result = await asked(file, "s2", "Delete the account dora")
    await answered(file, "s2", result, False)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "agent.db"))

# Output:
# yes
#    suspended - May the agent call delete_account? {'name': 'carl'}
#    (deleting carl)
#    The tool said: carl is deleted
# no
#    suspended - May the agent call delete_account? {'name': 'dora'}
#    The tool said: {"error":"a person has refused this call","error_type":"tool"}
