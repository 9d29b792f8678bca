"""TimeoutMiddleware: which limit fires, with which error, and what it never does."""

from itertools import pairwise

import anyio
import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    CallTimeout,
    ConfigurationError,
    ErrorType,
    MiddlewarePipeline,
    ModelRequest,
    RunTimeout,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolResult,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.timeout import TimeoutMiddleware

SHORT = 0.05
FOREVER = 60.0


def context() -> AgentContext:
    return AgentContext(agent_id="a", user_id="u", current_task="hi")


class Caller:
    """An agent of one model call and one tool call, where it has a model and a tool."""

    stages = ("model", "tool")

    def __init__(self, *, reply: ScriptedReply | None = None, tool_takes: float = 0.0) -> None:
        self.started = anyio.Event()
        self.client = ScriptedLLMClient([reply or "found"], repeat=True)
        self.tool_takes = tool_takes

    async def run(self, context: AgentContext) -> str:
        self.started.set()
        await context.call_tool(ToolCall(id="1", name="search"), self.search)
        return (await context.call_model(ModelRequest(messages=()), self.client)).text

    async def search(self, call: ToolCall) -> ToolResult:
        await anyio.sleep(self.tool_takes)
        return ToolResult(content="found")


def around(agent: Caller, layer: TimeoutMiddleware) -> AgentExecutor:
    return AgentExecutor(agent, agent_id="a", middleware=[layer])


LATE = ScriptedReply(text="late", delay=FOREVER)


@pytest.mark.parametrize(
    ("which", "reply", "tool_takes"),
    [
        ("model", LATE, 0.0),
        ("first_token", ScriptedReply(chunks=(FOREVER, "late")), 0.0),
        ("idle", ScriptedReply(chunks=("soon", FOREVER, "late")), 0.0),
        ("tool", ScriptedReply(text="never asked"), FOREVER),
    ],
)
async def test_a_call_over_its_limit_is_a_retryable_call_timeout_that_says_which(
    which: str, reply: ScriptedReply, tool_takes: float
) -> None:
    agent = Caller(reply=reply, tool_takes=tool_takes)
    result = await around(agent, TimeoutMiddleware(**{which: SHORT})).execute(context())
    assert isinstance(result.exception, CallTimeout)
    assert (result.error_type, result.retryable) == (ErrorType.TIMEOUT, True)
    assert result.error_details == {"limit": SHORT, "which": which}
    assert result.error is not None and f"{SHORT:g} s" in result.error


async def test_a_run_over_its_limit_is_a_run_timeout_that_is_not_retried() -> None:
    result = await around(Caller(reply=LATE), TimeoutMiddleware(run=SHORT)).execute(context())
    assert isinstance(result.exception, RunTimeout)
    assert (result.error_type, result.retryable) == (ErrorType.TIMEOUT, False)
    assert result.error_details == {"limit": SHORT, "which": "run"}
    assert result.error is not None and result.run_id in result.error


async def test_a_quick_run_passes_all_limits() -> None:
    layer = TimeoutMiddleware(run=5, model=5, tool=5, first_token=5, idle=5)
    result = await around(Caller(reply=ScriptedReply(chunks=("in ", "time"))), layer).execute(context())
    assert result.output == "in time"


async def test_what_was_said_before_stays_said() -> None:
    said: list[str] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            said.append(event.text)

    executor = around(Caller(reply=ScriptedReply(chunks=("par", FOREVER))), TimeoutMiddleware(run=SHORT))
    result = await executor.execute(context(), emit=emit)
    assert isinstance(result.exception, RunTimeout) and said == ["par"]


async def test_layers_inside_see_the_earlier_deadline() -> None:
    seen: list[float] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context.deadline - anyio.current_time())
        return "ok"

    await AgentExecutor(agent, agent_id="a", middleware=[TimeoutMiddleware(run=5)]).execute(context())
    await AgentExecutor(agent, agent_id="a", middleware=[TimeoutMiddleware(run=500)]).execute(context())
    assert 4 < seen[0] <= 5 < seen[1] <= 60


async def test_what_is_inside_has_cleaned_up_when_the_error_leaves() -> None:
    trace: list[str] = []

    async def agent(context: AgentContext) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            trace.append("cleaned up")
        return "never"

    executor = AgentExecutor(agent, agent_id="a", middleware=[TimeoutMiddleware(run=SHORT)])
    result = await executor.execute(context())
    trace.append(type(result.exception).__name__)
    assert trace == ["cleaned up", "RunTimeout"]


@pytest.mark.parametrize("which", ["run", "model", "first_token", "idle"])
async def test_a_cancellation_from_outside_stays_one(which: str) -> None:
    agent = Caller(reply=LATE)
    executor = around(agent, TimeoutMiddleware(**{which: FOREVER}))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(executor.execute, context())
            await agent.started.wait()
            scope.cancel()
    assert scope.cancelled_caught and not executor.runs


async def test_cancelled_at_the_moment_of_its_own_deadline_the_outer_one_wins() -> None:
    executor = around(Caller(tool_takes=FOREVER), TimeoutMiddleware(run=SHORT))
    result = None
    with anyio.CancelScope(deadline=anyio.current_time()) as scope:
        result = await executor.execute(context())
    assert scope.cancelled_caught and result is None


@pytest.mark.parametrize(
    ("limits", "stages", "needs_chunks"),
    [
        ({"run": 1.0}, ["run"], False),
        ({"model": 1.0}, ["model"], False),
        ({"tool": 1.0}, ["tool"], False),
        ({"first_token": 1.0}, ["model"], True),
        ({"idle": 1.0}, ["model"], True),
        ({"run": 1.0, "tool": 1.0}, ["run", "tool"], False),
    ],
)
def test_only_the_stages_that_have_a_limit_are_compiled_in(
    limits: dict[str, float], stages: list[str], needs_chunks: bool
) -> None:
    layer = TimeoutMiddleware(**limits)
    shown = MiddlewarePipeline([layer]).explain().split(" stage\n")
    assert [name.split()[-1] for name, body in pairwise(shown) if "(timeout)" in body] == stages
    assert layer.needs_chunks is needs_chunks


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("which", ["run", "model", "tool", "first_token", "idle"])
def test_a_limit_out_of_range_fails_when_the_layer_is_built(which: str, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=which):
        TimeoutMiddleware(**{which: seconds})


def test_no_limit_at_all_fails_when_the_layer_is_built() -> None:
    with pytest.raises(ConfigurationError, match="first_token"):
        TimeoutMiddleware()
