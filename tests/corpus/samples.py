"""One of each thing that is stored, with every field set, and how each is read."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from agent_runtime import (
    ContextRecord,
    ErrorType,
    FunctionCall,
    Message,
    MessageBatch,
    ModelResponse,
    Question,
    ResultRecord,
    RunStatus,
    ToolResult,
    Usage,
)
from agent_runtime.journal_items import (
    Asked,
    Began,
    JournalItem,
    ModelAnswered,
    Restarted,
    Resumed,
    StateKept,
    Stopped,
    ToolEnded,
    ToolIntended,
    ToolWithdrawn,
    decode_entry,
    encode_entry,
)
from agent_runtime.records import decode_record, encode_record
from agent_runtime.session_transfer import ExportedCheckpoint, ExportedSession

VALUES = {"text": "ünï \0 💥", "numbers": [0, -1, 2**63, 1.5], "none": None, "deep": {"yes": True}}
USAGE = Usage(
    input_tokens=3, output_tokens=5, cached_tokens=1, reasoning_tokens=2, requests=1, cost=Decimal("0.000120")
)
CALL = FunctionCall(id="c1", name="pay", arguments='{"amount": 5}')
MESSAGES = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="Pay ünï 💥", name="ann"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="paid", tool_call_id="c1", name="pay"),
    Message(role="assistant", content="Done."),
)
RESPONSE = ModelResponse(message=MESSAGES[2], usage=USAGE, finish_reason="tool_calls", model="m1")
KEY, DIGEST = "run1:0:0", "0" * 32
QUESTION = Question(key=KEY, text="What became of it?", kind="in_doubt", details={"tool": "pay"})

ITEMS: Mapping[str, JournalItem] = {
    "began": Began(agent_id="a", task="Pay", metadata=VALUES, messages=MESSAGES, fingerprint="f" * 32),
    "model_answered": ModelAnswered(step=0, response=RESPONSE),
    "tool_intended": ToolIntended(key=KEY, name="pay", digest=DIGEST),
    "tool_ended": ToolEnded(key=KEY, name="pay", digest=DIGEST, result=ToolResult(content="paid", is_error=False)),
    "tool_failed": ToolEnded(key=KEY, name="pay", digest=DIGEST, error="no money", error_type=ErrorType.TOOL),
    "tool_withdrawn": ToolWithdrawn(key=KEY),
    "asked": Asked(questions=(QUESTION, Question(key="q", text="Really?"))),
    "resumed": Resumed(run_id="run2", answers={"q": VALUES, KEY: "not_done"}),
    "restarted": Restarted(),
    "state_kept": StateKept(values=VALUES),
    "stopped": Stopped(status=RunStatus.FAILED, error_type=ErrorType.PROVIDER),
}
CONTEXT = ContextRecord(
    current_task="Pay",
    agent_id="a",
    user_id="ann",
    tenant_id="acme",
    session_id="s1",
    messages=MESSAGES,
    metadata=VALUES,
    parent_run_id="run0",
    depth=2,
    created_ns=1_700_000_000_000_000_000,
)
RESULT = ResultRecord(
    success=False,
    output="half",
    error="down",
    error_type=ErrorType.PROVIDER,
    error_details={"limit": 3},
    retryable=True,
    retry_after=1.5,
    usage=USAGE,
    model="m1",
    finish_reason="stop",
    execution_time_ms=12.5,
    attempts=2,
    served_by="cache",
    run_id="run1",
    resumed_from="run0",
    questions=(QUESTION,),
    trace_id="t1",
)
EXPORTED = ExportedSession(
    session_id="s1",
    agent_id="a",
    metadata=VALUES,
    messages=MESSAGES,
    checkpoints=(ExportedCheckpoint(checkpoint_id="c1", state=VALUES, message_count=2),),
)
CLOSED = msgspec.structs.replace(EXPORTED, closed=True)

Reads = Callable[[bytes], object]


def _typed(kind: Any) -> Reads:
    decoder = msgspec.msgpack.Decoder(kind)
    return lambda data: decode_record(data, decoder, "a record")


READERS: Mapping[str, Reads] = {
    "entry": lambda data: decode_entry(data, "a record"),
    "messages": MessageBatch.stored,
    "values": _typed(dict[str, Any]),
    "context": _typed(ContextRecord),
    "result": _typed(ResultRecord),
    "export": _typed(ExportedSession),
}
"""How each kind is read; a file's name ends with its kind."""


def samples() -> dict[str, tuple[bytes, object]]:
    """By file name: what is stored, and what it is."""
    found: dict[str, tuple[bytes, object]] = {
        f"{name}.entry": (encode_entry((item,)), (item,)) for name, item in ITEMS.items()
    }
    everything = tuple(ITEMS.values())
    return found | {
        "everything.entry": (encode_entry(everything), everything),
        "conversation.messages": (MessageBatch.of(MESSAGES).data, MESSAGES),
        "metadata.values": (encode_record(VALUES), VALUES),
        "run.context": (encode_record(CONTEXT), CONTEXT),
        "run.result": (encode_record(RESULT), RESULT),
        "session.export": (encode_record(EXPORTED), EXPORTED),
        "closed.export": (encode_record(CLOSED), CLOSED),
    }
