"""The onion: how a list of layers becomes one handler per stage."""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any, Self, TypeAlias

import msgspec

from agent_runtime.context import AgentContext, ModelRequest, ToolCall
from agent_runtime.errors import ConfigurationError, error_type_of, safe_text, sole_error
from agent_runtime.events import EventType
from agent_runtime.layer import (
    CallNext,
    Conditional,
    FunctionLayer,
    ModelLayer,
    RunFunction,
    RunLayer,
    ToolLayer,
    layer_calls,
    layer_name,
)
from agent_runtime.lint import Finding, LayerKind, Placed, Stage, check, unreached
from agent_runtime.pipeline_file import read_layers
from agent_runtime.run import Handlers
from agent_runtime.types import ModelResponse, ToolResult, Value


class _Slot(Value, frozen=True, kw_only=True):
    """One layer at its place, with all the conditions it stands under."""

    name: str
    layer: Any
    calls: dict[Stage, Callable[..., Any]]
    conditions: tuple[Conditional, ...] = ()
    inside: tuple[str, ...] = ()
    declared: str = ""

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

    @classmethod
    def from_config(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],
        *,
        resources: Mapping[str, object] = {},
        name: str = "MiddlewarePipeline",
    ) -> Self:
        """The pipeline that a TOML or YAML file describes, or a mapping of the same form.

        Each entry of its `layers` has `use`, the name of an installed layer (see `load_plugin`), perhaps a `name` of its
        own, and the layer's options. Where an option takes an object, `{ resource = "name" }` stands for the one in
        `resources`; each of them is used. Nothing else is imported, looked up or run.

        Raises `ConfigurationError`, with file, line and layer, for everything that is wrong with it.
        """
        found = read_layers(source, resources)
        pipeline = cls((each.layer for each in found), name=name)
        pipeline._slots = [
            tuple(msgspec.structs.replace(slot, declared=each.where) for slot in slots)
            for each, slots in zip(found, pipeline._slots, strict=True)
        ]
        return pipeline

    def add(self, layer: "Layer", *, before: str | None = None, after: str | None = None) -> None:
        """Append `layer`, or put it next to the layer of that name (`LookupError` when there is none)."""
        self._refuse_when_sealed("add")
        if before is not None and after is not None:
            raise ValueError("add() takes before= or after=, not both")
        name = layer_name(layer)
        if any(layer_name(known) == name for known in self._layers):
            raise ValueError(
                f"the pipeline has a layer named {name!r} already; give one of them another name, with named()"
            )
        slots = tuple(self._slots_of(layer, (), ()))
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
            if layer_name(layer) == name:
                del self._layers[place], self._slots[place]
                self.version += 1
                return True
        return False

    def get(self, name: str) -> "Layer | None":
        """The layer of that name."""
        return next((layer for layer in self._layers if layer_name(layer) == name), None)

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
            kinds=self.kinds,
            needs_chunks=any(getattr(slot.layer, "needs_chunks", False) for slot in slots),
        )

    @property
    def kinds(self) -> frozenset[str]:
        """What the layers are for, nested ones included."""
        return frozenset(slot.kind for slot in self._flat())

    def resources(self) -> list[Any]:
        """The layers that are async context managers, each once, outermost first."""
        found: dict[int, Any] = {
            id(slot.layer): slot.layer for slot in self._flat() if hasattr(slot.layer, "__aenter__")
        }
        return list(found.values())

    def lint(self, stages: Iterable[Stage] = tuple(Stage)) -> list[Finding]:
        """Unsafe orders within a stage, and layers that an agent reaching only `stages` never runs."""
        slots = self._flat()
        findings = [finding for stage in Stage for finding in check(stage, self.layers(stage))]
        reached = {Stage.RUN, *stages}
        return findings + [unreached(min(s.calls), s.name) for s in slots if reached.isdisjoint(s.calls)]

    def explain(self, stages: Iterable[Stage] = tuple(Stage)) -> str:
        """The onion as text, stage by stage: every layer's name, kind, and where it comes from."""
        lines: list[str] = []
        for stage in stages:
            lines.append(f"{stage} stage")
            layers = self.layers(stage)
            lines += [f"  {'  ' * place}{_describe(layer)}" for place, layer in enumerate(layers)]
            lines.append(f"  {'  ' * len(layers)}= {_CORES[stage]}")
        return "\n".join(lines)

    def layers(self, stage: Stage) -> list[Placed]:
        """The layers that work at `stage`, the outermost first; those of nested pipelines in their place."""
        return [
            Placed(
                name=slot.name,
                kind=slot.kind,
                origin=_source(slot.layer),
                inside=slot.inside,
                declared=slot.declared,
            )
            for slot in self._flat()
            if stage in slot.calls
        ]

    @staticmethod
    def _slots_of(layer: Any, conditions: tuple[Conditional, ...], inside: tuple[str, ...]) -> Iterator[_Slot]:
        if isinstance(layer, MiddlewarePipeline):
            layer.seal()
            for slot in layer._flat():
                yield msgspec.structs.replace(
                    slot,
                    conditions=(*conditions, *slot.conditions),
                    inside=(*inside, layer.name, *slot.inside),
                )
        elif isinstance(layer, Conditional):
            yield from MiddlewarePipeline._slots_of(layer.layer, (*conditions, layer), (*inside, layer.name))
        else:
            yield _Slot(
                name=layer_name(layer), layer=layer, calls=layer_calls(layer), conditions=conditions, inside=inside
            )

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
            if layer_name(layer) == name:
                return place
        raise LookupError(
            f"the pipeline has no layer named {name!r}; it has {[layer_name(known) for known in self._layers]}"
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


def _describe(layer: Placed) -> str:
    inside = "".join(f", inside {name}" for name in layer.inside)
    declared = f", declared in {layer.declared}" if layer.declared else ""
    return f"{layer.name} ({layer.kind}) from {layer.origin}{inside}{declared}"


def _source(layer: Any) -> str:
    return _origin(layer.function if isinstance(layer, FunctionLayer) else layer)


def _origin(thing: Any) -> str:
    if not hasattr(thing, "__qualname__"):
        return _origin(type(thing))
    return f"{thing.__module__}.{thing.__qualname__}"


def _bind(
    process: Callable[[Any, Any], Awaitable[Any]], call_next: Callable[[Any], Any], name: str, stage: Stage
) -> Callable[[Any], Any]:
    async def handler(value: Any) -> Any:
        if value.run.closed:
            raise value.run.refusal()
        try:
            result = await process(value, call_next)
        except Exception as raised:
            error = sole_error(raised)
            await blame(value, error, name, stage)
            if error is raised:
                raise
            raise error from error.__cause__
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
