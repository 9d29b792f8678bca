"""What tests of agents, layers and backends need; third parties use the same."""

from agent_runtime.testing.llm import LLMClientContract
from agent_runtime.testing.middleware import MiddlewareContract
from agent_runtime.testing.proxy import Fault, FaultKind, Proxy, open_proxy
from agent_runtime.testing.scripted import ScriptedLLMClient, ScriptedReply
from agent_runtime.testing.sessions import SessionStoreContract

__all__ = (
    "Fault",
    "FaultKind",
    "LLMClientContract",
    "MiddlewareContract",
    "Proxy",
    "ScriptedLLMClient",
    "ScriptedReply",
    "SessionStoreContract",
    "open_proxy",
)
