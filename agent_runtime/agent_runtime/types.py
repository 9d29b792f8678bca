"""The data that crosses a layer. Nothing here knows of runs, pipelines or executors."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, TypedDict

import msgspec
from typing_extensions import Unpack

from agent_runtime.errors import AgentFailed, ErrorType
from agent_runtime.text import repair_text, repair_values

Role = Literal["system", "user", "assistant", "tool"]
ServedBy = Literal["agent", "cache", "layer"]


class Value(msgspec.Struct, frozen=True):
    """Base of plain values: immutable and compared by content."""


class Secret:
    """A credential that cannot leak by accident: `repr`, `str` and formatting give `***`; encoders refuse it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text; call it where it is checked or sent, and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str, /) -> str:
        return format("***", spec)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is never copied into a stored or sent form")


class Owner(Value, frozen=True, kw_only=True):
    """Whose data it is: a required argument of every store, cache, limiter and memory call."""

    tenant_id: str | None
    user_id: str


class Principal(Value, frozen=True, kw_only=True):
    """Who presented a credential that holds. Made by the Auth layer, or by a host that has authenticated already."""

    subject: str
    tenant: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        return f"Principal(subject={self.subject!r}, tenant={self.tenant!r})"


class Usage(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What model calls cost. Tokens and requests are counts; `cost` is `None` where no price is known."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0
    cost: Decimal | None = None

    def __add__(self, other: "Usage") -> "Usage":
        """Sum; a cost known on one side only counts as that cost."""
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            requests=self.requests + other.requests,
            cost=other.cost if self.cost is None else self.cost + (other.cost or 0),
        )


NO_USAGE = Usage()


