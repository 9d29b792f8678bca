"""What is stored and sent of a context and a result, and what is not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    ContextRecord,
    Message,
    Principal,
    ProviderUnavailable,
    ResultRecord,
    Secret,
)
from agent_runtime.testing import json_values

CANARY = "canary-of-a-secret"


@given(st.dictionaries(st.text(max_size=5), json_values(), max_size=3))
def test_a_context_comes_back_from_its_record(metadata: dict[str, object]) -> None:
    context = AgentContext(
        agent_id="a",
        user_id="ann",
        tenant_id="t",
        session_id="s",
        current_task="hello",
        messages=(Message(role="user", content="before"),),
        metadata=metadata,
        parent_run_id="p",
        depth=2,
    )
    encoded = msgspec.json.encode(context.to_record())
    again = AgentContext.from_record(msgspec.json.decode(encoded, type=ContextRecord))
    assert again.to_record() == context.to_record()
    assert again.created_at == context.created_at and again.messages == context.messages


async def test_a_record_inside_a_run_holds_plain_metadata_and_nothing_of_the_run() -> None:
    seen: list[ContextRecord] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context.to_record())
        return "ok"

    context = AgentContext(current_task="t", metadata={"deep": {"list": [1, {"x": None}]}}, credential=Secret(CANARY))
    await AgentExecutor(agent).execute(context, principal=Principal(subject="ann"), raise_on_error=True)
    encoded = msgspec.json.encode(seen[0])
    assert CANARY.encode() not in encoded and CANARY not in repr(seen[0])
    assert msgspec.json.decode(encoded, type=ContextRecord).metadata == {"deep": {"list": [1, {"x": None}]}}


def test_a_result_is_sent_without_its_exception() -> None:
    failed = AgentResult(success=False, error="down", error_details={"limit": 3}, exception=ProviderUnavailable(CANARY))
    encoded = msgspec.json.encode(failed.to_record())
    assert CANARY.encode() not in encoded
    assert msgspec.json.decode(encoded, type=ResultRecord) == failed.to_record()


@pytest.mark.parametrize("kind", [ContextRecord, ResultRecord])
def test_a_record_with_a_field_that_it_does_not_know_is_refused(kind: type[ContextRecord] | type[ResultRecord]) -> None:
    tag = kind.__struct_config__.tag
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"type": tag, "current_task": "t", "credential": "x"}), type=kind)
