"""SingleFlightMiddleware: callers of one question share one call, and nothing is kept of it."""

from itertools import pairwise
from typing import Any, Literal

import anyio
import pytest
from tests.stores.caching import ASKED, Listener

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    ConfigurationError,
    EventBus,
    EventType,
    MiddlewarePipeline,
    ModelRequest,
    ProviderUnavailable,
    RunTimeout,
    Stage,
    SystemEvent,
    Usage,
    reaches,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.single_flight import SingleFlightMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

LATE = ScriptedReply(text="Here.", delay=0.05, usage=Usage(input_tokens=9))


class Scene:
    """An executor around one layer, and what became of its callers."""

    def __init__(self, *script: Any, tools: Any = (), outside: Any = (), bus: EventBus | None = None, **options: Any):
        self.client = ScriptedLLMClient(script, repeat=True)
        self.layer = SingleFlightMiddleware(**options)
        self.executor = AgentExecutor(
            config=AgentConfig(name="support", retry_attempts=1),
            llm_client=self.client,
            tools=tools,
            middleware=[*outside, self.layer],
            event_bus=bus,
        )
        self.results: list[AgentResult] = []

    async def ask(self, context: AgentContext = ASKED, listener: Listener | None = None) -> None:
        self.results.append(await self.executor.execute(context, emit=listener))

    async def ask_at_once(self, *contexts: AgentContext, times: int = 1) -> None:
        async with anyio.create_task_group() as group:
            for context in contexts * times:
                group.start_soon(self.ask, context)

    @property
    def served_by(self) -> list[str]:
        return sorted(result.served_by for result in self.results)


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_callers_of_one_question_share_one_call_and_one_pays(stage: Literal["model", "run"]) -> None:
    scene = Scene(LATE, stage=stage)
    await scene.ask_at_once(ASKED, times=5)
    assert scene.client.calls == 1 and scene.served_by == ["agent", *["cache"] * 4]
    assert {result.output for result in scene.results} == {"Here."}
    assert sorted(result.usage.input_tokens for result in scene.results) == [0, 0, 0, 0, 9]
    await scene.ask()
    assert scene.client.calls == 2


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_the_others_are_told_the_answer_as_one_piece(stage: Literal["model", "run"]) -> None:
    scene = Scene(ScriptedReply(chunks=("He", 0.05, "re.")), stage=stage)
    listeners = [Listener() for _ in range(3)]
    async with anyio.create_task_group() as group:
        for listener in listeners:
            group.start_soon(scene.ask, ASKED, listener)
    assert sorted(listener.texts for listener in listeners) == [["He", "re."], ["Here."], ["Here."]]


@pytest.mark.parametrize(("share", "calls"), [("user", 4), ("tenant", 3), ("everyone", 1)])
async def test_whose_questions_are_one_is_said(share: Any, calls: int) -> None:
    scene = Scene(LATE, share=share)
    ann = ASKED.replace(tenant_id="acme")
    await scene.ask_at_once(ASKED, ASKED, ann, ann.replace(user_id="ben"), ASKED.replace(user_id="cleo"))
    assert scene.client.calls == calls


@pytest.mark.parametrize("stage", ["model", "run"])
async def test_another_version_is_another_question(stage: Literal["model", "run"]) -> None:
    scene, other = Scene(LATE, stage=stage), Scene(LATE, stage=stage, version="2")
    other.layer._responses = scene.layer._responses  # pyright: ignore[reportPrivateUsage]  # as if of one layer
    other.layer._results = scene.layer._results  # pyright: ignore[reportPrivateUsage]  # the same
    async with anyio.create_task_group() as group:
        group.start_soon(scene.ask)
        group.start_soon(other.ask)
    assert scene.served_by == other.served_by == ["agent"]


async def test_a_failure_is_everybodys() -> None:
    scene = Scene(ScriptedReply(chunks=(0.05, ProviderUnavailable("down", retry_after=2))))
    await scene.ask_at_once(ASKED, times=3)
    assert scene.client.calls == 1
    assert [(result.error, result.retry_after) for result in scene.results] == [("down", 2)] * 3


