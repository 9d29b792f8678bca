"""Scenario 79: JSON that a model wrote badly becomes data, or a typed error."""

import json

import pytest
from pydantic import BaseModel

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, AgentResult, ErrorType, OutputInvalid
from agent_runtime.testing import ScriptedLLMClient


class Order(BaseModel):
    item: str
    amount: int
    notes: list[str] = []


CONFIG = AgentConfig(name="clerk", output_type=Order)
ONIONS = Order(item="onions", amount=3)


async def ask(client: ScriptedLLMClient) -> AgentResult:
    executor = AgentExecutor(config=CONFIG, llm_client=client)
    return await executor.execute(AgentContext(user_id="ann", current_task="Three onions, please."))


@pytest.mark.parametrize(
    ("written", "order"),
    [
        ('```json\n{"item": "onions", "amount": 3}\n```', ONIONS),
        ('{"item": "onions", "amount": 3,}', ONIONS),
        ('Your order: {"item": "onions", "amount": 3}. Anything else?', ONIONS),
        ('{"item": "onions", "amount": 3, "notes": ["red", "lar', Order(item="onions", amount=3, notes=["red"])),
    ],
    ids=["fenced", "trailing comma", "prose", "truncated"],
)
async def test_s79_badly_written_json_is_repaired_without_asking_again(written: str, order: Order) -> None:
    client = ScriptedLLMClient([written])
    result = await ask(client)
    assert result.data == order and Order.model_validate(json.loads(result.output)) == order
    assert client.calls == 1


async def test_s79_a_violation_of_the_schema_is_told_to_the_model_once() -> None:
    client = ScriptedLLMClient(['{"item": "onions", "amount": "a few"}', '{"item": "onions", "amount": 3}'])
    result = await ask(client)
    assert result.data == ONIONS and client.calls == 2
    assert "amount: Input should be a valid integer" in client.requests[1].messages[-1].content


async def test_s79_what_is_still_wrong_is_a_typed_error_with_the_raw_text() -> None:
    client = ScriptedLLMClient(["three onions", '{"item": "my secret onions"}'])
    result = await ask(client)
    assert isinstance(result.exception, OutputInvalid) and client.calls == 2
    assert result.exception.text == '{"item": "my secret onions"}'
    assert (result.error_type, result.error_details) == (ErrorType.OUTPUT, {"problems": ["amount"], "attempts": 2})
    assert result.error is not None and "secret" not in result.error
