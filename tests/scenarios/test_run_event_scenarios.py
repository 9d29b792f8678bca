"""Scenarios 40 and 43 to 45: what a run tells the event bus."""

import time
from datetime import timedelta

import anyio
import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ErrorType,
    EventBus,
    EventType,
    ProviderUnavailable,
    RateLimited,
    RunFailed,
    SystemEvent,
)


class Noting:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[SystemEvent] = []

    async def __call__(self, event: SystemEvent) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.event_type for event in self.events]


def ask(task: str = "hello", user_id: str = "ann") -> AgentContext:
    return AgentContext(user_id=user_id, session_id="s1", current_task=task)


async def support(context: AgentContext) -> str:
    if context.current_task == "fail":
        raise ProviderUnavailable("the provider is down")
    return "done"


async def test_s40_started_comes_before_completed_and_both_say_whose_run_it_is() -> None:
    noting = Noting()
    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, noting)
        result = await AgentExecutor(support, event_bus=bus).execute(ask())
        await bus.drain()
    assert noting.kinds == [EventType.AGENT_STARTED, EventType.AGENT_COMPLETED]
    started, completed = noting.events
    for event in noting.events:
        assert (event.run_id, event.trace_id) == (result.run_id, result.trace_id)
        assert (event.agent_id, event.user_id, event.session_id) == ("support", "ann", "s1")
        assert event.timestamp.utcoffset() == timedelta(0)
    assert started.timestamp <= completed.timestamp and started.sequence < completed.sequence
    assert started.execution_time_ms is None
    assert completed.execution_time_ms is not None and completed.execution_time_ms > 0


async def test_s43_runs_end_while_a_handler_sleeps_and_closing_delivers_what_its_queue_kept() -> None:
    seen: list[str] = []
    asleep, awake = anyio.Event(), anyio.Event()

    async def sleeping(event: SystemEvent) -> None:
        asleep.set()
        await awake.wait()
        seen.append(event.run_id)

    bus = EventBus()
    subscription = await bus.subscribe(EventType.AGENT_COMPLETED, sleeping, queue_size=10)
    async with AgentExecutor(support, event_bus=bus) as executor:
        results = [await executor.execute(ask())]
        await asleep.wait()
        results += [await executor.execute(ask()) for _ in range(30)]
        assert all(result.success for result in results) and seen == []
        assert (bus.stats(subscription).queued, bus.stats(subscription).dropped) == (10, 20)
        awake.set()
    assert seen == [results[0].run_id, *(result.run_id for result in results[21:])]


async def test_s44_a_failing_agent_is_told_once_as_an_error_and_never_as_completed() -> None:
    alert, completed = Noting(), Noting()
    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, alert)
        await bus.subscribe(EventType.AGENT_COMPLETED, completed)
        await AgentExecutor(support, event_bus=bus).execute(ask("fail"))
        await bus.drain()
    assert [(event.error_type, event.error_message) for event in alert.events] == [
        (ErrorType.PROVIDER, "the provider is down")
    ]
    assert completed.events == []


async def test_s44_a_run_of_more_than_five_seconds_raises_the_slow_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    async def agent(context: AgentContext) -> str:
        nonlocal now
        now += float(context.current_task)
        return "done"

    slow = Noting()
    async with EventBus() as bus:
        await bus.subscribe(
            EventType.AGENT_COMPLETED, slow, where=lambda event: (event.execution_time_ms or 0.0) > 5_000
        )
        executor = AgentExecutor(agent, event_bus=bus)
        for seconds in ("0.5", "5.0", "6.0"):
            await executor.execute(ask(seconds))
        await bus.drain()
    assert [event.execution_time_ms for event in slow.events] == [6_000.0]


async def test_s45_handlers_are_routed_by_type_filtered_by_where_and_transformed_by_a_wrapper() -> None:
    failures, of_bob, anonymous, everything = Noting(), Noting(), Noting(), Noting()

    async def without_user(event: SystemEvent) -> None:
        await anonymous(event.replace(user_id="somebody"))

    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, failures)
        await bus.subscribe(EventType.ANY, of_bob, where=lambda event: event.user_id == "bob")
        await bus.subscribe(EventType.ANY, without_user)
        await bus.subscribe(EventType.ANY, everything)
        executor = AgentExecutor(support, event_bus=bus)
        await executor.execute(ask())
        await executor.execute(ask("fail", user_id="bob"))
        await bus.drain()
    anns = [EventType.AGENT_STARTED, EventType.AGENT_COMPLETED]
    bobs = [EventType.AGENT_STARTED, EventType.ERROR_OCCURRED]
    assert everything.kinds == anonymous.kinds == [*anns, *bobs]
    assert of_bob.kinds == bobs and failures.kinds == [EventType.ERROR_OCCURRED]
    assert [event.user_id for event in everything.events] == ["ann", "ann", "bob", "bob"]
    assert [event.user_id for event in anonymous.events] == ["somebody"] * 4


async def test_s44_a_run_that_a_layer_refuses_is_told_with_whose_it_was_and_never_as_started() -> None:
    async def refuse(context: AgentContext, call_next: CallNext) -> AgentResult:
        raise RateLimited("enough", retry_after=3.0, details={"limit": 1})

    everything = Noting()
    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, everything)
        executor = AgentExecutor(support, event_bus=bus, middleware=[refuse])
        told: list[RunFailed] = []
        async with executor.stream(ask()) as stream:
            with pytest.raises(RateLimited):
                async for event in stream:
                    assert isinstance(event, RunFailed)
                    told.append(event)
        await bus.drain()
    ended = everything.events[-1]
    assert EventType.AGENT_STARTED not in everything.kinds
    assert (ended.event_type, ended.user_id, ended.agent_id) == (EventType.ERROR_OCCURRED, "ann", "support")
    assert [(event.retry_after, event.retryable, event.error_details) for event in told] == [(3.0, True, {"limit": 1})]
