"""A tool keeps the signature of its function."""

from collections.abc import Coroutine
from typing import Any, assert_type

from agent_runtime import AgentConfig, LLMAgent, Tool, ToolCall, ToolKind, tool
from agent_runtime.testing import ScriptedLLMClient

KIND: ToolKind = "pure"


@tool
def plain(text: str, limit: int = 3) -> list[str]:
    return [text] * limit


@tool(kind=KIND, timeout=1.5, max_output_bytes=100, name="other", description="told")
async def optioned(text: str, call: ToolCall) -> str:
    return text + call.id


def function(number: int) -> int:
    return number


assert_type(plain.function("a", limit=1), list[str])
assert_type(Tool(function, kind="idempotent").function(1), int)


async def direct(call: ToolCall) -> None:
    made: Coroutine[Any, Any, str] = optioned.function("a", call)
    assert_type(await made, str)
    assert_type((await optioned(call)).content, str)


LLMAgent(AgentConfig(name="a"), ScriptedLLMClient(["x"]), [plain, optioned, function])
