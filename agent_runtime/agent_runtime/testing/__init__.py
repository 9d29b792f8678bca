"""What tests of agents, layers and backends need; third parties use the same. Needs the `testing` extra."""

try:
    from agent_runtime.testing.fuzz import hostile_text, hostile_values, json_values, mutated, nested
    from agent_runtime.testing.leaks import Leak, leak_free, no_leaks
except ImportError as error:
    raise ImportError("agent_runtime.testing needs its extra: pip install 'onion-agent-runtime[testing]'") from error

from agent_runtime.testing.event_logs import EventLogContract
from agent_runtime.testing.event_transports import EventTransportContract
from agent_runtime.testing.injection import Injection, Outcome, Trial, cancellations, inject
from agent_runtime.testing.key_values import KeyValueStoreContract
from agent_runtime.testing.llm import LLMClientContract
from agent_runtime.testing.middleware import MiddlewareContract
from agent_runtime.testing.proxy import Fault, FaultKind, Proxy, open_proxy
from agent_runtime.testing.rate_limits import RateLimitStoreContract
from agent_runtime.testing.scripted import ScriptedLLMClient, ScriptedReply
from agent_runtime.testing.sessions import SessionStoreContract
from agent_runtime.testing.store_contract import ServerFault
from agent_runtime.testing.stores import StoreFaultsContract, StoreNetworkContract, StoreSharingContract

__all__ = (
    "EventLogContract",
    "EventTransportContract",
    "Fault",
    "FaultKind",
    "Injection",
    "KeyValueStoreContract",
    "LLMClientContract",
    "Leak",
    "MiddlewareContract",
    "Outcome",
    "Proxy",
    "RateLimitStoreContract",
    "ScriptedLLMClient",
    "ScriptedReply",
    "ServerFault",
    "SessionStoreContract",
    "StoreFaultsContract",
    "StoreNetworkContract",
    "StoreSharingContract",
    "Trial",
    "cancellations",
    "hostile_text",
    "hostile_values",
    "inject",
    "json_values",
    "leak_free",
    "mutated",
    "nested",
    "no_leaks",
    "open_proxy",
)
