"""WordBudgetMiddleware: what it adds, and what every layer promises."""

import pytest
from word_budget import WordBudgetMiddleware

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, AgentResult, ConfigurationError, load_plugin
from agent_runtime.testing import MiddlewareContract, ScriptedLLMClient


class TestWordBudget(MiddlewareContract):
    def make(self) -> WordBudgetMiddleware:
        return WordBudgetMiddleware(words=20)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each async test runs once on each event loop."""
    return str(request.param)


async def ask(client: ScriptedLLMClient, words: int) -> AgentResult:
    layers = [WordBudgetMiddleware(words=words)]
    executor = AgentExecutor(config=AgentConfig(name="host"), llm_client=client, middleware=layers)
    return await executor.execute(AgentContext(user_id="ann", current_task="What is an onion?"))


async def test_the_model_is_asked_to_be_brief() -> None:
    client = ScriptedLLMClient(["A bulb."])
    result = await ask(client, 3)
    assert client.requests[0].messages[0].content == "Answer in at most 3 words."
    assert (result.output, dict(result.metadata)) == ("A bulb.", {})


async def test_an_answer_that_is_too_long_is_kept_and_marked() -> None:
    result = await ask(ScriptedLLMClient(["A bulb with many layers."]), 3)
    assert (result.output, dict(result.metadata)) == ("A bulb with many layers.", {"words_over_budget": 2})


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="words=0"):
        WordBudgetMiddleware(words=0)


def test_it_is_installed_under_its_name() -> None:
    assert load_plugin("word_budget") is WordBudgetMiddleware
