"""The contract finds broken layers, and lets any kind of sound one pass."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import anyio
import pytest

from agent_runtime import (
    AgentContext,
    AgentFailed,
    AgentResult,
    BaseMiddleware,
    CallNext,
    Layer,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolResult,
)
from agent_runtime.testing import MiddlewareContract


class Buffers(BaseMiddleware):
    """Emits what it held back only after a success."""

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        held: list[StreamEvent] = []

        async def hold(event: StreamEvent) -> None:
            held.append(event)

        response = await call_next(request.replace(emit=hold))
        for event in reversed(held):
            await request.emit(event)
        return response


class Translates(BaseMiddleware):
    """Makes every error its own."""

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        try:
            return await call_next(call)
        except Exception as error:
            raise AgentFailed("the tool failed", result=None) from error


class RetriesAll(BaseMiddleware):
    """Calls again after whatever error."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except Exception:  # noqa: BLE001 - the fault under test
            return await call_next(context)


class SwallowsCancel(BaseMiddleware):
    """Answers a cancellation with an answer."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            return AgentResult(output="")


class Shields(BaseMiddleware):
    """Does not let what is inside know of a cancellation."""

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        with anyio.CancelScope(shield=True):
            return await call_next(call)
        raise AssertionError("nobody cancels this scope")


class KeepsTheRun(BaseMiddleware):
    """Keeps a run's state on the instance."""

    current: AgentContext

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def emit(event: StreamEvent) -> None:
            await self.current.emit(event)

        self.current = context
        return await call_next(context.replace(emit=emit))


class ChangesTheAnswer(BaseMiddleware):
    """Leaves the text alone and loses what else there is."""

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return ModelResponse.of((await call_next(request)).text)


PROMISES = [name for name in vars(MiddlewareContract) if name.startswith("test_")]


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (Buffers, {"events_and_result", "an_emit_that_raises"}),
        (Translates, {"an_error_it_does_not_own", "an_emit_that_raises"}),
        (RetriesAll, {"an_error_it_does_not_own", "an_emit_that_raises"}),
        (SwallowsCancel, {"cancelling_the_caller"}),
        (Shields, {"cancelling_the_caller"}),
        (KeepsTheRun, {"one_instance_serves"}),
        (ChangesTheAnswer, {"events_and_result", "one_instance_serves"}),
    ],
)
async def test_a_broken_layer_breaks_the_promises_that_it_breaks(
    mutant: Callable[[], BaseMiddleware], broken: set[str]
) -> None:
    class OfMutant(MiddlewareContract):
        def make(self) -> Layer:
            return mutant()

    found: set[str] = set()
    for promise in PROMISES:
        try:
            await getattr(OfMutant(), promise)()
        except* AssertionError:
            found.add(promise)
    expected = {promise for promise in PROMISES if promise.removeprefix("test_").startswith(tuple(broken))}
    assert len(expected) == len(broken)
    assert found == expected


class WholeLines(BaseMiddleware):
    """Holds text back until the model has said all of it."""

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        held: list[str] = []

        async def hold(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                held.append(event.text)
            else:
                await request.emit(event)

        response = await call_next(request.replace(emit=hold))
        await request.emit(TextDelta(text="".join(held)))
        return response


class TestALayerThatHoldsTextBack(MiddlewareContract):
    holds_text = True

    def make(self) -> Layer:
        return WholeLines()


async def test_a_layer_that_holds_text_back_gives_out_all_of_it_in_its_order() -> None:
    class OfBuffers(MiddlewareContract):
        holds_text = True

        def make(self) -> Layer:
            return Buffers()

    with pytest.raises(AssertionError, match="the model stage changed, lost or reordered events"):
        await OfBuffers().test_events_and_result_pass_unchanged_and_in_order()


class Connection(BaseMiddleware, AbstractAsyncContextManager["Connection", None]):
    """A layer with a resource."""

    def __init__(self) -> None:
        self.opened = self.open = False

    async def __aenter__(self) -> "Connection":
        self.opened = self.open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.open = False

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        assert self.open
        return await call_next(context)


async def test_a_layer_with_a_resource_is_opened_and_closed() -> None:
    layer = Connection()

    class OfConnection(MiddlewareContract):
        def make(self) -> Layer:
            return layer

    await OfConnection().test_events_and_result_pass_unchanged_and_in_order()
    assert layer.opened and not layer.open


class TestPipeline(MiddlewareContract):
    def make(self) -> Layer:
        return MiddlewarePipeline([Connection()], name="inside")


async def as_it_is(context: AgentContext, call_next: CallNext) -> AgentResult:
    return await call_next(context)


class TestFunction(MiddlewareContract):
    def make(self) -> Layer:
        return as_it_is
