"""Any model behind an OpenAI-compatible chat-completions endpoint. Needs the `openai` extra."""

try:
    from agent_runtime_adapters.openai.client import OpenAIClient
except ImportError as error:
    raise ImportError("OpenAIClient needs the openai library: pip install 'onion-agent-runtime[openai]'") from error

__all__ = ("OpenAIClient",)
