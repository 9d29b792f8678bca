"""A wrong kind, a wrong option, a wrong argument of the function behind a tool."""

from agent_runtime import AgentConfig, LLMAgent, Tool, tool


@tool
def plain(text: str) -> str:
    return text


plain.function(1)  # E: arg-type
Tool(plain.function, kind="safe")  # E: arg-type
tool(timout=1.0)  # E: call-overload
LLMAgent(AgentConfig(name="a"), object())  # E: arg-type
LLMAgent(AgentConfig(name="a"), None)  # E: arg-type
