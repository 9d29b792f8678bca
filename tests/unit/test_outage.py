"""An outage of a layer's store is told once in the log, and each failure on the bus."""

import logging

import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    EventBus,
    EventType,
    Stage,
    StoreOutage,
    StoreUnavailable,
    SystemEvent,
)

ASKED = AgentContext(user_id="ann", current_task="hi")


class Storing(BaseMiddleware):
    """Its store fails in the runs that are asked to."""

    def __init__(self) -> None:
        self.outage = StoreOutage()

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if context.current_task == "fail":
            await self.outage.failed(self.name, Stage.RUN, context, StoreUnavailable("the store is away"))
        else:
            self.outage.answered(self.name)
        return await call_next(context)


async def agent(context: AgentContext) -> str:
    return "done"


async def test_an_outage_begins_and_ends_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    layer = Storing()
    events: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.MIDDLEWARE_FAILED, events.append)
        executor = AgentExecutor(agent, middleware=[layer], event_bus=bus)
        with caplog.at_level(logging.INFO, logger="agent_runtime"):
            for task in ("hi", "fail", "fail", "hi", "hi", "fail"):
                assert (await executor.execute(ASKED.replace(current_task=task))).success
        await bus.drain()
    assert [record.getMessage() for record in caplog.records] == [
        "Storing goes on without its store, which fails: the store is away",
        "the store of Storing answers again, after 2 failures",
        "Storing goes on without its store, which fails: the store is away",
    ]
    assert layer.outage.failures == len(events) == 3
    assert events[0].metadata == {"middleware": "Storing", "stage": "run", "degraded": True}
