"""What the library and its transport raise, as our errors."""

import ssl

import anyio
import httpx2
from openai import APIStatusError, APITimeoutError

from agent_runtime import AgentRuntimeError, ProviderErrors

# What breaks below the protocol; httpx2 lets the last two through, and the library catches them too.
BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)


class Provider(ProviderErrors):
    """Who is asked for which model; says in our words what it did wrong."""

    def __init__(self, host: str, model: str) -> None:
        super().__init__(f"the provider at {host}", model=model, key_setting="api_key, or OPENAI_API_KEY")

    def translated(self, error: Exception) -> AgentRuntimeError:
        """Our error for one of the library or its transport."""
        if isinstance(error, APIStatusError):
            return self.refusal(error.status_code, (error.code, error.type), error.response.headers)
        if isinstance(error, (APITimeoutError, httpx2.TimeoutException)):
            return self.silent()
        return self.unreachable()
