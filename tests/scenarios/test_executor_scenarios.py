"""Scenarios 5 to 9 and 12 to 14: the executor's life, its runs, and the ways in which they end."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    AuthenticationFailed,
    CallNext,
    CallTimeout,
    ErrorType,
    EventBus,
    EventType,
    InvalidInput,
    LimitExceeded,
    MemorySessionStore,
    ModelRequest,
    ModelResponse,
    Owner,
    PermissionDenied,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    Run,
    RunCancelled,
    RunStatus,
    SessionManager,
    StateKey,
    StoredSession,
    StoreUnavailable,
    SystemEvent,
)
from agent_runtime.testing import ScriptedLLMClient, cancellations

SECRET = "sk-live-1234"
TERMINAL = (EventType.AGENT_COMPLETED, EventType.ERROR_OCCURRED, EventType.RUN_CANCELLED)


def ask(task: str = "hello", session_id: str | None = None, **metadata: Any) -> AgentContext:
    return AgentContext(user_id="ann", current_task=task, session_id=session_id, metadata=metadata)


async def echo(context: AgentContext) -> str:
    return context.current_task


class Waiting:
    """A client that answers when it is let go."""

    def __init__(self, told: list[str] | None = None) -> None:
        self.asked = anyio.Event()
        self.go_on = anyio.Event()
        self.told: list[str] = [] if told is None else told

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        self.asked.set()
        try:
            await self.go_on.wait()
        except anyio.get_cancelled_exc_class():
            self.told.append("upstream cancelled")
            raise
        return ModelResponse.of("done")


class Connected(Waiting):
    """A client with connections of its own, opened by whoever runs it."""

    async def __aenter__(self) -> Self:
        self.told.append("opened")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await checkpoint()
        self.told.append("closed")


class HandedIn(Waiting):
    """A client that was opened elsewhere, and is closed there."""

    async def aclose(self) -> None:
        raise AssertionError("the executor closed what it had not opened")


@pytest.mark.parametrize(("kind", "told"), [(Connected, ["opened", "closed"]), (HandedIn, [])])
async def test_s05_leaving_the_block_drains_the_run_in_flight_and_closes_what_was_opened(
    kind: Callable[[], Waiting], told: list[str]
) -> None:
    client = kind()
    results: dict[str, AgentResult] = {}
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client)

    async def run() -> None:
        results["in flight"] = await executor.execute(ask())

    async def run_while_closing() -> None:
        results["late"] = await executor.execute(ask())
        client.go_on.set()

    async with anyio.create_task_group() as group:
        async with executor:
            group.start_soon(run)
            await client.asked.wait()
            group.start_soon(run_while_closing)  # its turn comes when this task waits for the run in flight
        assert set(results) == {"in flight", "late"}
    await executor.aclose()
    assert results["in flight"].success
    after = await executor.execute(ask())
    assert results["late"].error_type is after.error_type is ErrorType.CLOSED
    assert client.told == told


async def test_s05_a_run_that_outlives_the_grace_period_is_cancelled() -> None:
    client = Connected()
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client, shutdown_grace=0.02)
    results: list[AgentResult] = []

    async def run() -> None:
        results.append(await executor.execute(ask()))

    async with anyio.create_task_group() as group:
        with anyio.fail_after(5):
            async with executor:
                group.start_soon(run)
                await client.asked.wait()
        assert not executor.runs
    assert [(result.success, result.error_type) for result in results] == [(False, ErrorType.CANCELLED)]
    assert client.told == ["opened", "upstream cancelled", "closed"]


async def test_s06_a_fast_and_a_slow_run_each_go_through_their_own_states() -> None:
    states: defaultdict[str, list[RunStatus]] = defaultdict(list)
    runs: dict[str, Run] = {}
    running, go_on = anyio.Event(), anyio.Event()

    async def agent(context: AgentContext) -> str:
        runs[context.current_task] = context.run
        states[context.run_id].append(context.run.status)
        if context.current_task == "slow":
            running.set()
            await go_on.wait()
        return context.current_task

    def status_at(event: SystemEvent) -> bool:
        states[event.run_id].append(executor.runs[event.run_id].status)
        return True

    async with EventBus() as bus:
        subscription = await bus.subscribe(EventType.ANY, ignore, where=status_at)
        executor = AgentExecutor(agent, event_bus=bus)
        async with anyio.create_task_group() as group:
            group.start_soon(executor.execute, ask("slow"))
            await running.wait()
            assert (await executor.execute(ask("fast"))).output == "fast"
            assert list(executor.runs.values()) == [runs["slow"]]
            assert (runs["fast"].status, runs["slow"].status) == (RunStatus.COMPLETED, RunStatus.RUNNING)
            go_on.set()
        assert bus.stats(subscription).failed == 0
    assert runs["slow"].status is RunStatus.COMPLETED and not executor.runs
    in_order = [RunStatus.STARTING, RunStatus.RUNNING, RunStatus.COMPLETED]
    assert states == {run.run_id: in_order for run in runs.values()}


async def ignore(event: SystemEvent) -> None:
    pass


async def cancelled_run(how: str) -> tuple[Run, list[str], list[str]]:
    """A run whose caller is cancelled while it waits for the model: the run, what was told, and its last events."""
    told: list[str] = []
    ended: list[str] = []
    cancels: list[Callable[[], object]] = []
    runs: list[Run] = []
    client = Waiting(told)

    async def clean_up(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        finally:
            told.append("layer cleaned up")

    async def note(event: SystemEvent) -> None:
        ended.append(event.event_type)

    async def call(executor: AgentExecutor) -> None:
        with anyio.CancelScope() as scope:
            cancels.append(canceller(how, scope))
            try:
                await executor.execute(ask())
            except anyio.get_cancelled_exc_class():
                told.append("caller cancelled")
                raise

    async with EventBus() as bus:
        for kind in TERMINAL:
            await bus.subscribe(kind, note)
        executor = AgentExecutor(
            config=AgentConfig(name="support"), llm_client=client, middleware=[clean_up], event_bus=bus
        )
        async with anyio.create_task_group() as group:
            group.start_soon(call, executor)
            await client.asked.wait()
            runs.extend(executor.runs.values())
            cancels[0]()
        assert not executor.runs
        await bus.drain()
    return runs[0], told, ended


def canceller(how: str, scope: anyio.CancelScope) -> Callable[[], object]:
    """What cancels the calling task: a scope around it, or asyncio's own cancel."""
    if how == "scope":
        return scope.cancel
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


