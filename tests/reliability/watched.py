"""A run that can be watched from every side: its layers, its tools, its bus, its cost."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    EventBus,
    EventType,
    Limits,
    ModelRequest,
    ModelResponse,
    Run,
    RunStatus,
    StreamEvent,
    SystemEvent,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

ASKED = AgentContext(user_id="ann", current_task="What is in the garden?")
CONFIG = AgentConfig(name="gardener")
TERMINAL = frozenset({EventType.AGENT_COMPLETED, EventType.ERROR_OCCURRED, EventType.RUN_CANCELLED})

LOOK = ("look", {"where": "pond"})
SCRIPT = (
    ScriptedReply(chunks=("I ", "look."), tool_calls=(LOOK, LOOK), usage=Usage(output_tokens=2)),
    ScriptedReply(chunks=("Once ", "more."), tool_calls=(LOOK,), usage=Usage(output_tokens=2)),
    ScriptedReply(chunks=("A ", "frog", "."), usage=Usage(output_tokens=3)),
)
PIECES = ("I ", "look.", "Once ", "more.", "A ", "frog", ".")


class Counted(BaseMiddleware):
    """Counts at each stage how often it was entered, and how often the code after `call_next` ran."""

    def __init__(self, name: str) -> None:
        self._title = name
        self.entered: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.pieces = 0
        self.runs: list[Run] = []

    @property
    def name(self) -> str:
        return self._title

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.runs.append(context.run)
        self.entered["run"] += 1
        try:
            await checkpoint()
            return await call_next(context)
        finally:
            self.left["run"] += 1

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        def emit(event: StreamEvent) -> Awaitable[None]:
            self.pieces += isinstance(event, TextDelta)
            return request.emit(event)

        self.entered["model"] += 1
        try:
            await checkpoint()
            return await call_next(request.replace(emit=emit))
        finally:
            self.left["model"] += 1

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        self.entered["tool"] += 1
        try:
            await checkpoint()
            return await call_next(call)
        finally:
            self.left["tool"] += 1


class Watched:
    """One executor for one run, and everything that the run did.

    Attributes:
        starts: How often a tool was started.
        told: What the bus told, in order.
    """

    def __init__(self, bus: EventBus, limits: Limits, script: Iterable[ScriptedReply]) -> None:
        @tool
        async def look(where: str) -> str:
            """Look."""
            self.starts += 1
            await checkpoint()
            return f"a {where}"

        self.starts = 0
        self._starts_when_left: int | None = None
        self._ends_as = RunStatus.COMPLETED
        self.client = ScriptedLLMClient(script, yields=True)
        self.layers = tuple(Counted(name) for name in ("outer", "middle", "inner"))
        self.told: list[SystemEvent] = []
        self.ended = anyio.Event()
        self.bus = bus
        self.executor = AgentExecutor(
            config=CONFIG, llm_client=self.client, tools=[look], middleware=self.layers, event_bus=bus, limits=limits
        )

    def leave(self) -> None:
        """The consumer leaves here: from now on no tool may start, and a run that has not ended is cancelled."""
        self._starts_when_left = self.starts
        ended = [run.status for run in self.layers[0].runs if run.closed]
        self._ends_as = ended[0] if ended else RunStatus.CANCELLED

    async def hear(self, event: SystemEvent) -> None:
        self.told.append(event)
        if event.event_type in TERMINAL:
            self.ended.set()

    async def over(self) -> None:
        """Wait for the run's end, and check all that holds at the end of any run that began."""
        status = self._ends_as
        with anyio.fail_after(5):
            await self.ended.wait()
        await self.bus.drain()
        inner = self.layers[-1]
        for layer in self.layers:
            assert layer.entered == layer.left, f"{layer.name} was entered and not left"
            assert layer.entered["run"] <= 1
        assert [event.event_type for event in self.told if event.event_type in TERMINAL] == [_told(status)]
        assert self.told[-1].event_type in TERMINAL
        assert self.executor.runs == {}
        for run in inner.runs:
            assert (run.status, run.closed) == (status, True)
            assert run.usage.requests == self.client.calls
            assert run.usage.output_tokens == inner.pieces or not run.streaming  # it tells the pieces of what it pays
        assert self._starts_when_left in (None, self.starts), "a tool started after the consumer had left"


def _told(status: RunStatus) -> EventType:
    told = {RunStatus.COMPLETED: EventType.AGENT_COMPLETED, RunStatus.CANCELLED: EventType.RUN_CANCELLED}
    return told.get(status, EventType.ERROR_OCCURRED)


@asynccontextmanager
async def watched(limits: Limits | None = None, script: Iterable[ScriptedReply] = SCRIPT) -> AsyncGenerator[Watched]:
    """A `Watched` with its bus open. The executor's own lifespan is the test's business."""
    async with EventBus() as bus:
        scene = Watched(bus, limits or Limits(), script)
        await bus.subscribe(EventType.ANY, scene.hear)
        yield scene
