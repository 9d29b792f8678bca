"""Layers that break one thing each, as a careless author would. `MiddlewareContract` finds every one of them."""

from agent_runtime import (
    AgentContext,
    AgentFailed,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    ConsumerGone,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Reset,
    StreamEvent,
    Suspended,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)

CallModel = CallNext[ModelRequest, ModelResponse]
CallTool = CallNext[ToolCall, ToolResult]


async def drop(event: StreamEvent) -> None:
    pass


# What it gives


class AnswersStreamsDifferently(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        response = await call_next(request)
        return response.replace(finish_reason="length") if request.stream else response


class LooksAtTheEmit(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        return result if context.run.streaming else result.replace(data=None)


class DropsMessages(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return (await call_next(context)).replace(messages=())


class DropsUsage(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        return (await call_next(request)).replace(usage=Usage())


class CallsTwice(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        await call_next(call)
        return await call_next(call)


class RemembersAnswersInStreamsOnly(BaseMiddleware):
    """A cache of one answer that is not asked in plain runs."""

    def __init__(self) -> None:
        self.last: tuple[str, ModelResponse] | None = None

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        if request.step == 0:
            return await call_next(request)
        if self.last is None or self.last[0] != request.context.current_task or not request.stream:
            self.last = (request.context.current_task, await call_next(request))
        return self.last[1]


class ChangesArguments(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        call.arguments["where"].append("shed")
        return await call_next(call)


class RefusesStreamsOtherwise(BaseMiddleware):
    """Of a task that it refuses, it gives an answer to streams."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if "forbidden" not in context.current_task:
            return await call_next(context)
        if context.run.streaming:
            return AgentResult(output="This is forbidden.")
        raise KeyError("this is forbidden")


# Events


class ForgetsEmit(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        return await call_next(request.replace(emit=drop))


class DropsTheLastPiece(BaseMiddleware):
    """Is always one piece behind."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        held: list[StreamEvent] = []

        async def emit(event: StreamEvent) -> None:
            held.append(event)
            if len(held) > 1:
                await request.emit(held.pop(0))

        return await call_next(request.replace(emit=emit))


class Buffers(BaseMiddleware):
    """Emits what it held back only after a success, and backwards."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        held: list[StreamEvent] = []

        async def emit(event: StreamEvent) -> None:
            held.append(event)

        response = await call_next(request.replace(emit=emit))
        for event in reversed(held):
            await request.emit(event)
        return response


class EmitsAfterTheAnswer(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context)
        await context.emit(TextDelta(text=" (checked)", step=1))
        return result


class SwallowsReset(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def emit(event: StreamEvent) -> None:
            if not isinstance(event, Reset):
                await context.emit(event)

        return await call_next(context.replace(emit=emit))


class SaysWithdrawnText(BaseMiddleware):
    """Holds text back, and does not throw it away on a `Reset`."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        held: list[str] = []

        async def emit(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                held.append(event.text)
            else:
                await request.emit(event)

        response = await call_next(request.replace(emit=emit))
        await request.emit(TextDelta(text="".join(held), step=request.step))
        return response


# Errors


class TranslatesErrors(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        try:
            return await call_next(call)
        except KeyError as error:
            raise AgentFailed("the tool failed", result=None) from error


class ReturnsNone(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        try:
            return await call_next(call)
        except KeyError:
            return None  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # the fault


class HidesFailures(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except Exception as error:  # noqa: BLE001 - the fault
            return AgentResult(success=False, error=str(error))


class RetriesEverything(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        try:
            return await call_next(request)
        except Exception:  # noqa: BLE001 - the fault
            return await call_next(request)


class AnswersOutages(BaseMiddleware):
    """A fallback that does not say so."""

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        try:
            return await call_next(request)
        except ProviderUnavailable:
            return ModelResponse.of("Later, please.")


class TranslatesErrorsOfStreams(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except AgentRuntimeError as error:
            if context.run.streaming and error.retryable:
                raise ProviderUnavailable("the stream broke off") from error
            raise


class RetriesConsumerGone(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        try:
            return await call_next(request)
        except ConsumerGone:
            return await call_next(request)


class TranslatesConsumerGone(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ConsumerGone as error:
            raise ProviderUnavailable("the connection broke") from error


class HidesSuspended(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except Suspended:
            return AgentResult(output="Somebody will ask you.")


class RetriesSuspended(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        try:
            return await call_next(call)
        except Suspended:
            return await call_next(call)