async def test_s07_the_callers_cancellation_reaches_the_model_call_and_comes_back() -> None:
    for how in cancellations():
        run, told, ended = await cancelled_run(how)
        assert told == ["upstream cancelled", "layer cleaned up", "caller cancelled"]
        assert run.status is RunStatus.CANCELLED
        assert ended == [EventType.RUN_CANCELLED]


async def test_s07_a_run_cancelled_by_its_id_comes_back_cancelled() -> None:
    client = Waiting()
    executor = AgentExecutor(config=AgentConfig(name="support"), llm_client=client)
    results: list[AgentResult] = []

    async def run() -> None:
        results.append(await executor.execute(ask()))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await client.asked.wait()
        assert [executor.cancel(run_id) for run_id in (*executor.runs, "no such run")] == [True, False]
    (result,) = results
    assert isinstance(result.exception, RunCancelled) and client.told == ["upstream cancelled"]
    assert executor.cancel(result.run_id) is False


class HangingStore(MemorySessionStore):
    """A backend that takes every connection and answers nothing."""

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        await anyio.sleep_forever()
        raise AssertionError("it slept forever")


async def hanging(context: AgentContext, call_next: CallNext) -> AgentResult:
    await anyio.sleep_forever()
    return await call_next(context)


async def block(bus: EventBus) -> None:
    """Give `bus` a handler that hangs, and whose queue is full and makes publishers wait."""
    called = anyio.Event()

    async def hang(event: SystemEvent) -> None:
        called.set()
        await anyio.sleep_forever()

    await bus.subscribe(EventType.AGENT_STARTED, hang, queue_size=1, overflow="block")
    await bus.publish(SystemEvent(event_type=EventType.AGENT_STARTED))
    await called.wait()
    await bus.publish(SystemEvent(event_type=EventType.AGENT_STARTED))


@pytest.mark.parametrize("where", ["model client", "layer", "session store", "event handler"])
async def test_s08_a_run_past_its_timeout_ends_at_once_wherever_it_hangs(where: str) -> None:
    store = HangingStore() if where == "session store" else MemorySessionStore()
    async with EventBus(drain_timeout=0) as bus:
        if where == "event handler":
            await block(bus)
        executor = AgentExecutor(
            config=AgentConfig(name="support", timeout=0.05),
            llm_client=Waiting() if where == "model client" else ScriptedLLMClient(["done"]),
            middleware=[hanging] if where == "layer" else [],
            session_manager=SessionManager(store),
            event_bus=bus,
        )
        started = anyio.current_time()
        result = await executor.execute(ask(session_id="s1"))
        took = anyio.current_time() - started
    assert (result.success, result.error_type) == (False, ErrorType.TIMEOUT)
    assert 0.04 < took < 1.0 and not executor.runs


