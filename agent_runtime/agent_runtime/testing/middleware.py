"""What every layer promises when it has nothing to do."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar, TypeAlias

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from agent_runtime.context import AgentContext, ModelRequest, ToolCall
from agent_runtime.edge import PLAIN
from agent_runtime.errors import ConsumerGone
from agent_runtime.ids import new_id
from agent_runtime.limits import Limits
from agent_runtime.lint import Stage
from agent_runtime.pipeline import Layer, MiddlewarePipeline
from agent_runtime.run import Run
from agent_runtime.stream import Emit, StreamEvent, TextDelta
from agent_runtime.types import AgentResult, Message, ModelResponse, Principal, ToolResult, Usage

Inner: TypeAlias = Callable[[Emit], Awaitable[str]]
"""What is inside the layer: it may emit, and gives the answer's text."""


class MiddlewareContract:
    """Subclass it with a name that starts with `Test`, implement `make`, and pytest runs the promises below.

    Each holds at the run, the model and the tool stage. Needs anyio's pytest plugin with `anyio_mode = "auto"`.

    Attributes:
        holds_text: Set it to true for a layer that holds text back, to look at whole words for instance: it may then cut
            the text into other pieces, and gives out all of it before it returns.
    """

    holds_text: ClassVar[bool] = False

    @abstractmethod
    def make(self) -> Layer:
        """A layer configured so that a healthy, quick run of an authenticated user passes through it."""

    def context(self) -> AgentContext:
        """The context of those runs; override it for a layer that wants more."""
        return AgentContext(agent_id="contract", user_id="user", current_task="Say it.")

    async def test_events_and_result_pass_unchanged_and_in_order(self) -> None:
        events = [TextDelta(text="a"), TextDelta(text="b"), TextDelta(text="c", step=1)]

        async def inner(emit: Emit) -> str:
            for event in events:
                await emit(event)
            return "abc"

        async with self._passage() as passage:
            for stage in Stage:
                seen: list[StreamEvent] = []
                answer = await passage.call(stage, inner, _into(seen))
                assert answer == _answer(stage, "abc"), f"the {stage} stage changed the answer"
                assert self._told(seen) == self._told(events), f"the {stage} stage changed, lost or reordered events"

    async def test_an_error_it_does_not_own_leaves_at_once_as_the_same_object(self) -> None:
        calls = 0

        async def inner(emit: Emit) -> str:
            nonlocal calls
            calls += 1
            raise boom

        async with self._passage() as passage:
            for stage in Stage:
                boom, calls = KeyError("not yours"), 0
                raised = await _error_of(passage.call(stage, inner, _into([])))
                assert raised is boom, f"the {stage} stage gave {raised!r} for an error that is not the layer's"
                assert calls == 1, f"the {stage} stage made the call {calls} times"

    async def test_an_emit_that_raises_ends_the_call_with_its_error(self) -> None:
        calls = 0

        async def inner(emit: Emit) -> str:
            nonlocal calls
            calls += 1
            await emit(TextDelta(text="a"))
            await emit(TextDelta(text="b"))
            return "ab"

        async def emit(event: StreamEvent) -> None:
            seen.append(event)
            if self.holds_text or len(seen) == 2:
                raise gone

        async with self._passage() as passage:
            for stage in Stage:
                gone, calls = ConsumerGone("the receiver went away"), 0
                seen: list[StreamEvent] = []
                raised = await _error_of(passage.call(stage, inner, emit))
                assert raised is gone, f"the {stage} stage gave {raised!r} for the error of emit"
                assert calls == 1, f"the {stage} stage made the call {calls} times"
                assert self.holds_text or seen == [TextDelta(text="a"), TextDelta(text="b")], (
                    f"the {stage} stage held events back"
                )

    async def test_cancelling_the_caller_cancels_inner_at_once(self) -> None:
        finished = False

        async def inner(emit: Emit) -> str:
            nonlocal finished
            scope.cancel()
            await anyio.sleep(1)
            finished = True
            return "too late"

        async with self._passage() as passage:
            for stage in Stage:
                finished = False
                with anyio.CancelScope() as scope:
                    await passage.call(stage, inner, _into([]))
                assert not finished, f"the {stage} stage kept a cancellation from what is inside"
                assert scope.cancelled_caught, f"the {stage} stage swallowed a cancellation"

    async def test_one_instance_serves_many_runs_and_two_pipelines_at_once(self) -> None:
        async def run(passage: "_Passage", stage: Stage, text: str) -> None:
            async def inner(emit: Emit) -> str:
                await checkpoint()
                await emit(TextDelta(text=text))
                await checkpoint()
                return text

            seen: list[StreamEvent] = []
            answer = await passage.call(stage, inner, _into(seen))
            assert answer == _answer(stage, text), f"the {stage} stage mixed up answers"
            assert self._told(seen) == self._told([TextDelta(text=text)]), f"the {stage} stage mixed up events"

        async with self._passage() as passage, anyio.create_task_group() as group:
            for n in range(20):
                for pipeline in (passage, passage.other()):
                    for stage in Stage:
                        group.start_soon(run, pipeline, stage, f"{stage} {n}")

    def _told(self, events: Sequence[StreamEvent]) -> object:
        """What of `events` is the same behind the layer."""
        if not self.holds_text:
            return events
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    @asynccontextmanager
    async def _passage(self) -> AsyncGenerator["_Passage"]:
        passage = _Passage(self.make(), self.context())
        async with AsyncExitStack() as stack:
            for resource in passage.pipeline.resources():
                await stack.enter_async_context(resource)
            yield passage


