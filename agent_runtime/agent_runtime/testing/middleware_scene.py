"""A real executor around one layer, with an observer on each side of it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import msgspec
from anyio.lowlevel import checkpoint

from agent_runtime.context import AgentContext, ModelRequest, ToolCall
from agent_runtime.executor import AgentExecutor, reaches
from agent_runtime.layer import CallNext
from agent_runtime.limits import Limits
from agent_runtime.lint import LayerKind, Stage
from agent_runtime.pipeline import Layer, MiddlewarePipeline
from agent_runtime.stream import Emit, Reset, RunCompleted, RunStarted, StreamEvent, TextDelta
from agent_runtime.testing.middleware_passage import PASSAGE, Passage
from agent_runtime.types import AgentResult, ModelResponse, ToolResult

_OWN = {"run_id": "", "execution_time_ms": 0.0, "trace_id": None}
"""What is new in each run, or a layer's to say."""


class Told:
    """What the caller of a run got: a result, or the error of a bug, and the events of a stream."""

    def __init__(self, *, streamed: bool) -> None:
        self.streamed = streamed
        self.result: AgentResult | None = None
        self.error: Exception | None = None
        self.events: list[StreamEvent] = []

    @property
    def raised(self) -> Exception | None:
        """The error, in a result or not."""
        return self.error if self.result is None else self.result.exception

    @property
    def outcome(self) -> Mapping[str, object]:
        """What is to be equal in every form of a run."""
        if self.result is None:
            return {"raised": self.error}
        return msgspec.structs.asdict(msgspec.structs.replace(self.result, **_OWN))

    @property
    def story(self) -> list[StreamEvent]:
        """The events, without what is new in each run."""
        return [_without_own(event) for event in self.events]

    def texts(self) -> dict[int, str]:
        """The text that stands in the end, by step."""
        texts: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, Reset):
                texts = {step: text for step, text in texts.items() if step < event.step}
            elif isinstance(event, TextDelta):
                texts[event.step] = texts.get(event.step, "") + event.text
        return texts

    @property
    def said(self) -> str:
        """The text of the last step; of a stream that is text alone, all of it."""
        texts = self.texts()
        return texts[max(texts)] if texts else ""


ANSWER: Final = frozenset({"output", "data", "messages", "metadata"})
"""What of a result a layer may be there to change."""


def answer_of(told: Told) -> dict[str, object]:
    """The part of its outcome that is the answer."""
    return {name: value for name, value in told.outcome.items() if name in ANSWER}


def differences_of(found: Mapping[str, object], expected: Mapping[str, object]) -> str:
    """In which fields two outcomes differ, and how; empty when they are equal."""
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return "; ".join(f"{name} is {found.get(name)!r} and not {expected.get(name)!r}" for name in names)


class _Watched:
    """The layer between two observers."""

    name = "watched"

    def __init__(self, layer: Layer | None, *, opens: bool) -> None:
        pipeline = MiddlewarePipeline([] if layer is None else [layer])
        self.passages: dict[int, Passage] = {}
        self._handlers = pipeline.compile(_entered_run, _entered_call, _entered_call)
        self._resources = pipeline.resources() if opens else []
        self._stack = AsyncExitStack()
        self.needs_chunks = self._handlers.needs_chunks
        self.kind = LayerKind.AUTH if LayerKind.AUTH in self._handlers.kinds else LayerKind.OTHER

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await stack.enter_async_context(resource)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(exc_type, exc, traceback)

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        passage = context.run.state[PASSAGE] = self.passages.pop(context.created_ns)
        result: AgentResult = await passage.cross(Stage.RUN, self._handlers.run, context, call_next)
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        passage = request.run.state[PASSAGE]
        response: ModelResponse = await passage.cross(Stage.MODEL, self._handlers.model, request, call_next)
        return response

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        result: ToolResult = await call.run.state[PASSAGE].cross(Stage.TOOL, self._handlers.tool, call, call_next)
        return result


class Scene:
    """The executor. Use it as `async with opened(layer) as scene:`."""

    def __init__(self, layer: Layer | None, *, patience: float, opens: bool = True) -> None:
        self._watched = _Watched(layer, opens=opens)
        self.executor = AgentExecutor(_agent, middleware=[self._watched], limits=Limits(run=patience))

    async def run(self, passage: Passage, form: "Form") -> Told:
        """Run it in that form to its end; a failure is told, a cancellation is raised."""
        self._watched.passages[passage.number] = passage
        told = Told(streamed=form is not plain)
        try:
            await form(self.executor, passage, told)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller is told
            told.error = error
        return told


Form: TypeAlias = Callable[[AgentExecutor, Passage, Told], Awaitable[None]]


async def plain(executor: AgentExecutor, passage: Passage, told: Told) -> None:
    told.result = await executor.execute(passage.context, principal=passage.principal)


async def pushed(executor: AgentExecutor, passage: Passage, told: Told) -> None:
    send = _into(told)
    told.result = await executor.execute(passage.context, principal=passage.principal, emit=send)


async def taking_resets(executor: AgentExecutor, passage: Passage, told: Told) -> None:
    """Pushed, to a consumer that can take text back."""
    send = _into(told)
    told.result = await executor.execute(passage.context, principal=passage.principal, emit=send, allow_reset=True)


async def streamed(executor: AgentExecutor, passage: Passage, told: Told) -> None:
    stream = executor.stream(passage.context, principal=passage.principal)
    try:
        async with stream:
            async for event in stream:
                told.events.append(event)
    finally:
        told.result = _result(stream)


async def as_text(executor: AgentExecutor, passage: Passage, told: Told) -> None:
    texts = executor.execute_stream(passage.context, principal=passage.principal)
    try:
        async for text in texts:
            told.events.append(TextDelta(text=text))
    finally:
        await texts.aclose()
        told.result = _result(texts)


FORMS: Final[dict[str, Form]] = {
    "execute()": plain,
    "execute(emit=)": pushed,
    "stream()": streamed,
    "execute_stream()": as_text,
}


@asynccontextmanager
async def opened(layer: Layer | None, *, patience: float, opens: bool = True) -> AsyncGenerator[Scene]:
    """A scene in its lifespan. `opens` says whether it opens the layer too."""
    scene = Scene(layer, patience=patience, opens=opens)
    async with scene.executor:
        yield scene


@reaches(Stage.MODEL, Stage.TOOL)
async def _agent(context: AgentContext) -> AgentResult:
    return await context.run.state[PASSAGE].run(context)


async def _entered_run(context: AgentContext) -> Any:
    return await context.run.state[PASSAGE].enter(Stage.RUN, context)


async def _entered_call(value: ModelRequest | ToolCall) -> Any:
    stage = Stage.MODEL if isinstance(value, ModelRequest) else Stage.TOOL
    return await value.run.state[PASSAGE].enter(stage, value)


def _into(told: Told) -> Emit:
    async def send(event: StreamEvent) -> None:
        await checkpoint()
        told.events.append(event)

    return send


def _result(stream: Any) -> AgentResult | None:
    """The result; `None` of a run that a bug has ended, or that was left early."""
    try:
        result: AgentResult = stream.result
    except RuntimeError:
        return None
    return result


def _without_own(event: StreamEvent) -> StreamEvent:
    if isinstance(event, RunStarted):
        return msgspec.structs.replace(event, run_id="")
    if isinstance(event, RunCompleted):
        return RunCompleted(result=msgspec.structs.replace(event.result, **_OWN))
    return event
