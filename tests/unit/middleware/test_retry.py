"""RetryMiddleware is `retry_model` with options; what it waits for and when it gives up is tested there."""

import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    ConfigurationError,
    MiddlewarePipeline,
    ModelRequest,
    ProviderUnavailable,
    StreamEvent,
    TextDelta,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.retry import RetryMiddleware

DOWN = ProviderUnavailable("the provider is down")


def context() -> AgentContext:
    return AgentContext(agent_id="a", user_id="u", current_task="hi")


class Caller:
    """An agent of one model call."""

    stages = ("model",)

    def __init__(self, client: ScriptedLLMClient) -> None:
        self.client = client

    async def run(self, context: AgentContext) -> str:
        return (await context.call_model(ModelRequest(messages=()), self.client)).text


def executor(client: ScriptedLLMClient, layer: RetryMiddleware) -> AgentExecutor:
    return AgentExecutor(Caller(client), agent_id="a", middleware=[layer])


async def test_a_call_is_made_until_it_succeeds_and_attempts_are_numbered() -> None:
    client = ScriptedLLMClient([DOWN, DOWN, "there"])
    result = await executor(client, RetryMiddleware(delay=0)).execute(context())
    assert (result.output, result.attempts) == ("there", 3)
    assert [request.attempt for request in client.requests] == [1, 2, 3]


async def test_the_last_error_is_raised_as_it_came() -> None:
    client = ScriptedLLMClient([DOWN], repeat=True)
    result = await executor(client, RetryMiddleware(attempts=2, delay=0)).execute(context())
    assert result.exception is DOWN and client.calls == 2


async def test_delivered_text_is_never_said_twice() -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("half ", DOWN)), "never asked for"])
    said: list[str] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            said.append(event.text)

    result = await executor(client, RetryMiddleware(delay=0)).execute(context(), emit=emit)
    assert result.exception is DOWN and said == ["half "] and client.calls == 1


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"delay": -1.0}, {"delay": float("inf")}, {"max_delay": -1.0}, {"max_delay": float("nan")}],
)
def test_an_option_out_of_range_fails_when_the_layer_is_built(options: dict[str, float]) -> None:
    [name] = options
    with pytest.raises(ConfigurationError, match=name):
        RetryMiddleware(**options)  # type: ignore[arg-type]  # attempts is an int here


def test_it_works_at_the_model_stage_only() -> None:
    pipeline = MiddlewarePipeline([RetryMiddleware()])
    assert pipeline.explain().count("RetryMiddleware (retry)") == 1
    assert [finding.code for finding in pipeline.lint(stages=())] == ["AR010"]


def test_two_of_them_are_an_error() -> None:
    class Other(RetryMiddleware):
        pass

    assert "AR007" in [finding.code for finding in MiddlewarePipeline([RetryMiddleware(), Other()]).lint()]
