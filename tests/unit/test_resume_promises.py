"""What the pages on resume and on asking a person promise, beyond what a single step does."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from tests.stores.mortal import Mortal

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    Durability,
    ErrorType,
    Layer,
    MemorySessionStore,
    ModelRequest,
    Owner,
    PermissionDenied,
    ProviderUnavailable,
    Resume,
    RunStatus,
    SessionManager,
    ToolCall,
    ToolResult,
    reaches,
    tool,
    tool_middleware,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

ANN = Owner(tenant_id=None, user_id="ann")
ASKED = AgentContext(user_id="ann", session_id="s", current_task="buy it")
AGAIN = AgentContext(user_id="ann", session_id="s", current_task="")


def wants(name: str, arguments: Mapping[str, Any]) -> ScriptedReply:
    return ScriptedReply(tool_calls=((name, arguments),))


class World:
    """A store whose clock the test sets, a process that can die, and what tools have done."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = MemorySessionStore(clock=lambda: self.now)
        self.sessions = SessionManager(self.store, ttl=60)
        self.process = Mortal(self.store)
        self.done: list[str] = []

    def executor(
        self,
        *script: ScriptedReply | str | Exception,
        dies: bool = False,
        durability: Durability = "sync",
        middleware: tuple[Layer, ...] = (),
    ) -> AgentExecutor:
        """After the last of `script` the model `dies`, and the process with it."""

        def die(request: ModelRequest) -> Exception:
            self.process.die()
            return ProviderUnavailable("nobody hears this")

        @tool(kind="pure")
        async def look(item: str) -> str:
            """Look."""
            self.done.append(f"look {item}")
            return "3"

        @tool(kind="effect")
        async def pay(amount: int) -> str:
            """Pay."""
            self.done.append(f"pay {amount}")
            return "paid"

        return AgentExecutor(
            config=AgentConfig(name="shop", retry_attempts=1),
            llm_client=ScriptedLLMClient([*script, die] if dies else script),
            tools=[look, pay],
            session_manager=SessionManager(self.process.as_store) if dies else self.sessions,
            durability=durability,
            middleware=middleware,
            shutdown_grace=0.01,
        )


@pytest.fixture
def world() -> World:
    return World()


LOOK, PAY = wants("look", {"item": "tea"}), wants("pay", {"amount": 3})


async def test_a_crash_with_durability_exit_loses_the_run(world: World) -> None:
    await world.executor(LOOK, PAY, dies=True, durability="exit").execute(ASKED)
    world.now += 31
    assert world.done == ["look tea", "pay 3"]
    assert await world.sessions.unfinished_runs("s", owner=ANN) == ()


async def test_a_crash_with_durability_async_loses_the_last_steps_and_no_intent(world: World) -> None:
    await world.executor(LOOK, PAY, dies=True, durability="async").execute(ASKED)
    world.now += 31
    [run] = await world.sessions.unfinished_runs("s", owner=ANN)
    assert run.in_doubt == ("pay",)
    [question] = (await world.executor("done").execute(AGAIN, resume=Resume())).questions
    result = await world.executor("done").execute(AGAIN, resume=Resume(answers={question.key: {"result": "paid"}}))
    assert result.output == "done"
    assert world.done == ["look tea", "pay 3"]


async def test_a_crash_with_durability_sync_loses_no_step(world: World) -> None:
    await world.executor(LOOK, PAY, dies=True).execute(ASKED)
    world.now += 31
    result = await world.executor("done").execute(AGAIN, resume=Resume())
    assert (result.output, world.done) == ("done", ["look tea", "pay 3"])


async def test_an_executor_that_closes_leaves_its_run_to_the_next_at_once(world: World) -> None:
    results: list[AgentResult] = []

    async def run(executor: AgentExecutor) -> None:
        results.append(await executor.execute(ASKED))

    async with anyio.create_task_group() as group:
        async with world.executor(PAY, ScriptedReply(text="late", delay=60)) as executor:
            group.start_soon(run, executor)
            await anyio.wait_all_tasks_blocked()
    assert results[0].error_type is ErrorType.CANCELLED
    [kept] = await world.sessions.unfinished_runs("s", owner=ANN)
    assert (kept.status, kept.held) == (RunStatus.CANCELLED, False)
    assert (await world.executor("done").execute(AGAIN, resume=Resume())).output == "done"
    assert world.done == ["pay 3"]


async def test_a_run_that_is_under_way_says_that_it_is_held(world: World) -> None:
    async with anyio.create_task_group() as group:
        async with world.executor(PAY, ScriptedReply(text="late", delay=60)) as executor:
            group.start_soon(executor.execute, ASKED)
            await anyio.wait_all_tasks_blocked()
            [run] = await world.sessions.unfinished_runs("s", owner=ANN)
            assert repr(run) == f"UnfinishedRun({run.run_id!r}, status=running, held, 2 steps)"


async def test_of_two_that_resume_one_run_at_once_one_goes_on(world: World) -> None:
    await world.executor(PAY, dies=True).execute(ASKED)
    world.now += 31
    executor = world.executor(ScriptedReply(text="done", delay=0.01))
    results: list[AgentResult] = []

    async def resume() -> None:
        results.append(await executor.execute(AGAIN, resume=Resume()))

    async with anyio.create_task_group() as group:
        group.start_soon(resume)
        group.start_soon(resume)
    assert sorted(str(result.error_type) for result in results) == ["None", "conflict"]
    assert (await executor.execute(AGAIN, resume=Resume())).error_type is ErrorType.NOT_FOUND
    assert world.done == ["pay 3"]


async def test_who_may_not_go_on_changes_nothing(world: World) -> None:
    allowed = False

    async def authorization(context: AgentContext, call_next: CallNext) -> AgentResult:
        if context.run.resume is not None and not allowed:
            raise PermissionDenied("not any more")
        return await call_next(context)

    await world.executor(PAY, dies=True).execute(ASKED)
    world.now += 31
    executor = world.executor("done", middleware=(authorization,))
    assert (await executor.execute(AGAIN, resume=Resume())).error_type is ErrorType.AUTHORIZATION
    allowed = True
    assert (await executor.execute(AGAIN, resume=Resume())).output == "done"


async def test_a_run_that_waits_expires_with_its_session(world: World) -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        return str(await context.ask("Really?", key="k"))

    executor = AgentExecutor(agent, session_manager=world.sessions)
    await executor.execute(ASKED)
    world.now += 59
    assert len(await world.sessions.unfinished_runs("s", owner=ANN)) == 1
    world.now += 2
    assert await world.sessions.unfinished_runs("s", owner=ANN) == ()
    result = await executor.execute(AGAIN, resume=Resume(answers={"k": True}))
    assert result.error_type is ErrorType.NOT_FOUND


async def test_a_yes_to_a_call_is_no_yes_to_other_arguments(world: World) -> None:
    @tool_middleware
    async def approve(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        await call.context.ask(f"Pay {call.arguments['amount']}?", key=call.idempotency_key)
        return await call_next(call)

    async def twice(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        except ProviderUnavailable:
            return await call_next(context)

    layers = (twice, approve)
    [first] = (await world.executor(PAY, middleware=layers).execute(ASKED)).questions
    executor = world.executor(ProviderUnavailable("start again"), wants("pay", {"amount": 4}), middleware=layers)
    [second] = (await executor.execute(AGAIN, resume=Resume(answers={first.key: True}))).questions
    assert (first.text, second.text) == ("Pay 3?", "Pay 4?")
    assert first.key != second.key
    assert world.done == ["pay 3"]