async def test_each_waits_under_its_own_deadline() -> None:
    scene = Scene(ScriptedReply(text="Here.", delay=0.3))
    hasty = AgentExecutor(
        config=AgentConfig(name="support"),
        llm_client=scene.client,
        middleware=[TimeoutMiddleware(run=0.05), scene.layer],
    )
    async with anyio.create_task_group() as group:
        group.start_soon(scene.ask)
        await anyio.wait_all_tasks_blocked()
        assert isinstance((await hasty.execute(ASKED)).exception, RunTimeout)
    assert scene.results[0].output == "Here." and scene.client.calls == 1


async def test_when_the_first_is_out_of_time_another_asks() -> None:
    scene = Scene(ScriptedReply(text="Here.", delay=0.3))
    hasty = AgentExecutor(
        config=AgentConfig(name="support"),
        llm_client=scene.client,
        middleware=[TimeoutMiddleware(run=0.05), scene.layer],
    )
    async with anyio.create_task_group() as group:
        group.start_soon(hasty.execute, ASKED)
        await anyio.wait_all_tasks_blocked()
        await scene.ask_at_once(ASKED, times=2)
    assert scene.client.calls == 2 and scene.served_by == ["agent", "cache"]


async def test_a_model_that_wants_tools_is_asked_by_each_of_them() -> None:
    looked: list[str] = []

    @tool
    def look() -> str:
        looked.append("looked")
        return "found"

    def answer(request: ModelRequest) -> ScriptedReply:
        wants = request.step == 0
        return ScriptedReply(tool_calls=(("look", {}),), delay=0.02) if wants else ScriptedReply(text="Here.")

    scene = Scene(answer, tools=[look])
    await scene.ask_at_once(ASKED, times=3)
    assert len(looked) == 3 and [result.output for result in scene.results] == ["Here."] * 3


@pytest.mark.parametrize(("kind", "started"), [("pure", 1), ("effect", 3)])
async def test_a_whole_run_is_shared_only_without_an_effect(kind: Any, started: int) -> None:
    looked: list[str] = []

    @tool(kind=kind)
    async def look() -> str:
        looked.append("looked")
        await anyio.sleep(0.02)
        return "found"

    def answer(request: ModelRequest) -> ScriptedReply:
        return ScriptedReply(tool_calls=(("look", {}),)) if request.step == 0 else ScriptedReply(text="Here.")

    scene = Scene(answer, tools=[look], stage="run")
    await scene.ask_at_once(ASKED, times=3)
    assert len(looked) == started and [result.output for result in scene.results] == ["Here."] * 3


async def test_the_answer_to_another_is_told_as_a_cache_hit() -> None:
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.CACHE_HIT, events.append)
        scene = Scene(LATE, bus=bus)
        await scene.ask_at_once(ASKED, times=2)
        await bus.drain()
    assert [event.metadata for event in events] == [
        {"middleware": "SingleFlightMiddleware", "stage": "model", "age": 0.0, "stale": False}
    ]


async def test_a_question_that_has_no_key_is_asked_by_each() -> None:
    client = ScriptedLLMClient([LATE], repeat=True)

    @reaches(Stage.MODEL)
    async def agent(context: AgentContext) -> str:
        request = ModelRequest(messages=(), parameters={"hook": object()})
        return (await context.call_model(request, client)).text

    executor = AgentExecutor(agent, agent_id="support", middleware=[SingleFlightMiddleware()])
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(executor.execute, ASKED)
    assert client.calls == 2


async def test_runs_of_a_session_are_not_shared() -> None:
    scene = Scene(LATE, stage="run")
    await scene.ask_at_once(ASKED.replace(session_id="s"), times=2)
    assert scene.client.calls == 2


@pytest.mark.parametrize("stage", ["model", "run"])
def test_only_the_stage_at_which_it_works_is_compiled_in(stage: Any) -> None:
    shown = MiddlewarePipeline([SingleFlightMiddleware(stage=stage)]).explain().split(" stage\n")
    assert [name.split()[-1] for name, body in pairwise(shown) if "(cache)" in body] == [stage]


@pytest.mark.parametrize("options", [{"stage": "tool"}, {"share": "nobody"}], ids=str)
def test_an_option_out_of_range_fails_when_the_layer_is_built(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SingleFlightMiddleware(**options)
