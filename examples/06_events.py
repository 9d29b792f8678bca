"""What happens, told to whoever listens: subscribe by type, by condition, and in batches."""

import asyncio

from agent_runtime import AgentContext, AgentExecutor, EventBus, EventType, InvalidInput, SystemEvent, batched


async def agent(context: AgentContext) -> str:
    if context.current_task == "nonsense":
        raise InvalidInput("that makes no sense")
    await context.publish("greeting.sent", metadata={"words": 1})  # a type of your own
    return "hello"


async def on_failure(event: SystemEvent) -> None:
    print("failed: ", event.user_id, event.error_type, "-", event.error_message)


def on_bob(event: SystemEvent) -> None:
    """A sync handler runs in a worker thread."""
    print("bob:    ", event.event_type, event.sequence)


async def store(events: list[SystemEvent]) -> None:
    """Stands for a database that likes many rows at once."""
    print("batch:  ", [str(event.event_type) for event in events])


async def main() -> None:
    bus = EventBus()
    async with AgentExecutor(agent, event_bus=bus) as executor:
        await bus.subscribe(EventType.ERROR_OCCURRED, on_failure)
        await executor.execute(AgentContext(user_id="ann", current_task="nonsense"))
        await bus.drain()  # only for a tidy output: a run never waits for a handler

        bob = await bus.subscribe(EventType.ANY, on_bob, where=lambda event: event.user_id == "bob")
        for user in ("bob", "ann"):
            await executor.execute(AgentContext(user_id=user, current_task="hi"))
        await bus.drain()
        print("counted:", bus.stats(bob))
        await bus.unsubscribe(bob)

        await bus.subscribe(EventType.ANY, batched(store, size=100, every=5.0))
        await executor.execute(AgentContext(user_id="ann", current_task="hi"))
        # Leaving the block closes the bus, and what waits in a batch is handed over first.


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# failed:  ann validation - that makes no sense
# bob:     agent_started 1
# bob:     greeting.sent 2
# bob:     agent_completed 3
# counted: SubscriberStats(delivered=3, failed=0, dropped=0, timed_out=0, queued=0)
# batch:   ['agent_started', 'greeting.sent', 'agent_completed']
