"""Calls through the litellm client, and what every failure of one must look like."""

import time
from typing import Any

import pytest

from agent_runtime import AgentRuntimeError, Message, ModelRequest, ModelResponse, StreamEvent
from agent_runtime_adapters.litellm import LiteLLMClient

MODEL = "openai/test-model"
KEY = "sk-canary-0123456789"
PROMPT = "PRIVATE PROMPT"
PROMPTLY = 3.0  # seconds

both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def asked(*, stream: bool = True, **changes: Any) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", content=PROMPT),), stream=stream, **changes)


async def ask(client: LiteLLMClient, *, stream: bool = True, **changes: Any) -> tuple[ModelResponse, list[StreamEvent]]:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    return await client.complete(asked(stream=stream, emit=emit, **changes)), events


async def failure(client: LiteLLMClient, *, stream: bool = True) -> AgentRuntimeError:
    """The error of a call, which holds nothing private and comes at once."""
    started = time.monotonic()
    with pytest.raises(AgentRuntimeError) as caught:
        await ask(client, stream=stream)
    assert time.monotonic() - started < PROMPTLY
    shown = f"{caught.value} {caught.value!r} {caught.value.details}"
    assert not any(word in shown for word in (KEY, PROMPT, "BACKEND"))
    return caught.value
