"""Leases of sessions, stores that are slow or silent, and sessions that are taken from one store to another."""

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from tests.stores.distant import Distant
from tests.stores.mortal import Mortal

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    ConfigurationError,
    CorruptRecord,
    ErrorType,
    EventBus,
    EventType,
    InvalidInput,
    Lease,
    LimitExceeded,
    Limits,
    MemorySessionStore,
    Message,
    NotFound,
    OutcomeUnknown,
    Owner,
    SessionConflict,
    SessionManager,
    StoreUnavailable,
    exported_session_id,
)
from agent_runtime.records import encode_record
from agent_runtime.session_transfer import ExportedCheckpoint, ExportedSession
from agent_runtime.testing import no_leaks

ANN = Owner(tenant_id=None, user_id="ann")
HELLO = Message(role="user", content="hello")
ASKED = AgentContext(user_id="ann", session_id="s", current_task="hello")
QUICK = Limits(lease=0.15, lease_renewal=0.05, store=0.05)


class World:
    """A store whose clock is set by hand, with session "s" in it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.store = MemorySessionStore(clock=lambda: self.now)
        self.sessions = SessionManager(self.store)

    async def made(self) -> "World":
        await self.sessions.create(owner=ANN, agent_id="a", session_id="s")
        return self


@pytest.fixture
async def world() -> World:
    return await World().made()


# Leases


async def test_one_holder_at_a_time_with_a_growing_fence(world: World) -> None:
    sessions = world.sessions
    async with no_leaks():
        async with sessions.lease("s", owner=ANN) as first:
            assert first.session.session_id == "s"
            assert repr(first) == f"Lease('s', holder={first.holder!r}, fence={first.fence})"
            with pytest.raises(SessionConflict, match="session 's' is held by another run"):
                async with sessions.lease("s", owner=ANN, wait=0.02):
                    raise AssertionError
            await write_all(sessions, first)
            with pytest.raises(SessionConflict, match="held"):
                await sessions.append_messages("s", [HELLO], owner=ANN)
        async with sessions.lease("s", owner=ANN) as second:
            assert second.fence > first.fence
        await all_fenced(sessions, first)
        await all_fenced(sessions, second)
    assert len(await sessions.messages("s", owner=ANN)) == 1


async def write_all(sessions: SessionManager, lease: Lease) -> None:
    await sessions.append_messages("s", [HELLO], owner=ANN, lease=lease)
    await sessions.save_checkpoint("s", {"a": 1}, owner=ANN, lease=lease)
    await sessions.update("s", owner=ANN, metadata={"a": 1}, lease=lease)
    await sessions.update_metadata("s", {"b": 2}, owner=ANN, lease=lease)


async def all_fenced(sessions: SessionManager, lease: Lease) -> None:
    for write in (
        sessions.append_messages("s", [HELLO], owner=ANN, lease=lease),
        sessions.save_checkpoint("s", {"a": 1}, owner=ANN, lease=lease),
        sessions.update("s", owner=ANN, agent_id="b", lease=lease),
        sessions.update_metadata("s", {"b": 3}, owner=ANN, lease=lease),
    ):
        with pytest.raises(SessionConflict, match="taken over by another run while this one was paused; nothing was"):
            await write


async def test_who_waits_gets_its_turn(world: World) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with world.sessions.lease("s", owner=ANN, wait=5):
            order.append(number)
            await anyio.sleep(0.005)
            order.append(number)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(work, number)
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(5))


async def test_a_holder_that_crashed_keeps_others_out_for_its_time_only(world: World) -> None:
    held = await world.sessions.acquire("s", owner=ANN, holder="gone", seconds=30)
    world.now += 29.9
    with pytest.raises(SessionConflict):
        await world.sessions.acquire("s", owner=ANN, holder="next", seconds=30)
    world.now += 0.2
    taken = await world.sessions.acquire("s", owner=ANN, holder="next", seconds=30)
    assert taken.token.fence > held.token.fence
    assert await world.sessions.release("s", held.token, owner=ANN) is False
    assert await world.sessions.release("s", taken.token, owner=ANN) is True


async def test_what_cannot_be_leased(world: World) -> None:
    sessions = world.sessions
    wrong: list[Any] = [0, -1, float("nan"), 86_401, 1e12, "x", None]
    for ttl in wrong:
        with pytest.raises(InvalidInput, match=r"ttl is .*; it must be above 0 and at most 86400 seconds"):
            async with sessions.lease("s", owner=ANN, ttl=ttl):
                raise AssertionError
    wrong = [-1, float("nan"), "x", None]
    for wait in wrong:
        with pytest.raises(InvalidInput, match=r"wait is .*; it must be 0 or more seconds"):
            async with sessions.lease("s", owner=ANN, wait=wait):
                raise AssertionError
    with pytest.raises(NotFound):
        async with sessions.lease("other", owner=ANN):
            raise AssertionError
    await sessions.close("s", owner=ANN)
    with pytest.raises(SessionConflict, match="closed"):
        async with sessions.lease("s", owner=ANN):
            raise AssertionError


async def test_the_blocks_own_error_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with world.sessions.lease("s", owner=ANN):
            raise KeyError("mine")
    async with world.sessions.lease("s", owner=ANN):
        pass


async def test_a_lease_is_renewed_as_long_as_the_block_lasts(world: World) -> None:
    sessions = SessionManager(MemorySessionStore())
    await sessions.create(owner=ANN, agent_id="a", session_id="s")
    async with sessions.lease("s", owner=ANN, ttl=1):
        for _ in range(12):
            await anyio.sleep(0.1)
            with pytest.raises(SessionConflict):
                await sessions.append_messages("s", [HELLO], owner=ANN)


async def test_a_holder_that_lost_its_lease_is_stopped(world: World) -> None:
    reached = False
    with pytest.raises(SessionConflict, match="the lease of session 's' was lost"):
        async with world.sessions.lease("s", owner=ANN, ttl=0.06):
            world.now += 60
            await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
            await anyio.sleep(5)
            reached = True
    assert not reached


async def test_a_store_that_is_away_for_a_moment_costs_no_lease(world: World) -> None:
    store = Moody(world.store)
    sessions = SessionManager(store.as_store)
    held = await sessions.acquire("s", owner=ANN, holder="h", seconds=30)
    async with sessions.renewing("s", held.token, owner=ANN, seconds=30, every=0.01):
        for away in (True, False):
            store.away = away
            store.calls.clear()
            while store.calls.count("renew") < 2:  # noqa: ASYNC110 - a call of the store sets no event
                await anyio.sleep(0.005)
    await sessions.release("s", held.token, owner=ANN)
    store.calls.clear()
    with anyio.fail_after(3), pytest.raises(SessionConflict, match="was lost"):
        async with sessions.lease("s", owner=ANN, ttl=0.3):
            while "renew" not in store.calls:  # noqa: ASYNC110 - a call of the store sets no event
                await anyio.sleep(0.005)
            store.away = True
            await anyio.sleep(5)
    store.away = False


async def test_a_lost_lease_is_noticed_at_the_next_renewal(world: World) -> None:
    held = await world.sessions.acquire("s", owner=ANN, holder="h", seconds=30)
    with anyio.fail_after(2), pytest.raises(SessionConflict, match="was lost"):
        async with world.sessions.renewing("s", held.token, owner=ANN, seconds=30, every=0.02):
            world.now += 60
            await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
            await anyio.sleep(5)


class Moody(Mortal):
    """A store that is away now and then."""

    def __init__(self, store: MemorySessionStore) -> None:
        super().__init__(store)
        self.away = False
        self.before = self._refuse

    def _refuse(self, name: str, args: tuple[Any, ...]) -> None:
        if self.away and name != "release":
            raise StoreUnavailable("gone fishing")


async def test_a_cancelled_acquire_leaves_nothing_held() -> None:
    store = Distant()
    sessions = SessionManager(store)
    await sessions.create(owner=ANN, agent_id="a", session_id="s")
    for turns in range(6):
        scope = anyio.CancelScope()

        async def take(scope: anyio.CancelScope = scope, turns: int = turns) -> None:
            with scope:
                await sessions.acquire("s", owner=ANN, holder=f"h{turns}", seconds=30, entry=b"begun")
                await sessions.acquire("s", owner=ANN, holder="never", seconds=30, until=anyio.current_time() + 60)

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            for _ in range(turns):
                await checkpoint()
            scope.cancel()
        found = await sessions.get("s", owner=ANN)
        assert found is not None
        stored = await store.read(ANN, "s")
        assert stored is not None
        if stored.holder is not None:  # the first acquire was done, and its caller had the token
            assert stored.holder == f"h{turns}"
            held = await sessions.acquire("s", owner=ANN, holder=stored.holder, seconds=30, entry=b"begun")
            await sessions.finish_run("s", stored.holder, (), owner=ANN, token=held.token)
        assert not await sessions.stored_runs("s", owner=ANN)


async def test_an_undo_that_fails_or_has_nothing_to_undo_is_quiet(world: World) -> None:
    class Stuck(Moody):
        def __getattr__(self, name: str) -> Any:
            operation = super().__getattr__(name)

            async def slow(*args: Any, **options: Any) -> object:
                if name == "acquire" and self.calls.count("acquire") == 0:
                    self.calls.append("acquire")
                    await anyio.sleep_forever()
                return await operation(*args, **options)

            return slow

    for prepare in ("held", "away", "free"):
        store = Stuck(world.store)
        if prepare == "held":
            await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
        with anyio.move_on_after(0.02) as scope:
            await SessionManager(store.as_store).acquire("s", owner=ANN, holder="h", seconds=30)
        assert scope.cancelled_caught
        world.now += 60
        async with world.sessions.lease("s", owner=ANN):
            pass


# Runs that want the same session


@pytest.mark.parametrize("on_busy", ["reject", "wait", "allow"])
async def test_what_a_run_does_whose_session_is_held(world: World, on_busy: Any) -> None:
    inside = most = 0

    async def agent(context: AgentContext) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await anyio.sleep(0.01)
        inside -= 1
        return f"after {len(context.messages)}"

    executor = AgentExecutor(agent, session_manager=world.sessions, on_busy=on_busy)
    results = await executor.execute_batch([ASKED] * 3, max_concurrency=3)
    outputs = sorted(result.output for result in results)
    messages = await world.sessions.messages("s", owner=ANN)
    assert [message.role for message in messages[:2]] == ["user", "assistant"]
    if on_busy == "reject":
        assert outputs == ["", "", "after 0"]
        assert {result.error_type for result in results if not result.success} == {ErrorType.CONFLICT}
    elif on_busy == "wait":
        assert (outputs, most) == (["after 0", "after 2", "after 4"], 1)
    else:
        assert (outputs, most) == (["after 0"] * 3, 3)
        assert len(messages) == 6


async def test_a_run_waits_for_its_session_no_longer_than_its_deadline(world: World) -> None:
    await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)

    async def agent(context: AgentContext) -> str:
        raise AssertionError

    executor = AgentExecutor(agent, session_manager=world.sessions, on_busy="wait", limits=Limits(run=0.05))
    result = await executor.execute(ASKED)
    assert result.error_type in (ErrorType.TIMEOUT, ErrorType.CONFLICT)


async def test_a_run_whose_lease_is_lost_ends_and_touches_nothing(world: World) -> None:
    reached = False

    async def agent(context: AgentContext) -> str:
        nonlocal reached
        world.now += 60
        await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
        await anyio.sleep(5)
        reached = True
        return "too late"

    executor = AgentExecutor(agent, session_manager=world.sessions, limits=QUICK)
    result = await executor.execute(ASKED)
    assert isinstance(result.exception, SessionConflict)
    assert not reached
    assert await world.sessions.messages("s", owner=ANN) == ()


async def test_an_error_in_a_run_whose_lease_is_lost_is_the_cause(world: World) -> None:
    async def agent(context: AgentContext) -> str:
        world.now += 60
        await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
        try:
            await anyio.sleep(5)
        finally:
            raise KeyError("on the way out")

    executor = AgentExecutor(agent, session_manager=world.sessions, limits=QUICK)
    result = await executor.execute(ASKED)
    assert isinstance(result.exception, SessionConflict)
    assert isinstance(result.exception.__cause__, KeyError)


async def test_a_run_that_ends_just_after_its_lease_adds_nothing(world: World) -> None:
    async def agent(context: AgentContext) -> str:
        world.now += 60
        await world.sessions.acquire("s", owner=ANN, holder="other", seconds=30)
        return "too late"

    result = await AgentExecutor(agent, session_manager=world.sessions).execute(ASKED)
    assert isinstance(result.exception, SessionConflict)
    assert await world.sessions.messages("s", owner=ANN) == ()


async def test_a_store_that_fails_at_the_end_of_a_run_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    store = Mortal(world.store)

    async def agent(context: AgentContext) -> AgentResult:
        store.die()
        return AgentResult(success=False, error="no")

    result = await AgentExecutor(agent, session_manager=SessionManager(store.as_store)).execute(ASKED)
    assert result.error == "no"
    assert "its session stays held until the lease ends: this process is gone" in caplog.text


# Stores that are slow, or silent


class Slow(Mortal):
    """A store that takes its time over some operations."""

    def __init__(self, store: MemorySessionStore, slow: Sequence[str]) -> None:
        super().__init__(store)
        self.slow = list(slow)
        self.done: list[object] = []

    def __getattr__(self, name: str) -> Any:
        operation = super().__getattr__(name)

        async def late(*args: Any, **options: Any) -> object:
            result: object = await operation(*args, **options)
            if name in self.slow:
                self.slow.remove(name)
                await anyio.sleep_forever()
            return result

        return late


async def test_a_read_that_takes_too_long_is_an_outage(world: World) -> None:
    sessions = SessionManager(Slow(world.store, ["read"]).as_store, limits=QUICK)
    with pytest.raises(StoreUnavailable, match=r"the session store took longer than 0.05 s \(Limits.store\)"):
        await sessions.get("s", owner=ANN)


async def test_a_write_without_an_answer_is_sent_again_and_done_once(world: World) -> None:
    store = Slow(world.store, ["append", "append", "write", "create"])
    sessions = SessionManager(store.as_store, limits=QUICK)
    assert await sessions.append_messages("s", [HELLO], owner=ANN) == 1
    assert store.calls.count("append") == 3
    session = await sessions.update_metadata("s", lambda old: {"n": old.get("n", 0) + 1}, owner=ANN)
    assert (session.metadata, session.version) == ({"n": 1}, 2)
    assert (await sessions.create(owner=ANN, agent_id="a", session_id="t")).version == 1


async def test_a_write_that_is_never_answered_is_of_unknown_outcome(world: World) -> None:
    store = Slow(world.store, ["append"] * 3 + ["delete"])
    sessions = SessionManager(store.as_store, limits=QUICK)
    with pytest.raises(OutcomeUnknown, match=r"did not answer a write within 0\.05 s"):
        await sessions.append_messages("s", [HELLO], owner=ANN)
    assert await sessions.messages("s", owner=ANN) == (HELLO,)
    with pytest.raises(OutcomeUnknown):
        await sessions.delete("s", owner=ANN)
    assert store.calls.count("delete") == 1  # whose answer would not be the same again


async def test_a_lease_whose_taking_was_never_answered_is_given_back(world: World) -> None:
    store = Slow(world.store, ["acquire"] * 3)
    sessions = SessionManager(store.as_store, limits=QUICK)
    with pytest.raises(OutcomeUnknown):
        await sessions.acquire("s", owner=ANN, holder="h", seconds=30, entry=b"begun")
    assert not await sessions.stored_runs("s", owner=ANN)
    async with world.sessions.lease("s", owner=ANN):
        pass


async def test_an_unknown_outcome_that_the_store_reports_is_tried_again(world: World) -> None:
    store = Mortal(world.store)
    times = 2

    def lose(name: str, args: tuple[Any, ...]) -> None:
        nonlocal times
        times -= 1
        if times >= 0:
            raise OutcomeUnknown("the line was cut")

    store.after = lose
    sessions = SessionManager(store.as_store)
    assert await sessions.append_messages("s", [HELLO], owner=ANN) == 1
    times = 3
    with pytest.raises(OutcomeUnknown, match="the line was cut"):
        await sessions.append_messages("s", [HELLO], owner=ANN)


async def test_a_store_with_a_lifespan_is_opened_and_closed_by_whoever_enters_first_and_leaves_last() -> None:
    told: list[str] = []

    class Opened(MemorySessionStore):
        async def __aenter__(self) -> None:
            told.append("open")

        async def __aexit__(self, *args: object) -> None:
            told.append("close")

    async def agent(context: AgentContext) -> str:
        return "hello"

    sessions = SessionManager(Opened())
    async with AgentExecutor(agent, session_manager=sessions), AgentExecutor(agent, session_manager=sessions):
        assert told == ["open"]
    assert told == ["open", "close"]
    async with SessionManager(MemorySessionStore()) as plain:
        assert await plain.count(owner=ANN) == 0


# From one store to another


async def test_a_session_is_exported_and_imported(world: World) -> None:
    sessions = world.sessions
    await sessions.update_metadata("s", {"topic": "tea"}, owner=ANN)
    await sessions.append_messages("s", [HELLO], owner=ANN)
    await sessions.save_checkpoint("s", {"n": 1}, owner=ANN, checkpoint_id="c1")
    await sessions.append_messages("s", [HELLO, HELLO], owner=ANN)
    await sessions.save_checkpoint("s", {"n": 2}, owner=ANN, checkpoint_id="c2")
    data = await sessions.export("s", owner=ANN)
    assert await sessions.export("s", owner=ANN) == data
    bob = Owner(tenant_id="acme", user_id="bob")
    other = SessionManager(MemorySessionStore())
    made = await other.import_session(data, owner=bob)
    assert made.session_id != "s"
    named = await other.import_session(data, owner=bob, session_id="s")
    assert (named.agent_id, named.metadata, named.message_count, named.version) == ("a", {"topic": "tea"}, 3, 1)
    assert await other.messages("s", owner=bob) == (HELLO,) * 3
    found = await other.list_checkpoints("s", owner=bob)
    assert [(item.checkpoint_id, item.sequence, item.message_count, item.state) for item in found] == [
        ("c2", 2, 3, {"n": 2}),
        ("c1", 1, 1, {"n": 1}),
    ]
    assert (await other.fork("s", "c1", owner=bob)).message_count == 1
    empty = await sessions.create(owner=ANN, agent_id="a")
    moved = await other.import_session(await sessions.export(empty.session_id, owner=ANN), owner=bob)
    assert moved.message_count == 0


async def test_an_import_that_is_done_again_changes_nothing(world: World) -> None:
    published: list[str | None] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.SESSION_CREATED, lambda event: published.append(event.session_id))
        other = SessionManager(MemorySessionStore(), event_bus=bus)
        data = await world.sessions.export("s", owner=ANN)
        first = await other.import_session(data, owner=ANN, session_id="s")
        await other.append_messages("s", [HELLO], owner=ANN)
        again = await other.import_session(data, owner=ANN, session_id="s")
        await bus.drain()
    assert (first.message_count, again.message_count) == (0, 1)
    assert published == ["s"]
    await world.sessions.append_messages("s", [HELLO], owner=ANN)
    with pytest.raises(SessionConflict, match="exists already"):
        await other.import_session(await world.sessions.export("s", owner=ANN), owner=ANN, session_id="s")


async def test_a_closed_session_stays_closed_when_it_is_moved(world: World) -> None:
    await world.sessions.append_messages("s", [HELLO], owner=ANN)
    await world.sessions.save_checkpoint("s", {"n": 1}, owner=ANN, checkpoint_id="c")
    await world.sessions.close("s", owner=ANN)
    data = await world.sessions.export("s", owner=ANN)
    moved = await SessionManager(MemorySessionStore()).import_session(data, owner=ANN)
    assert (moved.closed, moved.message_count) == (True, 1)


async def test_an_export_knows_the_id_of_its_session(world: World) -> None:
    assert exported_session_id(await world.sessions.export("s", owner=ANN)) == "s"
    for data in (b"", b"OR", encode_record({"type": "session"}), encode_record({"type": "x", "session_id": "s"})):
        with pytest.raises(CorruptRecord, match="the exported session"):
            exported_session_id(data)


async def test_what_is_not_there_cannot_be_exported(world: World) -> None:
    for session_id, user in (("other", "ann"), ("s", "bob")):
        with pytest.raises(NotFound):
            await world.sessions.export(session_id, owner=Owner(tenant_id=None, user_id=user))


def exported(**changes: Any) -> bytes:
    session = ExportedSession(session_id="s", agent_id="a", metadata={}, messages=(HELLO,), checkpoints=())
    return encode_record(msgspec.structs.replace(session, **changes))


def at(message_count: int, checkpoint_id: str = "c") -> ExportedCheckpoint:
    return ExportedCheckpoint(checkpoint_id=checkpoint_id, state={}, message_count=message_count)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", CorruptRecord),
        (exported()[:-1], CorruptRecord),
        (exported(schema=2), CorruptRecord),
        (encode_record({"type": "session"}), CorruptRecord),
        (exported(agent_id=""), InvalidInput),
        (exported(metadata={"k": "x" * 20_000}), LimitExceeded),
        (exported(messages=(Message(role="user", content="x" * 300_000),)), LimitExceeded),
        (exported(checkpoints=(at(-1),)), InvalidInput),
        (exported(checkpoints=(at(2),)), InvalidInput),
        (exported(checkpoints=(at(1), at(1))), InvalidInput),
        (exported(checkpoints=(at(1, "no id"),)), InvalidInput),
    ],
)
async def test_what_could_not_have_been_stored_is_not_imported(data: bytes, error: type[Exception]) -> None:
    sessions = SessionManager(MemorySessionStore())
    with pytest.raises(error):
        await sessions.import_session(data, owner=ANN)
    assert await sessions.count(owner=ANN) == 0


def test_limits_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Limits.lease_renewal is 30.0; it must be below Limits.lease, 30.0"):
        Limits(lease_renewal=30.0)
