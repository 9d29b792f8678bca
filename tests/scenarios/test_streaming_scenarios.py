"""Scenarios 18 and 19: a consumer who leaves early, and a secret that two chunks share."""

from agent_runtime import AgentContext, AgentExecutor, TextDelta


async def test_s18_leaving_the_loop_ends_the_agent_before_the_block_is_left() -> None:
    closed: list[str] = []

    async def agent(context: AgentContext) -> str:
        try:
            while True:
                await context.emit(TextDelta(text="more "))
        finally:
            closed.append("agent")

    executor = AgentExecutor(agent)
    async with executor.stream(AgentContext(user_id="ann", current_task="hello")) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    assert closed == ["agent"]
