"""More layers that break one thing each: in a cancellation, with many runs at once, in what they leave behind."""

import threading
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentContext,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    StreamEvent,
    Suspended,
    ToolCall,
    ToolResult,
)

CallModel = CallNext[ModelRequest, ModelResponse]
CallTool = CallNext[ToolCall, ToolResult]


# Cancellation


class SwallowsCancel(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            return AgentResult(output="")


class SwallowsEverything(BaseMiddleware):
    """Tells the model of a cancelled tool, as of one that failed."""

    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        try:
            return await call_next(call)
        except Suspended:
            raise
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            return ToolResult(content="the tool failed", is_error=True)


class TranslatesCancel(BaseMiddleware):
    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        try:
            return await call_next(request)
        except anyio.get_cancelled_exc_class() as error:
            raise ProviderUnavailable("the call was cancelled") from error


class Shields(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        with anyio.CancelScope(shield=True):
            return await call_next(call)
        raise AssertionError("nobody cancels this scope")


class LeavesTheCallBehind(BaseMiddleware):
    """Makes the call in a task that outlives the run."""

    group: TaskGroup

    async def __aenter__(self) -> Self:
        self.group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.group.cancel_scope.cancel()
        await self.group.__aexit__(None, None, None)

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        ended = anyio.Event()
        outcome: list[ModelResponse | Exception] = []

        async def call() -> None:
            try:
                outcome.append(await call_next(request))
            except Exception as error:  # noqa: BLE001 - raised below
                outcome.append(error)
            finally:
                ended.set()

        self.group.start_soon(call)
        await ended.wait()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]


class CallsLater(BaseMiddleware):
    """Asks once more when it has answered, to know better the next time."""

    group: TaskGroup

    async def __aenter__(self) -> Self:
        self.group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.group.__aexit__(None, None, None)

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def refresh() -> None:
            with suppress(AgentRuntimeError):
                await call_next(context)

        result = await call_next(context)
        self.group.start_soon(refresh)
        return result


class BreaksWhenCancelled(BaseMiddleware):
    """Closes the connection that a cancelled run has used, and does not open another."""

    def __init__(self) -> None:
        self.closed = False

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if self.closed:
            raise ProviderUnavailable("closed")
        try:
            return await call_next(context)
        except anyio.get_cancelled_exc_class():
            self.closed = True
            raise


class StartsAllTheSame(BaseMiddleware):
    """Calls what is inside when it was cancelled before, in an await of its own that catches all."""

    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        try:
            await checkpoint()
        except BaseException:  # noqa: BLE001 - the fault
            pass
        with anyio.CancelScope(shield=True):
            return await call_next(call)
        raise AssertionError("nobody cancels this scope")


# Many runs


class KeepsTheRun(BaseMiddleware):
    current: AgentContext

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        async def emit(event: StreamEvent) -> None:
            await self.current.emit(event)

        self.current = context
        return await call_next(context.replace(emit=emit))


class KeepsTheAnswer(BaseMiddleware):
    """Passes the answer on by the instance."""

    answer: AgentResult

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.answer = await call_next(context)
        await checkpoint()
        return self.answer


class LetsInOneByOne(BaseMiddleware):
    def __init__(self) -> None:
        self.lock = anyio.Lock()

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        async with self.lock:
            return await call_next(request)


class SharesFailures(BaseMiddleware):
    """Has one of many equal questions answered for all, and fails them all with it."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[anyio.Event, list[ModelResponse]]] = {}

    async def process_model(self, request: ModelRequest, call_next: CallModel) -> ModelResponse:
        key = f"{request.step} {request.context.current_task}"
        if key in self.asked:
            ended, answers = self.asked[key]
            await ended.wait()
            if not answers:
                raise ProviderUnavailable("the other call failed")
            return answers[0]
        ended, answers = self.asked[key] = (anyio.Event(), [])
        try:
            answers.append(await call_next(request))
        finally:
            ended.set()
            del self.asked[key]
        return answers[0]


# What is left


class GrowsByUser(BaseMiddleware):
    def __init__(self) -> None:
        self.runs: dict[str, int] = {}

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.runs[context.user_id] = self.runs.get(context.user_id, 0) + 1
        return await call_next(context)


class KeepsWhatFailed(BaseMiddleware):
    """Forgets a run only when it succeeds; and keeps it on the class."""

    under_way: set[str] = set()  # noqa: RUF012 - the fault

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.under_way.add(context.run_id)
        result = await call_next(context)
        self.under_way.discard(context.run_id)
        return result


_asked: list[str] = []


class GrowsInItsModule(BaseMiddleware):
    async def process_tool(self, call: ToolCall, call_next: CallTool) -> ToolResult:
        _asked.append(call.context.current_task)
        return await call_next(call)


_user: ContextVar[str] = ContextVar("the user of a broken layer", default="")


class LeavesAContextVariable(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        _user.set(context.user_id)
        return await call_next(context)


class LeavesATask(BaseMiddleware):
    """Starts a task for each run, and ends them with its lifespan only."""

    group: TaskGroup

    async def __aenter__(self) -> Self:
        self.group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.group.cancel_scope.cancel()
        await self.group.__aexit__(None, None, None)

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.group.start_soon(anyio.sleep_forever)
        return await call_next(context)


class LeavesAThread(BaseMiddleware):
    """Its lifespan ends without the thread that it began with."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def __aenter__(self) -> Self:
        threading.Thread(target=self.ended.wait, args=(3,), daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


class OpensOnce(BaseMiddleware):
    def __init__(self) -> None:
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closed = True

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if self.closed:
            raise RuntimeError("closed")
        return await call_next(context)
