"""The onion: what a layer is, and how a list of layers becomes one handler per stage."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from time import perf_counter
from typing import Any, ClassVar, Protocol, TypeAlias

from typing_extensions import TypeVar

from agent_runtime.context import AgentContext, Handlers, ModelRequest, ToolCall
from agent_runtime.errors import ConfigurationError, error_type_of, safe_text
from agent_runtime.events import EventType
from agent_runtime.lint import Finding, LayerKind, Placed, Stage, check, unreached
from agent_runtime.types import AgentResult, ModelResponse, ToolResult, Value

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

    @property
    def name(self) -> str:
        """Unique in a pipeline; the class's name unless a subclass says otherwise."""
        return type(self).__name__

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


class _FunctionLayer:
    """A function marked for one of the inner stages."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = _name(function)
        self.function = function


class _ModelFunctionLayer(_FunctionLayer):
    def __init__(self, function: ModelFunction) -> None:
        super().__init__(function)
        self.process_model = function


class _ToolFunctionLayer(_FunctionLayer):
    def __init__(self, function: ToolLayerFunction) -> None:
        super().__init__(function)
        self.process_tool = function


def model_middleware(function: ModelFunction) -> ModelLayer:
    """Mark an async function of `(request, call_next)` as a layer around each model call."""
    return _ModelFunctionLayer(function)


def tool_middleware(function: ToolLayerFunction) -> ToolLayer:
    """Mark an async function of `(call, call_next)` as a layer around each tool call."""
    return _ToolFunctionLayer(function)


class Conditional:
    """A layer that works only in runs for which `predicate(context)` is true. Made by `when`."""

    def __init__(self, predicate: Callable[[AgentContext], bool], layer: "Layer") -> None:
        if inspect.iscoroutinefunction(predicate):
            raise TypeError("when(): the predicate is async, and its coroutine would always be true; make it sync")
        self.predicate = predicate
        self.layer = layer
        self.name = f"when({_name(predicate)}, {_name(layer)})"

    def applies(self, context: AgentContext) -> bool:
        """The predicate's answer; a predicate that raises counts as true, so that a broken one cannot open a door."""
        try:
            return bool(self.predicate(context))
        except Exception:  # noqa: BLE001 - whatever the user's predicate raises, the layer runs
            return True


class _Slot(Value, frozen=True, kw_only=True):
    """One layer at its place, with all the conditions it stands under."""

    name: str
    layer: Any
    calls: dict[Stage, Callable[..., Any]]
    conditions: tuple[Conditional, ...] = ()
    inside: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return getattr(self.layer, "kind", LayerKind.OTHER)


