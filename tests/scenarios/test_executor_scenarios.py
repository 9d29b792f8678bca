"""Scenarios 5 to 9 and 12 to 14: the executor's life, its runs, and the ways in which they end."""

import anyio

from agent_runtime import AgentContext, AgentExecutor, RunStatus


def ask(task: str = "hello") -> AgentContext:
    return AgentContext(user_id="ann", current_task=task)


async def test_s06_a_fast_and_a_slow_run_each_have_their_own_state() -> None:
    running = anyio.Event()
    go_on = anyio.Event()

    async def agent(context: AgentContext) -> str:
        if context.current_task == "slow":
            running.set()
            await go_on.wait()
        return context.current_task

    executor = AgentExecutor(agent)
    async with anyio.create_task_group() as group:
        group.start_soon(executor.execute, ask("slow"))
        await running.wait()
        (slow,) = executor.runs.values()
        assert (await executor.execute(ask("fast"))).output == "fast"
        assert list(executor.runs.values()) == [slow]
        assert slow.status is RunStatus.RUNNING
        go_on.set()
    assert slow.status is RunStatus.COMPLETED and not executor.runs
