"""Any model that litellm knows. Needs the `litellm` extra, which is loaded when the first client is made."""

from agent_runtime_adapters.litellm.client import LiteLLMClient

__all__ = ("LiteLLMClient",)
