import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    ErrorType,
    FunctionCall,
    InvalidInput,
    LimitExceeded,
    Limits,
    MemorySessionStore,
    Message,
    Principal,
    SessionManager,
)
from agent_runtime.testing import json_values

ASKED = AgentContext(user_id="ann", current_task="hello")


async def shows(context: AgentContext) -> AgentResult:
    return AgentResult(output=context.current_task, data=context, messages=context.messages)


async def run(context: AgentContext, limits: Limits | None = None, principal: Principal | None = None) -> AgentResult:
    return await AgentExecutor(shows, limits=limits).execute(context, principal=principal)


def said(text: str, role: Any = "user", **fields: Any) -> tuple[Message, ...]:
    return (Message(role=role, content=text, **fields),)


@pytest.mark.parametrize("task", ["", " ", "\n\t\u3000"])
async def test_an_empty_task_is_refused(task: str) -> None:
    result = await run(ASKED.replace(current_task=task))
    assert isinstance(result.exception, InvalidInput) and result.error_details == {"field": "current_task"}


@pytest.mark.parametrize("task", ["it's", "你好", "def f(): pass", "ann@example.org", "🙂" * 10])
async def test_ordinary_text_passes_unchanged(task: str) -> None:
    assert (await run(ASKED.replace(current_task=task))).output == task


async def test_half_a_character_becomes_a_replacement_character() -> None:
    result = await run(ASKED.replace(current_task="a\ud83d", messages=said("\udc00b")))
    assert (result.output, result.messages[0].content) == ("a\ufffd", "\ufffdb")


@pytest.mark.parametrize(("char", "size"), [("a", 1), ("ü", 2), ("🙂", 4)])
async def test_a_task_may_have_as_many_bytes_as_the_limit_and_not_one_more(char: str, size: int) -> None:
    limits = Limits(message_bytes=12)
    assert (await run(ASKED.replace(current_task=char * (12 // size)), limits)).success
    result = await run(ASKED.replace(current_task=char * (12 // size) + "a"), limits)
    assert isinstance(result.exception, LimitExceeded)
    assert result.error_details == {"field": "current_task", "limit": 12, "actual": 13}
    assert result.error == "current_task: 13 is over the limit of 12 (Limits.message_bytes)"


async def test_messages_have_limits_each_and_together() -> None:
    limits = Limits(message_bytes=5, tool_result_bytes=7, history_messages=3, history_bytes=12)
    fine = said("12345") + said("1234567", "tool", tool_call_id="1")
    assert (await run(ASKED.replace(messages=fine), limits)).success
    for messages, limit in (
        (said("123456"), "message_bytes"),
        (said("12345678", "tool"), "tool_result_bytes"),
        (said("1") * 4, "history_messages"),
        (fine + said("1"), "history_bytes"),
    ):
        result = await run(ASKED.replace(messages=messages), limits)
        assert isinstance(result.exception, LimitExceeded) and f"Limits.{limit})" in str(result.error)


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        5,
        "text",
        ("text",),
        (None,),
        said("x", "boss"),
        said("x", ["user"]),
        (Message(role="user", content=5),),  # type: ignore[arg-type]  # what is tested
        said("x", "assistant", tool_calls=[FunctionCall(id="1", name="f")]),
    ],
)
async def test_messages_of_a_wrong_form_are_refused(messages: Any) -> None:
    assert (await run(ASKED.replace(messages=messages))).error_type == ErrorType.VALIDATION


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent_id", 5),
        ("agent_id", "a\nb"),
        ("user_id", 5),
        ("user_id", "a" * 256),
        ("user_id", "a\x00"),
        ("tenant_id", ""),
        ("tenant_id", "a\u2028b"),
        ("session_id", ""),
        ("session_id", "../x"),
        ("session_id", "a" * 129),
        ("parent_run_id", "a b"),
        ("depth", "2"),
        ("credential", "sk-1"),
        ("current_task", None),
        ("current_task", b"text"),
        ("metadata", None),
        ("metadata", []),
        ("metadata", "text"),
        ("metadata", {1: "a"}),
        ("metadata", {"a": {"b": [float("nan")]}}),
        ("metadata", {"a": 2**64}),
        ("metadata", {"a": object()}),
    ],
)
async def test_a_field_of_a_wrong_form_is_refused_by_name(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"user_id": "ann", "current_task": "hello"} | {field: value}
    result = await run(AgentContext(**fields))
    assert isinstance(result.exception, InvalidInput)
    assert str(result.error_details["field"]).startswith(field)
    assert "sk-1" not in repr(result) + str(result.error)


async def test_a_principal_with_a_bad_name_is_refused() -> None:
    anonymous = ASKED.replace(user_id="")
    for principal in (Principal(subject=""), Principal(subject="a\n"), Principal(subject="a", tenant="")):
        assert (await run(anonymous, principal=principal)).error_type == ErrorType.VALIDATION


async def test_runs_may_be_as_deep_as_the_limit() -> None:
    child = ASKED
    for depth in range(1, 4):
        child = child.child("helper", "go on")
        assert (await run(child, Limits(depth=2))).success is (depth <= 2)


@given(st.dictionaries(st.text(), json_values()))
async def test_metadata_is_copied_and_read_only(metadata: dict[str, Any]) -> None:
    limits = Limits(metadata_bytes=1 << 20, metadata_depth=30)
    result = await run(AgentContext(user_id="ann", current_task="hello", metadata=metadata), limits)
    copy = result.data.metadata
    assert json.loads(json.dumps(copy, default=dict)) == metadata
    if metadata:
        with pytest.raises(TypeError):
            copy["new"] = 1


async def test_metadata_has_limits_on_size_and_depth() -> None:
    limits = Limits(metadata_bytes=50, metadata_depth=3)
    assert (await run(ASKED.replace(metadata={"a": {"b": {"c": 1}}}), limits)).success
    refused: list[tuple[dict[str, Any], int]] = [({"a": {"b": {"c": {}}}}, 3), ({"a": "x" * 50}, 50)]
    for metadata, limit in refused:
        result = await run(ASKED.replace(metadata=metadata), limits)
        assert isinstance(result.exception, LimitExceeded) and result.error_details["limit"] == limit


async def test_a_refused_context_touches_no_session() -> None:
    sessions = SessionManager(MemorySessionStore())
    executor = AgentExecutor(shows, session_manager=sessions)
    refused = await executor.execute(ASKED.replace(session_id="s1", current_task=""))
    assert not refused.success
    assert await sessions.exists("s1", owner=ASKED.owner) is False
