"""Scenarios 40 and 43 to 45: what a run tells the event bus."""

from datetime import timedelta

from agent_runtime import AgentContext, AgentExecutor, EventBus, EventType, SystemEvent


async def test_s40_started_comes_before_completed_and_both_say_whose_run_it_is() -> None:
    seen: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        seen.append(event)

    async def agent(context: AgentContext) -> str:
        return "done"

    async with EventBus() as bus:
        for kind in (EventType.AGENT_COMPLETED, EventType.AGENT_STARTED):
            await bus.subscribe(kind, note)
        executor = AgentExecutor(agent, event_bus=bus)
        result = await executor.execute(AgentContext(user_id="ann", session_id="s1", current_task="hello"))
        await bus.drain()
    started, completed = sorted(seen, key=lambda event: event.sequence)
    assert (started.event_type, completed.event_type) == (EventType.AGENT_STARTED, EventType.AGENT_COMPLETED)
    for event in seen:
        assert (event.run_id, event.agent_id, event.user_id, event.session_id) == (result.run_id, "agent", "ann", "s1")
        assert event.timestamp.utcoffset() == timedelta(0)
    assert started.timestamp <= completed.timestamp and started.execution_time_ms is None
    assert completed.execution_time_ms is not None and completed.execution_time_ms > 0