class _Passage:
    """One layer in a pipeline of its own; each call is a run of its own."""

    def __init__(self, layer: Layer, context: AgentContext) -> None:
        self.pipeline = MiddlewarePipeline([layer])
        self._layer = layer
        self._context = context

    def other(self) -> "_Passage":
        return _Passage(self._layer, self._context)

    async def call(self, stage: Stage, inner: Inner, emit: Emit) -> object:
        """What leaves the layer; compare it with `_answer`."""

        async def run(context: AgentContext) -> AgentResult:
            return AgentResult(output=await inner(context.emit), usage=_USAGE)

        async def model(request: ModelRequest) -> ModelResponse:
            return ModelResponse.of(await inner(request.emit), usage=_USAGE)

        async def tool(call: ToolCall) -> ToolResult:
            return ToolResult(content=await inner(call.context.emit))

        handlers = self.pipeline.compile(run, model, tool)
        cell = Run(new_id(), handlers=handlers, limits=Limits(), bus=None, edge=PLAIN, scope=anyio.CancelScope())
        cell.authenticated(Principal(subject=self._context.user_id, tenant=self._context.tenant_id))
        context = msgspec.structs.replace(self._context, run=cell, run_id=cell.run_id, emit=emit)
        if stage is Stage.RUN:
            return (await handlers.run(context)).to_record()
        if stage is Stage.MODEL:
            messages = (Message(role="user", content=context.current_task),)
            return await handlers.model(ModelRequest(messages=messages, stream=True, context=context, emit=emit))
        return await handlers.tool(ToolCall(id="call", name="probe", context=context))


_USAGE = Usage(input_tokens=3, output_tokens=2, requests=1)


def _answer(stage: Stage, text: str) -> object:
    """What an untouched answer of `text` is."""
    if stage is Stage.RUN:
        return AgentResult(output=text, usage=_USAGE).to_record()
    return ModelResponse.of(text, usage=_USAGE) if stage is Stage.MODEL else ToolResult(content=text)


def _into(events: list[StreamEvent]) -> Emit:
    async def emit(event: StreamEvent) -> None:
        events.append(event)

    return emit


async def _error_of(answer: Awaitable[object]) -> Exception | None:
    try:
        await answer
    except Exception as error:  # noqa: BLE001 - which error it is, is what the caller asks
        return error
    return None
