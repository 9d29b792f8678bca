"""Scenarios 69 and 72: what a task may be, and that the model's answer is not judged by it."""

import pytest

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, AgentResult, ErrorType, StreamEvent, TextDelta
from agent_runtime.testing import ScriptedLLMClient
from agent_runtime_middleware.validation import ValidationMiddleware


async def ask(task: str, answer: str = "Gladly.") -> tuple[AgentResult, str]:
    """The result, and the text that was streamed."""
    client = ScriptedLLMClient([answer])
    executor = AgentExecutor(config=AgentConfig(name="host"), llm_client=client, middleware=[ValidationMiddleware()])
    text: list[str] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            text.append(event.text)

    result = await executor.execute(AgentContext(user_id="ann", current_task=task), emit=emit)
    return result, "".join(text)


@pytest.mark.parametrize("task", ["", "   \n"])
async def test_s69_an_empty_task_is_refused(task: str) -> None:
    result, text = await ask(task)
    assert (result.error_type, result.error, text) == (ErrorType.VALIDATION, "current_task is empty", "")


async def test_s69_a_task_that_is_too_long_is_refused_with_maximum_and_length() -> None:
    result, _ = await ask("a" * 10_001)
    assert result.error_details == {"field": "current_task", "limit": 10_000, "actual": 10_001}
    assert result.error is not None and "10001 characters; the maximum is 10000" in result.error
    assert (await ask("a" * 10_000))[0].success


@pytest.mark.parametrize(
    "task",
    [
        "It's Ann's order, isn't it?",
        "请把洋葱切碎",
        "for (i = 0; i < n; i++) { x['a'] += `${i}`; }",
        "Write to ann@example.com.",
    ],
)
async def test_s69_ordinary_words_of_any_language_are_accepted(task: str) -> None:
    result, text = await ask(task)
    assert result.success and text == "Gladly."


@pytest.mark.parametrize("answer", ["a" * 3_001, "a" * 50_000, "<script>alert('onions')</script>"])
async def test_s72_a_long_answer_or_one_with_a_script_tag_is_delivered(answer: str) -> None:
    result, text = await ask("Say something.", answer)
    assert (result.output, text) == (answer, answer)
