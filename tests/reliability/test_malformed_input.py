"""Input of any form at all: a run that takes it ends well, and one that does not is refused in the runtime's own words."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    Envelope,
    ErrorType,
    FunctionCall,
    InvalidInput,
    LimitExceeded,
    Message,
    PermissionDenied,
    Principal,
    RunCompleted,
    TextDelta,
    decode_event,
    encode_event,
)
from agent_runtime.testing import hostile_text, hostile_values, mutated, nested

EXAMPLES = settings().max_examples
MANY = settings(max_examples=10_000 if EXAMPLES > 1_000 else 200)

FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "current_task": hostile_text() | hostile_values(),
    "agent_id": hostile_text() | hostile_values(),
    "user_id": hostile_text() | hostile_values(),
    "tenant_id": st.none() | hostile_text() | hostile_values(),
    "session_id": st.none() | hostile_text() | hostile_values(),
    "parent_run_id": st.none() | hostile_text() | hostile_values(),
    "metadata": st.dictionaries(hostile_text(), hostile_values()) | hostile_values(),
    "depth": st.integers() | hostile_values(),
    "credential": st.none() | hostile_values(),
    "messages": st.lists(
        st.builds(
            Message,
            role=st.sampled_from(["system", "user", "assistant", "tool"]) | hostile_values(),
            content=hostile_text() | hostile_values(),
            tool_calls=st.just(()) | st.just((FunctionCall(id="1", name="f"),)) | hostile_values(),
        )
        | hostile_values()
    ).map(tuple)
    | hostile_values(),
}
REFUSALS = (InvalidInput, LimitExceeded, PermissionDenied)

contexts = st.fixed_dictionaries(
    {"user_id": st.just("ann"), "current_task": st.just("hello")},
    optional={name: values for name, values in FIELDS.items() if name not in ("user_id", "current_task")},
) | st.fixed_dictionaries(
    {"user_id": FIELDS["user_id"], "current_task": FIELDS["current_task"]},
    optional={"tenant_id": FIELDS["tenant_id"], "metadata": FIELDS["metadata"]},
)


async def tells_all(context: AgentContext) -> AgentResult:
    """An agent that uses everything as what it claims to be."""
    words = [context.current_task, context.agent_id, context.user_id, context.tenant_id or "", context.session_id or ""]
    words += [message.content for message in context.messages] + [message.role for message in context.messages]
    text = "|".join(words)
    text.encode()
    msgspec.json.encode(context.metadata, enc_hook=dict)
    return AgentResult(output=text)


def is_refused(result: AgentResult) -> bool:
    if result.success:
        return False
    assert isinstance(result.exception, REFUSALS)
    assert result.error_type in (ErrorType.VALIDATION, ErrorType.LIMIT, ErrorType.AUTHORIZATION)
    assert result.error is not None and result.error.isprintable() and len(result.error) < 1_000
    encoded = msgspec.json.encode(result.to_record())  # what a server would send
    assert len(encoded) < 4_000
    return True


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@MANY
@given(contexts)
async def test_a_malformed_context_is_refused_and_never_breaks_anything(fields: dict[str, Any]) -> None:
    is_refused(await AgentExecutor(tells_all).execute(AgentContext(**fields)))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@MANY
@given(hostile_text(), st.none() | hostile_text(), hostile_text())
async def test_a_malformed_principal_is_refused(subject: str, tenant: str | None, user_id: str) -> None:
    context = AgentContext(user_id=user_id, current_task="hello")
    result = await AgentExecutor(tells_all).execute(context, principal=Principal(subject=subject, tenant=tenant))
    if not is_refused(result):
        assert result.output == f"hello|tells_all|{subject}|{tenant or ''}|"
        assert user_id in ("", subject)


@pytest.mark.parametrize(
    "metadata",
    [
        {"deep": nested(100_000)},
        {"wide": ["x" * 100] * 1_000},
        {"shared": [[[["x"] * 50] * 50] * 50] * 50},
        {"key" * 10_000: 1},
    ],
)
async def test_metadata_that_would_eat_memory_or_stack_is_refused_at_once(metadata: dict[str, Any]) -> None:
    context = AgentContext(user_id="ann", current_task="hello", metadata=metadata)
    assert is_refused(await AgentExecutor(tells_all).execute(context))


class Refused(Exception):
    pass


def decoded_by(decode: Callable[[bytes], object], data: bytes) -> object:
    try:
        return decode(data)
    except msgspec.DecodeError:
        return Refused


EVENT = encode_event(Envelope(run_id="r", seq=1, event=TextDelta(text="hello")))
LAST = encode_event(Envelope(run_id="r", seq=2, event=RunCompleted(result=AgentResult(output="hello").to_record())))


@MANY
@given(mutated(EVENT) | mutated(LAST) | st.binary(max_size=100))
def test_a_damaged_event_is_an_event_or_a_decode_error(data: bytes) -> None:
    event = decoded_by(decode_event, data)
    assert event is Refused or isinstance(event, Envelope)