class MiddlewarePipeline:
    """An ordered list of layers; the first is the outermost. Itself a layer of another pipeline, which seals it.

    Names are unique: a second layer of one name is a `ValueError`. What is no layer is a `TypeError` that names it.
    """

    def __init__(self, layers: "Iterable[Layer]" = (), *, name: str = "MiddlewarePipeline") -> None:
        self.name = name
        self._layers: list[Layer] = []
        self._slots: list[tuple[_Slot, ...]] = []
        self._sealed = False
        self.version = 0
        for layer in layers:
            self.add(layer)

    def add(self, layer: "Layer", *, before: str | None = None, after: str | None = None) -> None:
        """Append `layer`, or put it next to the layer of that name (`LookupError` when there is none)."""
        self._refuse_when_sealed("add")
        if before is not None and after is not None:
            raise ValueError("add() takes before= or after=, not both")
        name = _name(layer)
        if any(_name(known) == name for known in self._layers):
            raise ValueError(f"the pipeline has a layer named {name!r} already; give one of them another name")
        slots = tuple(_slots(layer, (), ()))
        place = len(self._layers)
        if before is not None:
            place = self._place(before)
        if after is not None:
            place = self._place(after) + 1
        self._layers.insert(place, layer)
        self._slots.insert(place, slots)
        self.version += 1

    def remove(self, name: str) -> bool:
        """Take the layer of that name out; false when there is none."""
        self._refuse_when_sealed("remove")
        for place, layer in enumerate(self._layers):
            if _name(layer) == name:
                del self._layers[place], self._slots[place]
                self.version += 1
                return True
        return False

    def get(self, name: str) -> "Layer | None":
        """The layer of that name."""
        return next((layer for layer in self._layers if _name(layer) == name), None)

    def clear(self) -> None:
        """Take all layers out."""
        self._refuse_when_sealed("clear")
        self._layers.clear()
        self._slots.clear()
        self.version += 1

    def seal(self) -> None:
        """Forbid every later change."""
        self._sealed = True

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> "Iterator[Layer]":
        return iter(tuple(self._layers))

    def compile(
        self,
        run: CallNext,
        model: CallNext[ModelRequest, ModelResponse],
        tool: CallNext[ToolCall, ToolResult],
        *,
        observe: bool = False,
    ) -> Handlers:
        """Bind the layers around the three innermost handlers, once. `observe` publishes what each layer took."""
        slots = self._flat()
        return Handlers(
            run=self._chain(Stage.RUN, run, observe=observe),
            model=self._chain(Stage.MODEL, model, observe=observe),
            tool=self._chain(Stage.TOOL, tool, observe=observe),
            kinds=frozenset(slot.kind for slot in slots),
            needs_chunks=any(getattr(slot.layer, "needs_chunks", False) for slot in slots),
        )

    def resources(self) -> list[Any]:
        """The layers that are async context managers, each once, outermost first."""
        found: dict[int, Any] = {
            id(slot.layer): slot.layer for slot in self._flat() if hasattr(slot.layer, "__aenter__")
        }
        return list(found.values())

    def lint(self, stages: Iterable[Stage] = tuple(Stage)) -> list[Finding]:
        """Unsafe orders within a stage, and layers that an agent reaching only `stages` never runs."""
        slots = self._flat()
        findings = [
            finding
            for stage in Stage
            for finding in check(stage, [Placed(name=s.name, kind=s.kind) for s in slots if stage in s.calls])
        ]
        reached = {Stage.RUN, *stages}
        return findings + [unreached(min(s.calls), s.name) for s in slots if reached.isdisjoint(s.calls)]

    def explain(self) -> str:
        """The onion as text, stage by stage: every layer's name, kind, and where it comes from."""
        lines: list[str] = []
        for stage in Stage:
            lines.append(f"{stage} stage")
            slots = [slot for slot in self._flat() if stage in slot.calls]
            lines += [f"  {'  ' * place}{_describe(slot)}" for place, slot in enumerate(slots)]
            lines.append(f"  {'  ' * len(slots)}= {_CORES[stage]}")
        return "\n".join(lines)

    def _flat(self) -> list[_Slot]:
        return [slot for slots in self._slots for slot in slots]

    def _chain(self, stage: Stage, innermost: Callable[[Any], Any], *, observe: bool) -> Callable[[Any], Any]:
        bind = _bind_observed if observe else _bind
        handler = innermost
        for slot in reversed(self._flat()):
            if stage in slot.calls:
                layer = bind(slot.calls[stage], handler, slot.name, stage)
                handler = _only_when(slot.conditions, layer, handler) if slot.conditions else layer
        return handler

    def _place(self, name: str) -> int:
        for place, layer in enumerate(self._layers):
            if _name(layer) == name:
                return place
        raise LookupError(
            f"the pipeline has no layer named {name!r}; it has {[_name(known) for known in self._layers]}"
        )

    def _refuse_when_sealed(self, what: str) -> None:
        if self._sealed:
            raise ConfigurationError(f"{self.name} is sealed: {what}() is refused; build a new pipeline instead")


Layer: TypeAlias = RunLayer | ModelLayer | ToolLayer | RunFunction | MiddlewarePipeline | Conditional


