"""What travels through the onion: the context of a run, and the requests of the inner stages."""

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias, TypedDict

import msgspec
from typing_extensions import Unpack

from agent_runtime.errors import ConfigurationError, InvalidInput, Suspended
from agent_runtime.events import SystemEvent
from agent_runtime.journal import Journal
from agent_runtime.known_calls import suspension
from agent_runtime.payload import check_name, copy_json, plain_json
from agent_runtime.run import NO_RUN, Run
from agent_runtime.stream import (
    Emit,
    ModelFinished,
    ModelStarted,
    Reset,
    StreamEvent,
    TextDelta,
    ToolFinished,
    ToolStarted,
    drop,
)
from agent_runtime.text import repair_text
from agent_runtime.types import (
    AgentResult,
    ContextRecord,
    Message,
    ModelResponse,
    Owner,
    Question,
    Secret,
    ToolDefinition,
    ToolResult,
)


class ContextChanges(TypedDict, total=False):
    """What `AgentContext.replace` takes."""

    agent_id: str
    user_id: str
    tenant_id: str | None
    session_id: str | None
    current_task: str
    messages: tuple[Message, ...]
    metadata: Mapping[str, Any]
    credential: Secret | None
    deadline: float
    emit: Emit


class AgentContext(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a run is asked to do, and for whom. Immutable: a layer passes on `context.replace(...)`. Never encoded.

    Attributes:
        agent_id: Which agent; empty: the executor's.
        user_id: Whose run it is, 1–255 printable characters. Empty: the Auth layer must say.
        tenant_id: The user's tenant, where there are tenants.
        session_id: The conversation, `[A-Za-z0-9_-]{1,128}`; `None` for a run without memory.
        current_task: What the user asks; may be left out where a run is resumed.
        messages: The conversation before the task.
        metadata: The caller's JSON values; copied and checked at entry, read-only for layers, never trusted.
        credential: What the caller presents; the Auth layer takes it and removes it.
        parent_run_id: The run that started this one.
        depth: How many runs are above this one.
        deadline: When the run must have ended, in `anyio.current_time()` seconds.
        run: The run's mutable cell; set when the run starts.
        emit: Pushes one stream event outwards; drops it in a plain run.
        may_ask: False inside an `effect` tool, which cannot be suspended.
    """

    current_task: str = ""
    agent_id: str = ""
    user_id: str = ""
    tenant_id: str | None = None
    session_id: str | None = None
    messages: tuple[Message, ...] = ()
    metadata: Mapping[str, Any] = {}
    credential: Secret | None = None
    parent_run_id: str | None = None
    depth: int = 0
    created_ns: int = msgspec.field(default_factory=time.time_ns)
    run_id: str = ""
    deadline: float = float("inf")
    run: Run = NO_RUN
    emit: Emit = drop
    may_ask: bool = True

    @property
    def created_at(self) -> datetime:
        """When the context was made; aware, UTC."""
        return datetime.fromtimestamp(self.created_ns / 1e9, UTC)

    @property
    def owner(self) -> Owner:
        """Whose data this run may touch; `InvalidInput` while nobody has said who the user is."""
        if not self.user_id:
            raise InvalidInput("the context has no user_id: set it, pass principal=, or put an Auth layer outside")
        return Owner(tenant_id=self.tenant_id, user_id=self.user_id)

    def replace(self, **changes: Unpack[ContextChanges]) -> "AgentContext":
        """Copy with the named fields changed; a wrong name is a `TypeError`. The caller's object stays as it was."""
        return msgspec.structs.replace(self, **changes)

    def child(self, agent_id: str, current_task: str) -> "AgentContext":
        """A context for a run inside this one: the same user and deadline, one level deeper, no session, no history.

        Run it with `principal=context.run.principal` where the other executor asks for one.
        """
        return AgentContext(
            agent_id=agent_id,
            current_task=current_task,
            user_id=self.user_id,
            tenant_id=self.tenant_id,
            parent_run_id=self.run_id or None,
            depth=self.depth + 1,
            deadline=self.deadline,
        )

    def to_record(self) -> ContextRecord:
        """The part of this context that may be stored and sent."""
        return ContextRecord(
            current_task=self.current_task,
            agent_id=self.agent_id,
            user_id=self.user_id,
            tenant_id=self.tenant_id,
            session_id=self.session_id,
            messages=self.messages,
            metadata=plain_json(self.metadata),
            parent_run_id=self.parent_run_id,
            depth=self.depth,
            created_ns=self.created_ns,
        )

    @classmethod
    def from_record(cls, record: ContextRecord) -> "AgentContext":
        """The context of which `record` was made, without what a record does not hold."""
        fields = msgspec.structs.asdict(record)
        del fields["schema"]
        return cls(**fields)

    def can_restart(self, step: int = 0) -> bool:
        """Whether text of model step `step` and later may be produced again: nothing of it has left the runtime yet."""
        return self.run.edge.can_restart(step)

    async def publish(self, event_type: str, **fields: Any) -> None:
        """Publish a `SystemEvent` about this run; nothing is built when nobody listens."""
        run = self.run
        bus = run.bus
        if bus is None or not bus.wants(event_type):
            return
        run.sequence += 1
        await bus.publish(
            SystemEvent(
                event_type=event_type,
                agent_id=self.agent_id,
                user_id=self.user_id if run.principal is None else run.principal.subject,
                session_id=self.session_id,
                run_id=run.run_id,
                sequence=run.sequence,
                trace_id=run.trace_id,
                **fields,
            )
        )

    async def call_model(
        self, request: "ModelRequest", client: "LLMClient", *, around: "AroundModel | None" = None
    ) -> ModelResponse:
        """Call `client` through the model layers. A call that emitted no text has its text emitted as one piece.

        `around(request, call_next)` is one layer more, outside the others: `retry_model`, for instance.

        In a resumed run, a call whose answer is recorded (by `request.step`, in order) is not made again, nor do its layers
        run: the recorded answer is given, its text emitted as one piece. Where the run has a question without an answer, no
        model is asked any more: `Suspended`.
        """
        run = self.run
        if run.closed:
            raise run.refusal()
        journal = run.journal
        if journal is None or not journal.durable:
            return await self._ask_model(request, client, around)
        if (
            journal.questions and self.may_ask
        ):  # somebody has hidden it: its answer belongs to what the model is to read
            raise suspension(tuple(journal.questions.values()))
        response = journal.recorded_answer(request.step)
        if response is None:
            response = await self._ask_model(request, client, around)
            await journal.model_answered(request.step, response)
        elif run.streaming:
            await self._tell_again(request.step, response)
        return response

    async def _tell_again(self, step: int, response: ModelResponse) -> None:
        """Emit what was recorded of a model call, its text as one piece."""
        await self.emit(ModelStarted(step=step, recorded=True))
        if response.message.content:
            await self.emit(TextDelta(text=response.message.content, step=step))
        await self.emit(_finished(step, response))

    async def _ask_model(
        self, request: "ModelRequest", client: "LLMClient", around: "AroundModel | None"
    ) -> ModelResponse:
        run = self.run
        handler = run.handlers.model
        if not run.streaming:
            bound = msgspec.structs.replace(request, context=self, client=client)
            return await (handler(bound) if around is None else around(bound, handler))
        step = request.step
        emit = self.emit
        spoke = False

        def emit_and_note(event: StreamEvent) -> Awaitable[None]:
            nonlocal spoke
            kind = type(event)
            if kind is TextDelta:
                spoke = True
            elif kind is Reset:
                spoke = False
            return emit(event)

        await emit(ModelStarted(step=step))
        bound = msgspec.structs.replace(request, context=self, client=client, emit=emit_and_note, stream=True)
        response = await (handler(bound) if around is None else around(bound, handler))
        if not spoke and response.message.content:
            await emit(TextDelta(text=response.message.content, step=step))
        await emit(_finished(step, response))
        return response

    async def call_tool(self, call: "ToolCall", function: "ToolFunction") -> ToolResult:
        """Call `function` through the tool layers.

        In a resumed run the layers run again, and of a call whose result is recorded (by `call.idempotency_key`) the
        function does not. Two different calls with one key get two.
        """
        run = self.run
        if run.closed:
            raise run.refusal()
        key = call.idempotency_key
        if key:
            journal = run.journal
            if journal is None:
                journal = run.journal = Journal()
            key = journal.known(key, call.name, call.arguments)
        elif run.journal is not None and run.journal.durable:
            raise ConfigurationError(
                f"tool call {call.name!r} has no idempotency_key, without which no run is resumable"
            )
        bound = msgspec.structs.replace(call, context=self, function=function, idempotency_key=key)
        if not run.streaming:
            return await run.handlers.tool(bound)
        recorded = bool(key) and run.journal is not None and run.journal.calls[key].recorded
        await self.emit(ToolStarted(id=call.id, name=call.name, recorded=recorded))
        try:
            result = await run.handlers.tool(bound)
        except Suspended:
            raise  # it is not finished
        except Exception:
            await self.emit(ToolFinished(id=call.id, name=call.name, is_error=True))
            raise
        await self.emit(ToolFinished(id=call.id, name=call.name, is_error=result.is_error))
        return result

    async def ask(self, question: str, *, key: str, details: Mapping[str, Any] | None = None) -> Any:
        """The answer to `question`: JSON that a person gave to `Resume(answers={key: ...})`.

        The first time, `Suspended` is raised and the run ends with the questions in its result; other calls under way are
        finished first. When it is resumed, the code before is run again up to here (recorded answers of models and results
        of tools are not computed again), and the answer is returned. `details` (JSON) goes with the question.

        From an agent, a model or tool layer, or a `pure` or `idempotent` tool of a run that can be resumed; inside an
        `effect` tool, in a run layer, without a session, or with an agent that is not resumable, `ConfigurationError`.
        """
        check_name(key, "key")
        journal = self.run.journal
        if journal is None or not journal.durable:
            raise ConfigurationError(
                "this run cannot be suspended: asking takes a session (session_manager=, session_id=, and not "
                'on_busy="allow"), a resumable agent, and is done inside the run layers'
            )
        if not self.may_ask:
            raise ConfigurationError(
                "an effect tool cannot ask, nor a run layer: ask in a tool layer, or in the agent, before the effect"
            )
        if key in journal.answers:
            return plain_json({key: journal.answers[key]})[key]  # a copy, for this caller
        limit = self.run.limits.metadata_bytes
        shown = plain_json(copy_json(details or {}, "metadata", max_bytes=limit))
        raise journal.ask(Question(key=key, text=repair_text(question), details=shown))

    def __repr__(self) -> str:
        return f"AgentContext(agent_id={self.agent_id!r}, session_id={self.session_id!r}, run_id={self.run_id!r})"


def _finished(step: int, response: ModelResponse) -> ModelFinished:
    return ModelFinished(
        step=step,
        model=response.model,
        finish_reason=response.finish_reason,
        usage=response.usage,
        cached=response.cached,
    )


class LLMClient(Protocol):
    """A language model. One method; a client that only has `async generate(prompt, **params)` is accepted too.

    It may have an attribute `identity`: text that tells its answers from those of another client, such as endpoint and model,
    and no secret. Caches go by it; without one, by the client's class and its `model`. Its attributes `model` (who is asked
    unless a request names another) and `provider` (in the words of OpenTelemetry's `gen_ai.provider.name`) are for
    whoever looks on: `ModelRequest.model` and `provider`.
    """

    async def complete(self, request: "ModelRequest", /) -> ModelResponse:
        """Return the whole answer; where `request.stream` is true, also push it in pieces through `request.emit`.

        Raises `ProviderUnavailable`, `RateLimited`, `CallTimeout` or `RequestRejected`, the library's error as the
        cause. Does not retry. Cancellation ends the upstream call. Text is valid Unicode: `DeltaText` repairs pieces that
        cut a character in two.
        """
        ...


class TextClient(Protocol):
    """A language model that only turns a prompt into text: `async generate(prompt, **parameters)`."""

    @property
    def generate(self) -> Callable[..., Awaitable[str | ModelResponse]]: ...


class ToolFunction(Protocol):
    """What runs at the core of the tool stage."""

    async def __call__(self, call: "ToolCall", /) -> ToolResult: ...


class _Unset:
    """Stands where `call_model` and `call_tool` put the client and the function."""

    async def complete(self, request: "ModelRequest", /) -> ModelResponse:
        raise ConfigurationError("this request has no client: pass it to context.call_model(request, client)")

    async def __call__(self, call: "ToolCall", /) -> ToolResult:
        raise ConfigurationError("this call has no function: pass it to context.call_tool(call, function)")


_UNSET = _Unset()
_NO_CONTEXT = AgentContext(agent_id="", current_task="")


class RequestChanges(TypedDict, total=False):
    """What `ModelRequest.replace` takes."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...]
    parameters: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    fits: Callable[[str], bool] | None
    attempt: int
    emit: Emit
    client: LLMClient


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One model call on its way in.

    Attributes:
        messages: All that the model reads, the system prompt first.
        tools: What the model may call.
        parameters: Provider parameters that are set: `model`, `temperature`, `max_tokens` …
        output_schema: The JSON schema that the answer's text is to fit; the messages say so too, for clients that cannot
            send it.
        fits: Whether a text is what the agent takes for an answer; a cache keeps no other. `None` where nobody says.
        step: Which model call of the run, from 0.
        attempt: Which try of this step, from 1; the layer that retries numbers them.
        stream: Whether pieces are wanted; true when a consumer or a layer with `needs_chunks` is there.
        context: The run that asks.
        emit: Takes the pieces; a layer replaces it to see or change them.
        client: Who answers; a layer may replace it to ask another one.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    parameters: Mapping[str, Any] = {}
    output_schema: Mapping[str, Any] | None = None
    fits: Callable[[str], bool] | None = None
    step: int = 0
    attempt: int = 1
    stream: bool = False
    context: AgentContext = _NO_CONTEXT
    emit: Emit = drop
    client: LLMClient = _UNSET

    @property
    def run(self) -> Run:
        """The run that asks."""
        return self.context.run

    @property
    def model(self) -> str | None:
        """Which model is asked: the parameter's, or else the client's own; `None` where neither says."""
        model = self.parameters.get("model") or getattr(self.client, "model", None)
        return model if isinstance(model, str) else None

    @property
    def provider(self) -> str | None:
        """Whose model is asked, where the client says."""
        provider = getattr(self.client, "provider", None)
        return provider if isinstance(provider, str) else None

    def can_restart(self) -> bool:
        """Whether this step's text may be produced again: nothing of it has left the runtime yet."""
        return self.context.can_restart(self.step)

    def replace(self, **changes: Unpack[RequestChanges]) -> "ModelRequest":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"ModelRequest(step={self.step}, attempt={self.attempt}, {len(self.messages)} messages)"


CallModel: TypeAlias = Callable[[ModelRequest], Awaitable[ModelResponse]]
AroundModel: TypeAlias = Callable[[ModelRequest, CallModel], Awaitable[ModelResponse]]


class CallChanges(TypedDict, total=False):
    """What `ToolCall.replace` takes."""

    arguments: Mapping[str, Any]
    function: ToolFunction


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One tool call on its way in.

    Attributes:
        id: The model's name for this call.
        name: Which tool.
        arguments: The decoded JSON object that the model wrote; not validated yet.
        idempotency_key: Made from the run that began it, step and call index: the same when the call is made again, by a
            retry or a resumed run.
        context: The run that asks.
        function: What runs; a layer may replace it.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = {}
    idempotency_key: str = ""
    context: AgentContext = _NO_CONTEXT
    function: ToolFunction = _UNSET

    @property
    def run(self) -> Run:
        """The run that asks."""
        return self.context.run

    def replace(self, **changes: Unpack[CallChanges]) -> "ToolCall":
        """Copy with the named fields changed; a wrong name is a `TypeError`."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"ToolCall(id={self.id!r}, name={self.name!r})"


class Agent(Protocol):
    """Anything that answers a context. `stages` names the inner stages that it reaches ("model", "tool")."""

    async def run(self, context: AgentContext, /) -> AgentResult | str: ...


AgentFunction: TypeAlias = Callable[[AgentContext], Awaitable[AgentResult | str]]