class FunctionCall(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A model's wish to call a tool, as the model wrote it; `arguments` is JSON text and may be malformed."""

    id: str
    name: str
    arguments: str = "{}"

    def __repr__(self) -> str:
        return f"FunctionCall(id={self.id!r}, name={self.name!r}, {len(self.arguments)} characters)"


class MessageChanges(TypedDict, total=False):
    """What `Message.replace` takes."""

    role: Role
    content: str
    tool_calls: tuple[FunctionCall, ...]
    tool_call_id: str | None
    name: str | None


class Message(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation. A `tool` message answers the call named by `tool_call_id`."""

    role: Role
    content: str = ""
    tool_calls: tuple[FunctionCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def replace(self, **changes: Unpack[MessageChanges]) -> "Message":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"Message(role={self.role!r}, {len(self.content)} characters, {len(self.tool_calls)} tool calls)"


class ToolDefinition(Value, frozen=True, kw_only=True):
    """A tool as a model sees it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class ToolResult(Value, frozen=True, kw_only=True):
    """What a tool call gave: text for the model."""

    content: str
    is_error: bool = False

    def replace(self, **changes: Any) -> "ToolResult":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"ToolResult({len(self.content)} characters, is_error={self.is_error})"


class Question(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What a suspended run waits for.

    Attributes:
        key: Names the answer in `Resume(answers={key: ...})`.
        text: What is asked.
        kind: `"question"` comes from `context.ask`. `"in_doubt"` asks what became of a tool call that was started and of
            which no end is recorded: the answer is `{"result": text}` (it happened, this came back), `{"error": text}`
            (it failed, tell the model so) or `"not_done"` (it did not happen: start it again). It holds for the one start
            that was asked about.
        details: JSON values; of a call in doubt `tool` and `arguments`.
    """

    key: str
    text: str
    kind: Literal["question", "in_doubt"] = "question"
    details: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Question(key={self.key!r}, kind={self.kind!r})"


class Resume(Value, frozen=True, kw_only=True):
    """Go on with an unfinished run of the context's session instead of starting a new one.

    Attributes:
        answers: JSON values by the key of their question; they are kept, and need not be given again.
        run_id: Which run, by its own id or that of any run that resumed it; by default the agent's newest unfinished one.
        allow_changed: Also when the agent has other tools than the run began with.
    """

    answers: Mapping[str, Any] = {}
    run_id: str | None = None
    allow_changed: bool = False

    def __repr__(self) -> str:
        return f"Resume({len(self.answers)} answers, run_id={self.run_id!r})"


class ModelResponse(Value, frozen=True, kw_only=True):
    """What a model call gave. `message` has the role `assistant`; the text was emitted already when the call streamed.

    `cached`: no model was asked for it. It was kept from before, or is the answer to another caller who asked the same.
    """

    message: Message
    usage: Usage = NO_USAGE
    finish_reason: str = "stop"
    model: str | None = None
    cached: bool = False

    @classmethod
    def of(cls, text: str, **fields: Any) -> "ModelResponse":
        """Wrap plain text as an assistant's answer."""
        return cls(message=Message(role="assistant", content=text), **fields)

    @property
    def text(self) -> str:
        return self.message.content

    def replace(self, **changes: Any) -> "ModelResponse":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)


class RunStatus(StrEnum):
    """Where a run stands. CREATED → STARTING → RUNNING → one of the others, which are final.

    A run is STARTING until its layers have let it in; one that is refused or cut short there ends from there.
    """

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    SUSPENDED = "suspended"


class ResultChanges(TypedDict, total=False):
    """What `AgentResult.replace` takes."""

    success: bool
    output: str
    data: Any
    error: str | None
    error_type: ErrorType | None
    error_details: Mapping[str, Any]
    retryable: bool
    retry_after: float | None
    usage: Usage
    messages: tuple[Message, ...]
    model: str | None
    finish_reason: str | None
    execution_time_ms: float
    attempts: int
    served_by: ServedBy
    run_id: str
    resumed_from: str | None
    questions: tuple[Question, ...]
    trace_id: str | None
    metadata: Mapping[str, Any]
    exception: Exception | None


class AgentResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a run gave. A carrier: it is never encoded, `to_record()` is.

    Attributes:
        success: False for a failure that the runtime knows; a bug is raised instead.
        output: The answer's text.
        data: Structured output, where the agent makes any.
        error: What went wrong, safe to show to the caller.
        error_type: One word of a stable vocabulary.
        error_details: JSON values: limit, remaining, reset, field …
        retryable: True when the same call may succeed later.
        retry_after: Seconds from now.
        usage: Everything spent in the run, failed attempts included.
        messages: The messages that this run added to the conversation.
        execution_time_ms: Wall time of the run.
        attempts: 1 plus every repeated model call and repeated execution of the agent.
        served_by: Who answered: the agent, a cache (every model answer came from one, or the whole result), or a layer that
            did not call the next.
        resumed_from: The run that this one went on with.
        questions: What a suspended run (`error_type` is `suspended`) waits for.
        exception: The error behind `error`, for code and logs.
    """

    success: bool = True
    output: str = ""
    data: Any = None
    error: str | None = None
    error_type: ErrorType | None = None
    error_details: Mapping[str, Any] = {}
    retryable: bool = False
    retry_after: float | None = None
    usage: Usage = NO_USAGE
    messages: tuple[Message, ...] = ()
    model: str | None = None
    finish_reason: str | None = None
    execution_time_ms: float = 0.0
    attempts: int = 1
    served_by: ServedBy = "agent"
    run_id: str = ""
    resumed_from: str | None = None
    questions: tuple[Question, ...] = ()
    trace_id: str | None = None
    metadata: Mapping[str, Any] = {}
    exception: Exception | None = None

    def replace(self, **changes: Unpack[ResultChanges]) -> "AgentResult":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def unwrap(self) -> "AgentResult":
        """Return this result, or raise the failure behind it."""
        if self.success:
            return self
        raise self.exception or AgentFailed(self.error or "the agent failed without saying why", result=self)

    def to_record(self) -> "ResultRecord":
        """The part of this result that may be stored and sent; half characters in its texts are replaced."""
        return ResultRecord(
            success=self.success,
            output=repair_text(self.output),
            error=repair_values(self.error),
            error_type=self.error_type,
            error_details=repair_values(dict(self.error_details)),
            retryable=self.retryable,
            retry_after=self.retry_after,
            usage=self.usage,
            model=repair_values(self.model),
            finish_reason=repair_values(self.finish_reason),
            execution_time_ms=self.execution_time_ms,
            attempts=self.attempts,
            served_by=self.served_by,
            run_id=self.run_id,
            resumed_from=self.resumed_from,
            questions=self.questions,
            trace_id=self.trace_id,
        )

    def __repr__(self) -> str:
        outcome = "success" if self.success else f"error_type={self.error_type!s}"
        return f"AgentResult({outcome}, run_id={self.run_id!r}, {len(self.output)} characters)"


class ResultRecord(Value, frozen=True, kw_only=True, tag="result", forbid_unknown_fields=True, omit_defaults=True):
    """A result as it is stored and sent: no exception, no state. `schema` is the version of this form."""

    schema: int = 1
    success: bool = True
    output: str = ""
    error: str | None = None
    error_type: ErrorType | None = None
    error_details: dict[str, Any] = {}
    retryable: bool = False
    retry_after: float | None = None
    usage: Usage = NO_USAGE
    model: str | None = None
    finish_reason: str | None = None
    execution_time_ms: float = 0.0
    attempts: int = 1
    served_by: ServedBy = "agent"
    run_id: str = ""
    resumed_from: str | None = None
    questions: tuple[Question, ...] = ()
    trace_id: str | None = None

    def __repr__(self) -> str:
        return f"ResultRecord(success={self.success}, run_id={self.run_id!r})"


class ContextRecord(Value, frozen=True, kw_only=True, tag="context", forbid_unknown_fields=True, omit_defaults=True):
    """A context as it is stored and sent: no credential, principal, state or deadline. `schema` is this form's version."""

    schema: int = 1
    current_task: str
    agent_id: str = ""
    user_id: str = ""
    tenant_id: str | None = None
    session_id: str | None = None
    messages: tuple[Message, ...] = ()
    metadata: dict[str, Any] = {}
    parent_run_id: str | None = None
    depth: int = 0
    created_ns: int = 0

    def __repr__(self) -> str:
        return f"ContextRecord(agent_id={self.agent_id!r}, session_id={self.session_id!r})"