@pytest.mark.parametrize(
    ("error", "error_type", "retryable"),
    [
        (RateLimited("too many requests", retry_after=2.0), ErrorType.RATE_LIMIT, True),
        (InvalidInput("the task is no question"), ErrorType.VALIDATION, False),
        (AuthenticationFailed("no credential"), ErrorType.AUTHENTICATION, False),
        (PermissionDenied("not yours"), ErrorType.AUTHORIZATION, False),
        (CallTimeout("the model was silent"), ErrorType.TIMEOUT, True),
        (ProviderUnavailable("the provider is down"), ErrorType.PROVIDER, True),
        (RequestRejected("the provider refused"), ErrorType.REJECTED, False),
        (StoreUnavailable("the store is down"), ErrorType.STORE, True),
        (LimitExceeded("too large", details={"limit": 1}), ErrorType.LIMIT, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_s09_each_kind_of_failure_is_a_result_of_its_type(
    error: AgentRuntimeError, error_type: ErrorType, retryable: bool
) -> None:
    cause = ConnectionError(f"401 from upstream: {SECRET}")
    told: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        told.append(event)

    async def agent(context: AgentContext) -> str:
        raise error from cause

    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, note)
        result = await AgentExecutor(agent, event_bus=bus).execute(ask())
        await bus.drain()
    assert (result.success, result.error_type, result.retryable) == (False, error_type, retryable)
    assert (result.error, result.error_details, result.retry_after) == (str(error), error.details, error.retry_after)
    assert result.exception is error and error.__cause__ is cause
    assert [(event.error_type, event.error_message) for event in told] == [(error_type, str(error))]
    assert SECRET not in repr(result) + msgspec.json.encode((result.to_record(), told)).decode()


async def test_s09_a_bug_is_raised_as_it_is_and_its_text_is_told_to_nobody() -> None:
    told: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        told.append(event)

    async def agent(context: AgentContext) -> str:
        raise ValueError(SECRET)

    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, note)
        with pytest.raises(ValueError, match=SECRET):
            await AgentExecutor(agent, event_bus=bus).execute(ask())
        await bus.drain()
    assert [(event.error_type, event.error_message) for event in told] == [
        (ErrorType.INTERNAL, "internal error (ValueError)")
    ]


class Lifespan:
    """A layer that tells when it is created and cleaned up."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    async def __aenter__(self) -> None:
        self.told.append("create")

    async def __aexit__(self, *_: object) -> None:
        self.told.append("clean up")

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


@pytest.mark.parametrize(
    ("error", "last"),
    [(None, EventType.AGENT_COMPLETED), (ProviderUnavailable("down"), EventType.ERROR_OCCURRED)],
    ids=["success", "failure"],
)
async def test_s12_events_and_layers_are_the_hooks_and_one_that_raises_is_reported(
    error: Exception | None, last: EventType
) -> None:
    told: list[str] = []
    reported: list[str] = []

    async def hook(event: SystemEvent) -> None:
        told.append(event.event_type)
        raise RuntimeError("broken hook")

    async def agent(context: AgentContext) -> str:
        if error is not None:
            raise error
        return "done"

    bus = EventBus(on_error=lambda event, error: reported.append(f"{event.event_type}: {error}"))
    await bus.subscribe(EventType.ANY, hook)
    async with AgentExecutor(agent, middleware=[Lifespan(told)], event_bus=bus) as executor:
        result = await executor.execute(ask())
        await bus.drain()
    assert (result.success, result.exception) == (error is None, error)
    events = [EventType.AGENT_STARTED, EventType.MIDDLEWARE_EXECUTED, last]
    assert told == ["create", *events, "clean up"]
    assert reported == [f"{event}: broken hook" for event in events]


OWN_TASK: StateKey[str] = StateKey("own task")


async def test_s13_ten_concurrent_runs_keep_metadata_memory_and_state_apart() -> None:
    here = 0
    all_here = anyio.Event()

    async def note(context: AgentContext, call_next: CallNext) -> AgentResult:
        context.run.state[OWN_TASK] = context.current_task
        return await call_next(context)

    async def agent(context: AgentContext) -> str:
        nonlocal here, all_here
        here, barrier = here + 1, all_here
        if here == 10:
            barrier.set()
            here, all_here = 0, anyio.Event()
        await barrier.wait()
        remembered = [message.content for message in context.messages]
        return "/".join([context.run.state[OWN_TASK], str(context.metadata["number"]), *remembered])

    executor = AgentExecutor(agent, middleware=[note], session_manager=SessionManager(MemorySessionStore()))
    results: dict[int, AgentResult] = {}

    async def run(number: int, task: str) -> None:
        results[number] = await executor.execute(ask(f"{task} {number}", f"s{number}", number=number))

    for task in ("first", "second"):
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(run, number, task)
    assert {number: result.output for number, result in results.items()} == {
        number: f"second {number}/{number}/first {number}/first {number}/{number}" for number in range(10)
    }
    assert len({result.run_id for result in results.values()}) == 10


@pytest.mark.parametrize("error", [ProviderUnavailable("down"), ValueError("a bug")], ids=["failure", "bug"])
async def test_s14_the_second_of_three_fails_alone(error: Exception) -> None:
    async def agent(context: AgentContext) -> str:
        if context.current_task == "two":
            raise error
        return context.current_task

    results = await AgentExecutor(agent).execute_batch([ask("one"), ask("two"), ask("three")])
    assert [(result.success, result.output) for result in results] == [(True, "one"), (False, ""), (True, "three")]
    assert results[1].exception is error


async def test_s14_of_twenty_items_no_more_than_two_run_at_once() -> None:
    running = most = 0

    async def agent(context: AgentContext) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(int(context.current_task) % 3):
            await checkpoint()
        running -= 1
        return context.current_task

    tasks = [str(number) for number in range(20)]
    results = await AgentExecutor(agent).execute_batch([ask(task) for task in tasks], max_concurrency=2)
    assert [result.output for result in results] == tasks
    assert most == 2