def when(predicate: Callable[[AgentContext], bool], layer: Layer) -> Conditional:
    """`layer`, only in runs whose context makes `predicate` true; a predicate that raises counts as true.

    The predicate is asked at each stage where the layer works, with the context as it is there.
    """
    return Conditional(predicate, layer)


_CORES = {Stage.RUN: "the agent", Stage.MODEL: "the model client", Stage.TOOL: "the tool"}


def _name(layer: object) -> str:
    name = getattr(layer, "name", None) or getattr(layer, "__name__", None)
    return name if isinstance(name, str) else type(layer).__name__


def _describe(slot: _Slot) -> str:
    source = slot.layer.function if isinstance(slot.layer, _FunctionLayer) else slot.layer
    inside = "".join(f", inside {name}" for name in slot.inside)
    return f"{slot.name} ({slot.kind}) from {_origin(source)}{inside}"


def _origin(thing: Any) -> str:
    if not hasattr(thing, "__qualname__"):
        return _origin(type(thing))
    return f"{thing.__module__}.{thing.__qualname__}"


def _slots(layer: Any, conditions: tuple[Conditional, ...], inside: tuple[str, ...]) -> Iterator[_Slot]:
    if isinstance(layer, MiddlewarePipeline):
        layer.seal()
        for child in layer:
            yield from _slots(child, conditions, (*inside, layer.name))
    elif isinstance(layer, Conditional):
        yield from _slots(layer.layer, (*conditions, layer), (*inside, layer.name))
    else:
        yield _Slot(name=_name(layer), layer=layer, calls=_calls(layer), conditions=conditions, inside=inside)


def _calls(layer: Any) -> dict[Stage, Callable[..., Any]]:
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
    where = f"{_name(layer)}.{method}" if method else _name(layer)
    function = call if inspect.isroutine(call) else type(call).__call__
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{where} is not an `async def`; a layer is one coroutine of (context, call_next)")
    try:
        inspect.signature(call).bind(None, None)
    except TypeError as error:
        raise TypeError(f"{where} must take (context, call_next): {error}") from None
    checked: Callable[..., Any] = call
    return checked


def _bind(
    process: Callable[[Any, Any], Awaitable[Any]], call_next: Callable[[Any], Any], name: str, stage: Stage
) -> Callable[[Any], Any]:
    async def handler(value: Any) -> Any:
        if value.run.closed:
            raise value.run.refusal()
        try:
            result = await process(value, call_next)
        except Exception as error:
            await blame(value, error, name, stage)
            raise
        if result is None:
            raise TypeError(f"layer {name!r} returned None from its {stage} stage; return the result of call_next")
        return result

    return handler


def _bind_observed(
    process: Callable[[Any, Any], Awaitable[Any]], call_next: Callable[[Any], Any], name: str, stage: Stage
) -> Callable[[Any], Any]:
    handler = _bind(process, call_next, name, stage)

    async def observed(value: Any) -> Any:
        started = perf_counter()
        try:
            return await handler(value)
        finally:
            context = value if isinstance(value, AgentContext) else value.context
            await context.publish(
                EventType.MIDDLEWARE_EXECUTED,
                execution_time_ms=(perf_counter() - started) * 1000.0,
                metadata={"middleware": name, "stage": stage},
            )

    return observed


async def blame(value: Any, error: Exception, name: str, stage: Stage) -> None:
    """Publish that layer `name` raised `error`, once per error: the layers it passes through are not blamed."""
    context: AgentContext = value if isinstance(value, AgentContext) else value.context
    if context.run.failure is error:
        return
    context.run.failure = error
    await context.publish(
        EventType.MIDDLEWARE_FAILED,
        error_type=error_type_of(error),
        error_message=safe_text(error),
        metadata={"middleware": name, "stage": stage},
    )


def _only_when(
    conditions: tuple[Conditional, ...], layer: Callable[[Any], Any], call_next: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    def handler(value: Any) -> Any:
        context = value if isinstance(value, AgentContext) else value.context
        return layer(value) if all(condition.applies(context) for condition in conditions) else call_next(value)

    return handler
