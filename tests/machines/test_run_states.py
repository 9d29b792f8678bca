"""Hundreds of runs at once on one executor: each goes through its own states, and no other path than the drawn one."""

import os
import random
from collections import defaultdict
from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    EventBus,
    EventType,
    ProviderUnavailable,
    Run,
    RunStatus,
    StreamEvent,
    SystemEvent,
    TextDelta,
)
from agent_runtime.testing import no_leaks

NOT_HERE = {RunStatus.CREATED, RunStatus.SUSPENDED}  # seen by nobody; takes a session, see tests/unit/test_resume.py
RUNS = 1_000 if os.environ.get("AGENT_RUNTIME_SOAK") == "1" else 200

NEXT = {
    RunStatus.CREATED: {RunStatus.STARTING},
    RunStatus.STARTING: {RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMEOUT},
    RunStatus.RUNNING: {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.TIMEOUT},
}
ENDS = {
    "succeeds": RunStatus.COMPLETED,
    "fails": RunStatus.FAILED,
    "has a bug": RunStatus.FAILED,
    "is refused": RunStatus.FAILED,
    "is cancelled": RunStatus.CANCELLED,
    "is cancelled by its caller": RunStatus.CANCELLED,
    "loses its receiver": RunStatus.CANCELLED,
    "takes too long": RunStatus.TIMEOUT,
}


class Observer:
    """Looks at runs from every place that has one: layers, agents, events, and a task beside them all."""

    def __init__(self) -> None:
        self.paths: defaultdict[str, list[RunStatus]] = defaultdict(list)
        self.kinds: dict[str, str] = {}
        self.executor: AgentExecutor | None = None

    def look(self, run: Run) -> None:
        path = self.paths[run.run_id]
        if not path or path[-1] is not run.status:
            path.append(run.status)

    def look_at_all(self) -> None:
        assert self.executor is not None
        for run in self.executor.runs.values():
            self.look(run)

    def told(self, event: SystemEvent) -> bool:
        """The `where` of a subscription: it is asked in the midst of the run, before the event is queued."""
        self.look_at_all()
        return False

    async def layer(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.kinds[context.run_id] = context.current_task
        self.look(context.run)
        try:
            await checkpoint()
            return await call_next(context)
        finally:
            self.look(context.run)

    async def watch(self) -> None:
        while True:
            self.look_at_all()
            await checkpoint()

    async def agent(self, context: AgentContext) -> str:
        assert self.executor is not None
        self.look(context.run)
        for _ in range(context.metadata["turns"]):
            await checkpoint()
            self.look(context.run)
        match context.current_task:
            case "fails":
                raise ProviderUnavailable("down")
            case "has a bug":
                raise KeyError("a bug")
            case "is cancelled":
                assert self.executor.cancel(context.run_id)
                await anyio.sleep_forever()
            case "is cancelled by its caller" | "takes too long":
                await anyio.sleep_forever()
            case _:
                await context.emit(TextDelta(text="done"))
        return "done"


async def one_run(executor: AgentExecutor, kind: str, turns: int) -> None:
    late = kind == "takes too long"
    context = AgentContext(
        user_id="" if kind == "is refused" else "ann",
        current_task=kind,
        metadata={"turns": turns},
        deadline=anyio.current_time() + 0.2 if late else float("inf"),
    )

    async def emit(event: StreamEvent) -> None:
        if kind == "loses its receiver":
            raise BrokenPipeError

    if kind == "has a bug":
        with pytest.raises(KeyError):
            await executor.execute(context)
        return
    with anyio.CancelScope() as scope:
        if kind == "is cancelled by its caller":
            scope.deadline = anyio.current_time() + 0.2
        result = await executor.execute(context, emit=emit)
        assert result.success is (kind == "succeeds")
    assert scope.cancelled_caught is (kind == "is cancelled by its caller")


@pytest.mark.parametrize("seed", range(3))
async def test_every_run_takes_an_allowed_path_of_its_own(seed: int) -> None:
    dice = random.Random(seed)
    observer = Observer()
    bus = EventBus()
    async with no_leaks(), bus:
        await bus.subscribe(EventType.ANY, lambda event: None, where=observer.told)
        executor = AgentExecutor(observer.agent, middleware=[observer.layer], event_bus=bus)
        observer.executor = executor
        async with anyio.create_task_group() as beside:
            beside.start_soon(observer.watch)
            async with anyio.create_task_group() as group:
                for _ in range(RUNS):
                    group.start_soon(one_run, executor, dice.choice([*ENDS]), dice.randrange(4))
            beside.cancel_scope.cancel()
        assert executor.runs == {}
    assert len(observer.paths) == RUNS
    for run_id, path in observer.paths.items():
        for before, after in pairwise(path):
            assert after in NEXT[before], f"{run_id} went {path}"
        assert path[-1] is ENDS[observer.kinds.get(run_id, "is refused")]
    assert {status for path in observer.paths.values() for status in path} == set(RunStatus) - NOT_HERE
