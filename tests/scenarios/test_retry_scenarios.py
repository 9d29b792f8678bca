"""Scenarios 73 and 75: what is tried again, and what is not."""

import time
from collections.abc import Generator

import pytest
from tests.servers.chat import ChatServer, refuse, say, serve_chat

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    CallTimeout,
    ErrorType,
    EventBus,
    EventType,
    SystemEvent,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.openai import OpenAIClient
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

ASKED = AgentContext(agent_id="support", user_id="ann", current_task="hi")


async def test_s73_a_call_that_takes_too_long_once_is_made_again_and_succeeds() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="late", delay=60), "in time"])
    layers = [RetryMiddleware(delay=0), TimeoutMiddleware(model=0.5)]
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client, middleware=layers)
    result = await executor.execute(ASKED)
    assert (result.success, result.output, result.attempts, client.calls) == (True, "in time", 2, 2)


async def test_s73_outside_of_the_retry_the_limit_is_for_all_attempts_together() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="late", delay=60), "in time"])
    layers = [TimeoutMiddleware(model=0.05), RetryMiddleware(delay=0)]
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client, middleware=layers)
    result = await executor.execute(ASKED)
    assert isinstance(result.exception, CallTimeout) and client.calls == 1


@pytest.fixture
def provider() -> Generator[ChatServer]:
    with serve_chat() as server:
        yield server


def around(client: OpenAIClient, bus: EventBus | None = None) -> AgentExecutor:
    config = AgentConfig(name="support")
    return AgentExecutor(config=config, llm_client=client, middleware=[RetryMiddleware(delay=0)], event_bus=bus)


@pytest.mark.parametrize("status", [400, 401])
async def test_s75_a_request_that_the_provider_refuses_is_not_made_again(provider: ChatServer, status: int) -> None:
    provider.script.append(refuse(status))
    async with OpenAIClient("m1", base_url=provider.url, api_key="k") as client:
        result = await around(client).execute(ASKED)
    assert (result.error_type, result.retryable) == (ErrorType.REJECTED, False)
    assert len(provider.requests) == 1 and "BACKEND WORDS" not in str(result.error)


async def test_s75_a_rate_limit_is_waited_for_as_long_as_the_provider_says(provider: ChatServer) -> None:
    provider.script.extend([refuse(429, headers={"retry-after": "1"}), say("there")])
    retries: list[SystemEvent] = []
    async with EventBus() as bus, OpenAIClient("m1", base_url=provider.url, api_key="k") as client:
        await bus.subscribe(EventType.RETRY, retries.append)
        started = time.monotonic()
        result = await around(client, bus).execute(ASKED)
        waited = time.monotonic() - started
        await bus.drain()
    assert (result.output, result.attempts, len(provider.requests)) == ("there", 2, 2)
    assert waited >= 1
    assert [(event.error_type, event.metadata["delay"]) for event in retries] == [(ErrorType.RATE_LIMIT, 1.0)]


async def test_s75_a_wait_that_passes_the_deadline_is_not_begun(provider: ChatServer) -> None:
    provider.script.append(refuse(429, headers={"retry-after": "3600"}))
    async with OpenAIClient("m1", base_url=provider.url, api_key="k") as client:
        started = time.monotonic()
        result = await around(client).execute(ASKED)
    assert (result.error_type, result.retry_after, len(provider.requests)) == (ErrorType.RATE_LIMIT, 3600, 1)
    assert time.monotonic() - started < 5
