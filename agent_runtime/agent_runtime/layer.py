"""What a layer is."""

import inspect
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, ClassVar, Protocol, Self, TypeAlias

from typing_extensions import TypeVar

from agent_runtime.context import AgentContext, ModelRequest, ToolCall
from agent_runtime.lint import LayerKind, Stage
from agent_runtime.types import AgentResult, ModelResponse, ToolResult

In = TypeVar("In", default=AgentContext)
Out = TypeVar("Out", default=AgentResult)
CallNext: TypeAlias = Callable[[In], Awaitable[Out]]

METHODS = {Stage.RUN: "process", Stage.MODEL: "process_model", Stage.TOOL: "process_tool"}


class BaseMiddleware:
    """A layer. Override what is needed; only the overridden stages are compiled in, the others cost nothing.

    Code before `await call_next(...)` runs on the way in, code after it on the way out, after the last chunk of a streamed
    run too. Return without calling it to answer yourself; call it again to retry; pass on `context.replace(...)` to change
    the input and return `result.replace(...)` to change the output. An instance holds no state of a run: it serves any
    number of pipelines and runs at once.
    """

    kind: ClassVar[LayerKind] = LayerKind.OTHER
    needs_chunks: bool = False
    _name: str | None = None

    @property
    def name(self) -> str:
        """Unique in a pipeline; the class's name unless `named` or a subclass says otherwise."""
        return self._name or type(self).__name__

    def named(self, name: str) -> Self:
        """A copy under another name: two layers of one class fit into one pipeline."""
        layer = copy(self)
        layer._name = name
        return layer

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        """Around the run."""
        return await call_next(context)

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        """Around each model call."""
        return await call_next(request)

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        """Around each tool call."""
        return await call_next(call)


class RunLayer(Protocol):
    """Anything that works around the run."""

    def process(self, context: AgentContext, call_next: CallNext, /) -> Awaitable[AgentResult]: ...


class ModelLayer(Protocol):
    """Anything that works around each model call."""

    def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse], /
    ) -> Awaitable[ModelResponse]: ...


class ToolLayer(Protocol):
    """Anything that works around each tool call."""

    def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult], /) -> Awaitable[ToolResult]: ...


RunFunction: TypeAlias = Callable[[AgentContext, CallNext], Awaitable[AgentResult]]
ModelFunction: TypeAlias = Callable[[ModelRequest, CallNext[ModelRequest, ModelResponse]], Awaitable[ModelResponse]]
ToolLayerFunction: TypeAlias = Callable[[ToolCall, CallNext[ToolCall, ToolResult]], Awaitable[ToolResult]]


class FunctionLayer:
    """A function marked for one of the inner stages."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = layer_name(function)
        self.function = function


class ModelFunctionLayer(FunctionLayer):
    def __init__(self, function: ModelFunction) -> None:
        super().__init__(function)
        self.process_model = function


class ToolFunctionLayer(FunctionLayer):
    def __init__(self, function: ToolLayerFunction) -> None:
        super().__init__(function)
        self.process_tool = function


def model_middleware(function: ModelFunction) -> ModelLayer:
    """Mark an async function of `(request, call_next)` as a layer around each model call."""
    return ModelFunctionLayer(function)


def tool_middleware(function: ToolLayerFunction) -> ToolLayer:
    """Mark an async function of `(call, call_next)` as a layer around each tool call."""
    return ToolFunctionLayer(function)


class Conditional:
    """A layer that works only in runs for which `predicate(context)` is true. Made by `when`."""

    def __init__(self, predicate: Callable[[AgentContext], bool], layer: object) -> None:
        if inspect.iscoroutinefunction(predicate):
            raise TypeError("when(): the predicate is async, and its coroutine would always be true; make it sync")
        self.predicate = predicate
        self.layer = layer
        self.name = f"when({layer_name(predicate)}, {layer_name(layer)})"

    def applies(self, context: AgentContext) -> bool:
        """The predicate's answer; a predicate that raises counts as true, so that a broken one cannot open a door."""
        try:
            return bool(self.predicate(context))
        except Exception:  # noqa: BLE001 - whatever the user's predicate raises, the layer runs
            return True


def layer_name(layer: object) -> str:
    name = getattr(layer, "name", None) or getattr(layer, "__name__", None)
    return name if isinstance(name, str) else type(layer).__name__


def layer_stages(layer: object) -> tuple[Stage, ...]:
    """The stages that a layer's class can work at: those whose method it has, or overrides."""
    return tuple(
        stage
        for stage, method in METHODS.items()
        if getattr(layer, method, None) not in (None, getattr(BaseMiddleware, method))
    )


def layer_calls(layer: Any) -> dict[Stage, Callable[..., Any]]:
    """Which stages `layer` works at, and by which function; a `TypeError` when it is no layer."""
    if inspect.isclass(layer):
        raise TypeError(f"{layer.__name__} is a class; put an instance into the pipeline: {layer.__name__}(...)")
    calls: dict[Stage, Callable[..., Any]] = {}
    for stage, method in METHODS.items():
        call = getattr(layer, method, None)
        if call is not None and getattr(call, "__func__", None) is not getattr(BaseMiddleware, method):
            calls[stage] = _checked(layer, method, call)
    if not calls and callable(layer) and not isinstance(layer, BaseMiddleware):
        calls[Stage.RUN] = _checked(layer, "", layer)
    if not calls:
        raise TypeError(
            f"{layer!r} is no layer: it needs an async process(context, call_next), process_model or process_tool, "
            "or must be an async callable of (context, call_next)"
        )
    return calls


def _checked(layer: Any, method: str, call: Any) -> Callable[..., Any]:
    where = f"{layer_name(layer)}.{method}" if method else layer_name(layer)
    function = call if inspect.isroutine(call) else type(call).__call__
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{where} is not an `async def`; a layer is one coroutine of (context, call_next)")
    try:
        inspect.signature(call).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{where} must take (context, call_next): {error}") from None
    checked: Callable[..., Any] = call
    return checked
