import re
from functools import partial
from typing import Any

import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    EventBus,
    EventType,
    LayerKind,
    Message,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Stage,
    SystemEvent,
    ToolCall,
    ToolResult,
    model_middleware,
    reaches,
    tool_middleware,
    when,
)
from agent_runtime.testing import ScriptedLLMClient

ASKED = AgentContext(user_id="ann", current_task="hello")


class Marking(BaseMiddleware):
    """Writes its name at every stage."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name = name
        self.told = told

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.told.append(f"{self.name} run")
        return await call_next(context)

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        self.told.append(f"{self.name} model")
        return await call_next(request)

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        self.told.append(f"{self.name} tool")
        return await call_next(call)


def marks(name: str) -> Marking:
    return Marking(name, [])


@reaches(Stage.MODEL, Stage.TOOL)
async def agent(context: AgentContext) -> str:
    async def tool(call: ToolCall) -> ToolResult:
        return ToolResult(content=call.name)

    request = ModelRequest(messages=(Message(role="user", content=context.current_task),))
    response = await context.call_model(request, ScriptedLLMClient(["answer"]))
    result = await context.call_tool(ToolCall(id="1", name="probe"), tool)
    return f"{response.text} {result.content}"


async def test_layers_work_at_every_stage_from_the_outside_in() -> None:
    told: list[str] = []
    layers = [Marking("a", told), Marking("b", told)]
    result = await AgentExecutor(agent, middleware=layers).execute(ASKED)
    assert result.output == "answer probe"
    assert told == ["a run", "b run", "a model", "b model", "a tool", "b tool"]


async def test_the_base_class_passes_everything_on_and_is_compiled_in_nowhere_it_adds_nothing() -> None:
    class Untouched(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await super().process(context, call_next)

        async def process_model(
            self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
        ) -> ModelResponse:
            return await super().process_model(request, call_next)

        async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
            return await super().process_tool(call, call_next)

    assert (await AgentExecutor(agent, middleware=[Untouched()]).execute(ASKED)).output == "answer probe"
    with pytest.raises(TypeError, match="is no layer"):
        MiddlewarePipeline([BaseMiddleware()])


def test_add_puts_a_layer_next_to_another() -> None:
    pipeline = MiddlewarePipeline([marks("b")])
    pipeline.add(marks("a"), before="b")
    pipeline.add(marks("c"), after="b")
    assert [layer.name for layer in pipeline if isinstance(layer, Marking)] == ["a", "b", "c"]
    assert pipeline.get("c") is not None and pipeline.get("d") is None
    with pytest.raises(ValueError, match="not both"):
        pipeline.add(marks("d"), before="a", after="b")
    with pytest.raises(LookupError, match=r"no layer named 'x'; it has \['a', 'b', 'c'\]"):
        pipeline.add(marks("d"), before="x")
    with pytest.raises(ValueError, match="named 'a' already"):
        pipeline.add(marks("a"))
    assert len(pipeline) == 3


def test_remove_and_clear_say_what_they_did() -> None:
    pipeline = MiddlewarePipeline([marks("a"), marks("b")])
    assert (pipeline.remove("a"), pipeline.remove("a")) == (True, False)
    pipeline.clear()
    assert len(pipeline) == 0


def test_a_sealed_pipeline_does_not_change() -> None:
    pipeline = MiddlewarePipeline([marks("a")], name="sealed one")
    pipeline.seal()
    for change in (partial(pipeline.add, marks("b")), partial(pipeline.remove, "a"), pipeline.clear):
        with pytest.raises(ConfigurationError, match="sealed one is sealed"):
            change()
    assert len(pipeline) == 1


def test_a_pipeline_inside_another_is_sealed() -> None:
    inner = MiddlewarePipeline([marks("a")])
    MiddlewarePipeline([inner])
    with pytest.raises(ConfigurationError):
        inner.add(marks("b"))


def test_explain_shows_each_stage_and_where_a_layer_comes_from() -> None:
    @model_middleware
    async def model_only(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        return await call_next(request)

    async def function(context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)

    def anyone(context: AgentContext) -> bool:
        return True

    pipeline = MiddlewarePipeline([MiddlewarePipeline([function], name="inner"), when(anyone, model_only)])
    here = f"{__name__}.test_explain_shows_each_stage_and_where_a_layer_comes_from.<locals>"
    assert pipeline.explain() == "\n".join(
        [
            "run stage",
            f"  function (other) from {here}.function, inside inner",
            "    = the agent",
            "model stage",
            f"  model_only (other) from {here}.model_only, inside when(anyone, model_only)",
            "    = the model client",
            "tool stage",
            "  = the tool",
        ]
    )


def test_a_layer_object_without_a_name_is_named_by_its_class() -> None:
    class Plain:
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    class Callable_:
        async def __call__(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    pipeline = MiddlewarePipeline([Plain(), Callable_()])
    assert pipeline.get("Plain") is not None
    assert f"Callable_ (other) from {__name__}." in pipeline.explain()


class Sync:
    def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult()


def sync(context: AgentContext, call_next: CallNext) -> AgentResult:
    return AgentResult()


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Marking, "Marking is a class; put an instance"),
        (object(), "is no layer"),
        (sync, "sync is not an `async def`"),
        (Sync(), "Sync.process is not an `async def`"),
    ],
)
def test_what_is_no_layer_is_refused_by_name(layer: Any, text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        MiddlewarePipeline([layer])


def test_a_layer_with_other_parameters_is_refused() -> None:
    async def one(context: AgentContext) -> AgentResult:
        return AgentResult()

    with pytest.raises(TypeError, match=r"one must take \(context, call_next\)"):
        MiddlewarePipeline([one])  # type: ignore[list-item]  # what is tested
    with pytest.raises(TypeError, match="predicate is async"):
        when(one, marks("a"))  # type: ignore[arg-type]  # what is tested


async def nothing(value: Any, call_next: Any) -> Any:
    await call_next(value)


@pytest.mark.parametrize(
    ("layer", "stage"), [(nothing, "run"), (model_middleware(nothing), "model"), (tool_middleware(nothing), "tool")]
)
async def test_a_layer_that_returns_nothing_is_named(layer: Any, stage: str) -> None:
    with pytest.raises(TypeError, match=f"layer 'nothing' returned None from its {stage} stage"):
        await AgentExecutor(agent, middleware=[layer]).execute(ASKED)


async def test_a_condition_is_asked_at_the_stage_where_its_layer_works() -> None:
    told: list[str] = []

    def chosen(context: AgentContext) -> bool:
        return str(context.metadata["layers"]) == "on"

    executor = AgentExecutor(agent, middleware=[when(chosen, Marking("a", told))])
    asked = AgentContext(user_id="ann", current_task="x", metadata={"layers": "off"})
    await executor.execute(asked)
    assert told == []
    await executor.execute(asked.replace(metadata={"layers": "on"}))
    await executor.execute(asked.replace(metadata={}))  # it raises: the layer runs
    assert told == ["a run", "a model", "a tool"] * 2


def test_a_layer_under_two_names_fits_twice() -> None:
    layer = marks("a")
    pipeline = MiddlewarePipeline([layer.named("one"), layer.named("two")])
    assert len(pipeline) == 2


async def told_by(layers: list[Any], wanted: EventType) -> list[SystemEvent]:
    heard: list[SystemEvent] = []

    async def hear(event: SystemEvent) -> None:
        heard.append(event)

    async with EventBus() as bus:
        await bus.subscribe(wanted, hear)
        await AgentExecutor(agent, middleware=layers, event_bus=bus).execute(ASKED)
        await bus.drain()
    return heard


async def test_what_each_layer_took_is_told_to_who_asks() -> None:
    heard = await told_by([marks("a"), when(lambda context: True, marks("b"))], EventType.MIDDLEWARE_EXECUTED)
    assert [(event.metadata["middleware"], event.metadata["stage"]) for event in heard] == [
        ("b", "model"),
        ("a", "model"),
        ("b", "tool"),
        ("a", "tool"),
        ("b", "run"),
        ("a", "run"),
    ]
    assert all(event.execution_time_ms is not None and event.execution_time_ms >= 0 for event in heard)


async def test_only_the_layer_that_raised_is_blamed() -> None:
    @model_middleware
    async def breaks(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
        raise ProviderUnavailable("down")

    [blamed] = await told_by([marks("outer"), breaks], EventType.MIDDLEWARE_FAILED)
    assert blamed.metadata == {"middleware": "breaks", "stage": Stage.MODEL}
    assert (blamed.error_type, blamed.error_message) == ("provider", "down")


def test_kinds_and_resources_see_through_nesting_and_conditions() -> None:
    class Auth(Marking):
        kind = LayerKind.AUTH

        async def __aenter__(self) -> "Auth":
            return self

        async def __aexit__(self, *error: object) -> None:
            pass

    auth = Auth("auth", [])
    pipeline = MiddlewarePipeline([MiddlewarePipeline([when(lambda context: True, auth)]), auth])
    assert pipeline.kinds == {LayerKind.AUTH}
    assert pipeline.resources() == [auth]
