"""The encoded form of stream events."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    Envelope,
    Reset,
    RunCompleted,
    StreamEvent,
    TextDelta,
    ToolStarted,
    decode_event,
    encode_event,
    repair_text,
)
from agent_runtime.testing import hostile_text

HALF = "half a pair \ud83d"


@given(hostile_text(), st.integers(min_value=0, max_value=9))
def test_every_text_can_be_sent_and_comes_back_repaired(text: str, step: int) -> None:
    again = decode_event(encode_event(Envelope(run_id="r", seq=1, event=TextDelta(text=text, step=step))))
    assert again.event == TextDelta(text=repair_text(text), step=step)


@pytest.mark.parametrize(
    "event",
    [
        Reset(step=2),
        ToolStarted(id="1", name=HALF),
        RunCompleted(result=AgentResult(output=HALF, error_details={"list": [HALF, 1]}).to_record()),
    ],
)
def test_an_event_with_half_a_character_anywhere_can_be_sent(event: StreamEvent) -> None:
    encoded = encode_event(Envelope(run_id="r", seq=3, event=event))
    assert type(decode_event(encoded).event) is type(event) and b"\\ud83d" not in encoded


@pytest.mark.parametrize(
    "data",
    [
        b'{"run_id":"r","seq":1,"event":{"type":"nothing"}}',
        b'{"run_id":"\xff","seq":1,"event":{"type":"reset"}}',
        b'{"run_id":' + b"[" * 100_000,
        b'{"run_id":"r","seq":1,"event":{"type":"run_completed","result":{"type":"result","error_details":{"x":'
        + b"[" * 100_000,
        b"",
    ],
)
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(data)


async def test_an_agent_that_cuts_a_character_in_two_gives_a_result_that_can_be_stored() -> None:
    async def agent(context: AgentContext) -> str:
        return HALF

    events: list[StreamEvent] = []

    async def keep(event: StreamEvent) -> None:
        events.append(event)

    executor = AgentExecutor(agent)
    result = await executor.execute(AgentContext(user_id="ann", current_task="t"), emit=keep)
    assert result.output == repair_text(HALF) and TextDelta(text=result.output) in events
    assert msgspec.json.encode(result.to_record())
