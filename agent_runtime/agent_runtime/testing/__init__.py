"""What tests of agents, layers and backends need; third parties use the same."""

from agent_runtime.testing.scripted import ScriptedLLMClient, ScriptedReply

__all__ = ("ScriptedLLMClient", "ScriptedReply")
