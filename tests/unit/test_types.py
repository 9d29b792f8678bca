import copy
import pickle
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentFailed,
    AgentResult,
    ConfigurationError,
    ErrorType,
    FunctionCall,
    Limits,
    Message,
    ModelResponse,
    Principal,
    RateLimited,
    ReasoningDelta,
    ResultRecord,
    Secret,
    TextDelta,
    ToolResult,
    Usage,
)

CANARY = "canary-of-a-secret"


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    assert CANARY not in f"{secret} {secret!r} {secret:>20} {[secret]} {vars(Secret)}"
    for leaks in (pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError):
            leaks(secret)


@pytest.mark.parametrize(
    "value",
    [
        Message(role="user", content=CANARY, tool_calls=(FunctionCall(id="1", name="f"),)),
        AgentResult(output=CANARY),
        ResultRecord(output=CANARY),
        ToolResult(content=CANARY),
        TextDelta(text=CANARY),
        ReasoningDelta(text=CANARY),
        Principal(subject="ann", claims={"email": CANARY}),
    ],
)
def test_what_may_hold_content_does_not_show_it(value: object) -> None:
    assert CANARY not in repr(value)
    assert "18" in repr(value) or "ann" in repr(value) or "run_id" in repr(value)


counts = st.integers(0, 10**9)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cached_tokens=counts,
    reasoning_tokens=counts,
    requests=counts,
    cost=st.none() | st.decimals(0, 100, places=4),
)


@given(usages, usages, usages)
def test_usage_adds_up_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    assert a + b == b + a and (a + b) + c == a + (b + c) and a + Usage() == a


def test_a_cost_known_on_one_side_only_counts() -> None:
    assert (Usage(cost=Decimal("0.5")) + Usage()).cost == (Usage() + Usage(cost=Decimal("0.5"))).cost == Decimal("0.5")


def test_a_message_and_a_tools_result_are_copied_with_a_change() -> None:
    calls = (FunctionCall(id="1", name="f"),)
    message = Message(role="assistant", content="secret", tool_calls=calls)
    assert message.replace(content="***") == Message(role="assistant", content="***", tool_calls=calls)
    assert ToolResult(content="secret", is_error=True).replace(content="***") == ToolResult(
        content="***", is_error=True
    )


def test_a_model_response_is_text_with_what_belongs_to_it() -> None:
    response = ModelResponse.of("hello", model="small")
    assert (response.text, response.message.role, response.model) == ("hello", "assistant", "small")
    assert response.replace(finish_reason="length").finish_reason == "length"


def test_a_result_unwraps_to_itself_or_raises() -> None:
    fine = AgentResult(output="hello")
    assert fine.unwrap() is fine and fine.replace(output="x").output == "x"
    error = RateLimited("slow down")
    with pytest.raises(RateLimited) as caught:
        AgentResult(success=False, exception=error).unwrap()
    assert caught.value is error
    with pytest.raises(AgentFailed, match="without saying why"):
        AgentResult(success=False).unwrap()
    assert "error_type=limit" in repr(AgentResult(success=False, error_type=ErrorType.LIMIT))


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
@pytest.mark.parametrize("field", Limits.__struct_fields__)
def test_a_limit_that_is_not_above_zero_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"Limits.{field} is"):
        Limits(**{field: value})  # type: ignore[arg-type]  # every field, of either type


def test_half_a_character_in_a_failure_breaks_no_record() -> None:
    failed = AgentResult(
        success=False,
        output="so far \ud83d",
        error="half \ud83d",
        error_details={"near": ["\ud83d"]},
        model="m\ud83d",
        finish_reason="\ud83d",
    )
    again = msgspec.json.decode(msgspec.json.encode(failed.to_record()), type=ResultRecord)
    assert (again.output, again.error, again.error_details) == ("so far �", "half �", {"near": ["�"]})
    assert (again.model, again.finish_reason) == ("m�", "�")
