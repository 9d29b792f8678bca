import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.stores.distant import Distant

from agent_runtime import (
    ConfigurationError,
    CorruptRecord,
    EventBus,
    EventType,
    FunctionCall,
    InvalidInput,
    LimitExceeded,
    Limits,
    MemorySessionStore,
    Message,
    NotFound,
    Owner,
    Refusal,
    Session,
    SessionConflict,
    SessionFields,
    SessionManager,
    SessionQuota,
    SessionStore,
    StoredSession,
    SystemEvent,
)

ANN = Owner(tenant_id="acme", user_id="ann")
HELLO = Message(role="user", content="hello")
SMALL = Limits(message_bytes=100, history_messages=3, history_bytes=1_000, metadata_bytes=100, checkpoint_bytes=200)


@pytest.fixture
def sessions() -> SessionManager:
    return SessionManager(MemorySessionStore(), limits=SMALL)


@pytest.fixture
async def session(sessions: SessionManager) -> Session:
    return await sessions.create(owner=ANN, agent_id="a", session_id="s", metadata={"k": "v"})


# What is refused


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_lifetime_that_is_none_is_refused(ttl: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        SessionManager(MemorySessionStore(), ttl=ttl)


@pytest.mark.parametrize("name", ["max_sessions", "max_sessions_per_user"])
def test_a_limit_of_no_sessions_is_refused(name: str) -> None:
    limits: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=name):
        SessionManager(MemorySessionStore(), **limits)


async def test_wrong_ids_and_names_are_refused_by_every_call(sessions: SessionManager, session: Session) -> None:
    bad = Owner(tenant_id="", user_id="ann")
    calls: dict[str, Callable[[Owner, str], Awaitable[object]]] = {
        "create": lambda owner, key: sessions.create(owner=owner, agent_id="a", session_id=key),
        "open": lambda owner, key: sessions.open(key, owner=owner, agent_id="a"),
        "get": lambda owner, key: sessions.get(key, owner=owner),
        "exists": lambda owner, key: sessions.exists(key, owner=owner),
        "update": lambda owner, key: sessions.update(key, owner=owner),
        "update_metadata": lambda owner, key: sessions.update_metadata(key, {}, owner=owner),
        "refresh": lambda owner, key: sessions.refresh(key, owner=owner),
        "close": lambda owner, key: sessions.close(key, owner=owner),
        "delete": lambda owner, key: sessions.delete(key, owner=owner),
        "append": lambda owner, key: sessions.append_messages(key, [HELLO], owner=owner),
        "messages": lambda owner, key: sessions.messages(key, owner=owner),
        "save": lambda owner, key: sessions.save_checkpoint(key, {}, owner=owner),
        "get_checkpoint": lambda owner, key: sessions.get_checkpoint(key, "c", owner=owner),
        "latest": lambda owner, key: sessions.latest_checkpoint(key, owner=owner),
        "list": lambda owner, key: sessions.list_checkpoints(key, owner=owner),
        "delete_checkpoint": lambda owner, key: sessions.delete_checkpoint(key, "c", owner=owner),
        "clear": lambda owner, key: sessions.clear_checkpoints(key, owner=owner),
        "fork": lambda owner, key: sessions.fork(key, "c", owner=owner),
    }
    for call in calls.values():
        with pytest.raises(InvalidInput, match="session_id"):
            await call(ANN, "no id")
        with pytest.raises(InvalidInput, match="tenant_id"):
            await call(bad, "s")
    for only_owner in (sessions.list_by_user, sessions.count, sessions.delete_by_user):
        with pytest.raises(InvalidInput, match="tenant_id"):
            await only_owner(owner=bad)
    with pytest.raises(InvalidInput, match="tenant_id"):
        await sessions.delete_by_agent("a", owner=bad)
    assert await sessions.list_by_user(owner=ANN) == (session,)


async def test_wrong_agents_and_checkpoints_are_refused(sessions: SessionManager, session: Session) -> None:
    agents = (
        sessions.create(owner=ANN, agent_id=""),
        sessions.open("t", owner=ANN, agent_id="\n"),
        sessions.update("s", owner=ANN, agent_id=""),
        sessions.delete_by_agent("", owner=ANN),
    )
    for call in agents:
        with pytest.raises(InvalidInput, match="agent_id"):
            await call
    checkpoints = (
        sessions.save_checkpoint("s", {}, owner=ANN, checkpoint_id="a:b"),
        sessions.get_checkpoint("s", "", owner=ANN),
        sessions.delete_checkpoint("s", "*", owner=ANN),
        sessions.fork("s", "../c", owner=ANN),
    )
    for checkpoint_call in checkpoints:
        with pytest.raises(InvalidInput, match="checkpoint_id"):
            await checkpoint_call
    assert await sessions.list_by_user(owner=ANN) == (session,)


async def test_metadata_that_is_too_much_or_no_json_changes_nothing(sessions: SessionManager, session: Session) -> None:
    for metadata in ({"k": "x" * 100}, {"k": float("nan")}, {"k": object()}):
        for call in (
            sessions.create(owner=ANN, agent_id="a", metadata=metadata),
            sessions.update("s", owner=ANN, metadata=metadata),
            sessions.update_metadata("s", metadata, owner=ANN),
        ):
            with pytest.raises((InvalidInput, LimitExceeded), match="metadata"):
                await call
    assert await sessions.list_by_user(owner=ANN) == (session,)


async def test_a_checkpoint_that_is_too_much_or_no_json_is_not_saved(
    sessions: SessionManager, session: Session
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(64):
        deep = {"a": deep}
    for state in ({"k": "x" * 200}, {"k": {1}}, deep):
        with pytest.raises((InvalidInput, LimitExceeded), match="checkpoint"):
            await sessions.save_checkpoint("s", state, owner=ANN)
    assert await sessions.list_checkpoints("s", owner=ANN) == ()
    roomy = SessionManager(MemorySessionStore())
    await roomy.create(owner=ANN, agent_id="a", session_id="s")
    saved = await roomy.save_checkpoint("s", deep["a"], owner=ANN)
    assert saved.state == deep["a"]


# Messages


@pytest.mark.parametrize(
    "messages",
    [
        [Message(role="user", content=cast(str, 5))],
        [Message(role=cast(Any, "king"), content="x")],
        [Message(role="user", tool_calls=cast(Any, ["x"]))],
        [Message(role="user", tool_calls=(FunctionCall(id="a", name="b", arguments="\ud800"),))],
        [cast(Message, object())],
        [cast(Message, None)],
    ],
)
async def test_what_is_no_message_is_refused(
    sessions: SessionManager, session: Session, messages: list[Message]
) -> None:
    with pytest.raises(InvalidInput, match="message"):
        await sessions.append_messages("s", messages, owner=ANN)
    assert await sessions.messages("s", owner=ANN) == ()


async def test_messages_up_to_their_limits_are_kept_and_larger_ones_refused(
    sessions: SessionManager, session: Session
) -> None:
    for content in ("x" * 100, "ü" * 50):
        await sessions.append_messages("s", [Message(role="user", content=content)], owner=ANN)
        with pytest.raises(LimitExceeded, match="message_bytes"):
            await sessions.append_messages("s", [Message(role="user", content=content + "x")], owner=ANN)
    await sessions.append_messages("s", [HELLO] * 3, owner=ANN)
    with pytest.raises(LimitExceeded, match="history_messages"):
        await sessions.append_messages("s", [HELLO] * 4, owner=ANN)
    long_call = FunctionCall(id="c", name="n", arguments="x" * 1_000)
    with pytest.raises(LimitExceeded, match="history_bytes"):
        await sessions.append_messages("s", [Message(role="assistant", tool_calls=(long_call,))], owner=ANN)
    assert len(await sessions.messages("s", owner=ANN)) == 5


async def test_half_a_character_of_a_model_does_not_lose_its_answer(sessions: SessionManager, session: Session) -> None:
    await sessions.append_messages("s", [HELLO, Message(role="assistant", content="ok \ud83d")], owner=ANN)
    assert [message.content for message in await sessions.messages("s", owner=ANN)] == ["hello", "ok �"]


async def test_nothing_appended_still_tells_of_a_conflict(sessions: SessionManager, session: Session) -> None:
    assert await sessions.append_messages("s", [], owner=ANN, expected=0) == 0
    with pytest.raises(SessionConflict, match="changed"):
        await sessions.append_messages("s", [], owner=ANN, expected=1)
    await sessions.close("s", owner=ANN)
    with pytest.raises(SessionConflict, match="closed"):
        await sessions.append_messages("s", [], owner=ANN)
    with pytest.raises(NotFound, match=r"^there is no session 't' of this owner$"):
        await sessions.append_messages("t", [], owner=ANN)


async def test_a_turn_on_an_old_length_is_a_conflict(sessions: SessionManager, session: Session) -> None:
    assert await sessions.append_messages("s", [HELLO], owner=ANN, expected=session.message_count) == 1
    with pytest.raises(SessionConflict, match="changed"):
        await sessions.append_messages("s", [HELLO], owner=ANN, expected=session.message_count)
    assert await sessions.messages("s", owner=ANN) == (HELLO,)


async def test_a_window_is_the_end_of_the_conversation(sessions: SessionManager, session: Session) -> None:
    turns = [Message(role="user", content=str(n)) for n in range(3)]
    await sessions.append_messages("s", turns, owner=ANN)
    for window in range(5):
        expected = tuple(turns[max(0, 3 - window) :])
        assert await sessions.messages("s", owner=ANN, window=window) == expected
    with pytest.raises(InvalidInput, match="window"):
        await sessions.messages("s", owner=ANN, window=-1)
    assert await sessions.messages("s", owner=ANN, window=2**70) == tuple(turns)


async def test_the_last_checkpoints_are_the_newest(sessions: SessionManager, session: Session) -> None:
    saved = [await sessions.save_checkpoint("s", {"n": n}, owner=ANN) for n in range(3)]
    for last in range(5):
        expected = tuple(reversed(saved))[:last]
        assert await sessions.list_checkpoints("s", owner=ANN, last=last) == expected
    with pytest.raises(InvalidInput, match="last"):
        await sessions.list_checkpoints("s", owner=ANN, last=-1)
    assert await sessions.list_checkpoints("s", owner=ANN, last=2**70) == tuple(reversed(saved))


async def test_nothing_kept_is_shared_with_the_caller(sessions: SessionManager) -> None:
    metadata: dict[str, Any] = {"tags": ["a"]}
    calls = [FunctionCall(id="c", name="n")]
    made = await sessions.create(owner=ANN, agent_id="a", session_id="s", metadata=metadata)
    message = Message(role="assistant", tool_calls=cast("tuple[FunctionCall, ...]", calls))
    await sessions.append_messages("s", [message], owner=ANN)
    state: dict[str, Any] = {"steps": [1]}
    saved = await sessions.save_checkpoint("s", state, owner=ANN)
    for value in (metadata["tags"], made.metadata["tags"], calls, state["steps"], saved.state["steps"]):
        value.clear()
    kept = await sessions.get("s", owner=ANN)
    latest = await sessions.latest_checkpoint("s", owner=ANN)
    assert kept is not None and kept.metadata == {"tags": ["a"]}
    assert latest is not None and latest.state == {"steps": [1]}
    assert (await sessions.messages("s", owner=ANN))[0].tool_calls == (FunctionCall(id="c", name="n"),)


# Sessions


async def test_an_id_that_the_owner_has_already_is_a_conflict(sessions: SessionManager, session: Session) -> None:
    with pytest.raises(SessionConflict, match="exists"):
        await sessions.create(owner=ANN, agent_id="a", session_id="s")
    other = Owner(tenant_id="acme", user_id="bob")
    assert (await sessions.create(owner=other, agent_id="a", session_id="s")).metadata == {}


async def test_an_update_sets_what_is_given(sessions: SessionManager, session: Session) -> None:
    assert (await sessions.update("s", owner=ANN, agent_id="b")).metadata == {"k": "v"}
    changed = await sessions.update("s", owner=ANN, metadata={}, expected=2)
    assert (changed.agent_id, changed.metadata, changed.version) == ("b", {}, 3)
    with pytest.raises(SessionConflict, match="changed"):
        await sessions.update("s", owner=ANN, metadata={"x": 1}, expected=2)
    assert await sessions.get("s", owner=ANN) == changed


async def test_a_merge_function_that_raises_changes_nothing(sessions: SessionManager, session: Session) -> None:
    def fail(old: dict[str, Any]) -> Mapping[str, Any]:
        old["k"] = "spoiled"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await sessions.update_metadata("s", fail, owner=ANN)
    assert await sessions.get("s", owner=ANN) == session


async def test_a_closed_session_is_read_but_not_opened(sessions: SessionManager, session: Session) -> None:
    await sessions.save_checkpoint("s", {}, owner=ANN, checkpoint_id="c")
    closed = await sessions.close("s", owner=ANN)
    assert closed.closed
    assert (await sessions.close("s", owner=ANN)).closed
    calls: Sequence[Awaitable[object]] = (
        sessions.open("s", owner=ANN, agent_id="a"),
        sessions.append_messages("s", [HELLO], owner=ANN),
        sessions.save_checkpoint("s", {}, owner=ANN),
    )
    for call in calls:
        with pytest.raises(SessionConflict, match="closed"):
            await call
    assert (await sessions.update_metadata("s", {"a": 1}, owner=ANN)).closed
    assert (await sessions.update("s", owner=ANN, agent_id="b")).closed
    assert not (await sessions.fork("s", "c", owner=ANN)).closed


async def test_a_fork_goes_on_alone(sessions: SessionManager, session: Session) -> None:
    await sessions.append_messages("s", [HELLO], owner=ANN)
    saved = await sessions.save_checkpoint("s", {"step": 1}, owner=ANN)
    await sessions.append_messages("s", [HELLO, HELLO], owner=ANN)
    fork = await sessions.fork("s", saved.checkpoint_id, owner=ANN)
    assert (fork.agent_id, fork.metadata, fork.message_count) == ("a", {"k": "v"}, 1)
    assert await sessions.messages(fork.session_id, owner=ANN) == (HELLO,)
    latest = await sessions.latest_checkpoint(fork.session_id, owner=ANN)
    assert latest is not None and (latest.state, latest.sequence) == ({"step": 1}, 1)
    assert len(await sessions.messages("s", owner=ANN)) == 3
    with pytest.raises(NotFound, match=r"^there is no checkpoint 'c' of session 's' of this owner$"):
        await sessions.fork("s", "c", owner=ANN)


async def test_all_of_a_user_or_of_an_agent_is_deleted(sessions: SessionManager, session: Session) -> None:
    other = Owner(tenant_id="globex", user_id="ann")
    await sessions.create(owner=other, agent_id="a")
    await sessions.create(owner=ANN, agent_id="b")
    assert await sessions.delete_by_agent("a", owner=ANN) == 1
    assert await sessions.delete_by_user(owner=ANN) == 1
    assert await sessions.count(owner=other) == 1


async def test_what_is_shown_of_a_session_holds_no_content(sessions: SessionManager, session: Session) -> None:
    saved = await sessions.save_checkpoint("s", {"k": "v"}, owner=ANN)
    assert repr(session) == "Session('s', version=1, 0 messages)"
    assert repr(saved) == f"Checkpoint({saved.checkpoint_id!r}, session_id='s', sequence=1)"


async def test_a_damaged_session_is_neither_absent_nor_made_again() -> None:
    store = MemorySessionStore()
    sessions = SessionManager(store)
    await store.create(ANN, "s", SessionFields(agent_id="a", data=b"damaged"), SessionQuota(ttl=60), operation="o")
    for call in (
        sessions.get("s", owner=ANN),
        sessions.open("s", owner=ANN, agent_id="a"),
        sessions.update_metadata("s", {}, owner=ANN),
        sessions.list_by_user(owner=ANN),
    ):
        with pytest.raises(CorruptRecord, match="session 's'"):
            await call


# Somebody else in between


class Contested(MemorySessionStore):
    """A store where another worker is always a moment ahead."""

    async def create(self, *args: Any, operation: str, **options: Any) -> StoredSession | Refusal:
        await super().create(*args, operation="theirs", **options)
        return await super().create(*args, operation=operation, **options)

    async def write(self, *args: Any, operation: str, **options: Any) -> StoredSession | Refusal:
        await super().write(*args, operation=f"{operation}-theirs", **options)
        return await super().write(*args, operation=operation, **options)


class Flickering(Contested):
    """A store where the other worker also deletes what it made."""

    async def read(self, owner: Owner, session_id: str) -> StoredSession | None:
        return None


async def test_a_session_that_another_worker_makes_at_the_same_time_is_opened() -> None:
    sessions = SessionManager(Contested())
    assert (await sessions.open("s", owner=ANN, agent_id="a")).version == 1


async def test_an_update_or_open_that_never_gets_its_turn_gives_up() -> None:
    sessions = SessionManager(Contested())
    await sessions.open("s", owner=ANN, agent_id="a")
    with pytest.raises(SessionConflict, match="changed"):
        await sessions.update_metadata("s", {"a": 1}, owner=ANN)
    with pytest.raises(SessionConflict, match="changed"):
        await SessionManager(Flickering()).open("s", owner=ANN, agent_id="a")


async def increment(sessions: SessionManager) -> None:
    await sessions.update_metadata("s", lambda old: {"n": old.get("n", 0) + 1}, owner=ANN)


async def test_fifty_increments_on_a_distant_store_give_fifty() -> None:
    sessions = SessionManager(Distant())
    await sessions.create(owner=ANN, agent_id="a", session_id="s")
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(increment, sessions)
    session = await sessions.get("s", owner=ANN)
    assert session is not None and session.metadata == {"n": 50}


CALLS: dict[str, Callable[[SessionManager], Coroutine[Any, Any, object]]] = {
    "create": lambda sessions: sessions.create(owner=ANN, agent_id="a", session_id="new"),
    "open": lambda sessions: sessions.open("new", owner=ANN, agent_id="a"),
    "update_metadata": increment,
    "append": lambda sessions: sessions.append_messages("s", [HELLO, HELLO], owner=ANN),
    "save": lambda sessions: sessions.save_checkpoint("s", {"n": 2}, owner=ANN, checkpoint_id="c2"),
    "clear": lambda sessions: sessions.clear_checkpoints("s", owner=ANN),
    "delete": lambda sessions: sessions.delete("s", owner=ANN),
}


async def everything(sessions: SessionManager) -> list[object]:
    found: list[object] = []
    for session in await sessions.list_by_user(owner=ANN):
        name = session.session_id
        found += [name, session.version, session.metadata, await sessions.messages(name, owner=ANN)]
        checkpoints = await sessions.list_checkpoints(name, owner=ANN)
        found += [(item.checkpoint_id, item.sequence, item.state) for item in checkpoints]
    return found


@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_any_await_a_call_has_done_all_or_nothing(name: str) -> None:
    async def furnished() -> SessionManager:
        sessions = SessionManager(Distant())
        await sessions.create(owner=ANN, agent_id="a", session_id="s")
        await sessions.append_messages("s", [HELLO], owner=ANN)
        await sessions.save_checkpoint("s", {"n": 1}, owner=ANN, checkpoint_id="c1")
        return sessions

    untouched = await everything(await furnished())
    finished = await furnished()
    await CALLS[name](finished)
    allowed = (untouched, await everything(finished))
    for turns in range(20):
        sessions = await furnished()
        async with anyio.create_task_group() as group:
            group.start_soon(CALLS[name], sessions)
            for _ in range(turns):
                await checkpoint()
            group.cancel_scope.cancel()
        assert await everything(sessions) in allowed, turns


# Events


async def test_events_say_whose_and_what() -> None:
    seen: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.ANY, seen.append)
        sessions = SessionManager(MemorySessionStore(), event_bus=bus)
        await sessions.create(owner=ANN, agent_id="a", session_id="s")
        await sessions.save_checkpoint("s", {"k": "v"}, owner=ANN, checkpoint_id="c")
        assert await sessions.get_checkpoint("s", "c", owner=ANN) is not None
        assert await sessions.get_checkpoint("s", "d", owner=ANN) is None
        fork = await sessions.fork("s", "c", owner=ANN)
        await bus.drain()
    told = [(event.event_type, event.session_id, event.agent_id, event.user_id, event.metadata) for event in seen]
    assert told == [
        ("session_created", "s", "a", "ann", {"tenant_id": "acme"}),
        ("checkpoint_saved", "s", "", "ann", {"tenant_id": "acme", "checkpoint_id": "c"}),
        ("checkpoint_restored", "s", "", "ann", {"tenant_id": "acme", "checkpoint_id": "c"}),
        ("session_created", fork.session_id, "a", "ann", {"tenant_id": "acme"}),
        ("checkpoint_restored", "s", "a", "ann", {"tenant_id": "acme", "checkpoint_id": "c"}),
    ]


async def test_a_bus_that_is_shut_down_or_not_listened_to_stops_nothing() -> None:
    bus = EventBus()
    sessions = SessionManager(MemorySessionStore(), event_bus=bus)
    assert not (await sessions.create(owner=ANN, agent_id="a")).closed
    async with bus:
        await bus.subscribe(EventType.SESSION_CREATED, print)
    await sessions.create(owner=ANN, agent_id="a")
    assert await sessions.count(owner=ANN) == 2


# Time and memory


async def test_any_number_of_sessions_is_cleaned_up_and_told_of() -> None:
    now = 0.0
    seen: list[SystemEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.SESSION_EXPIRED, seen.append, queue_size=3_000)
        sessions = SessionManager(MemorySessionStore(clock=lambda: now), ttl=10, event_bus=bus)
        for _ in range(2_500):
            await sessions.create(owner=Owner(tenant_id=None, user_id="bob"), agent_id="a")
        now = 10.0
        assert await sessions.cleanup_expired() == 2_500
        await bus.drain()
    assert len({event.session_id for event in seen}) == 2_500
    assert {str(event.metadata) for event in seen} == {"{}"}


async def test_a_longer_life_given_after_a_shorter_one_holds() -> None:
    now = 0.0
    store = MemorySessionStore(clock=lambda: now)
    fields = SessionFields(agent_id="a", data=b"")
    await store.create(ANN, "s", fields, SessionQuota(ttl=100), operation="o")
    for version, ttl in ((1, 10.0), (2, 1_000.0)):
        await store.write(ANN, "s", fields, expected=version, ttl=ttl, operation=f"o{version}")
    for moment in (10.0, 100.0, 999.0):
        now = moment
        assert await store.count(ANN) == 1
    now = 1_000.0
    assert await store.count(ANN) == 0


async def growth(churn: Callable[[int], Awaitable[None]]) -> int:
    """Bytes that 3,000 rounds leave behind, after the first 200. One kept entry a round would be 300,000 and more."""
    await churn(200)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await churn(3_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


async def test_deleted_sessions_leave_no_memory_behind() -> None:
    sessions = SessionManager(MemorySessionStore())
    await sessions.create(owner=ANN, agent_id="a")

    async def churn(times: int) -> None:
        for _ in range(times):
            made = await sessions.create(owner=ANN, agent_id="a")
            await sessions.append_messages(made.session_id, [HELLO], owner=ANN)
            await sessions.delete(made.session_id, owner=ANN)

    assert await growth(churn) < 200_000


async def test_a_life_that_is_shortened_and_prolonged_leaves_no_memory_behind() -> None:
    now = 0.0
    store = MemorySessionStore(clock=lambda: now)
    fields = SessionFields(agent_id="a", data=b"")
    await store.create(ANN, "s", fields, SessionQuota(ttl=1_000), operation="o")
    version = 1

    async def churn(times: int) -> None:
        nonlocal now, version
        for _ in range(times):
            for ttl in (1.0, 1_000.0):
                await store.write(ANN, "s", fields, expected=version, ttl=ttl, operation=f"o{version}")
                version += 1
            now += 1.0

    assert await growth(churn) < 200_000
    assert version == 6_401


class Delegating:
    """A store of somebody's own: each name that it does not know is the other store's."""

    def __init__(self, store: object) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Opened(MemorySessionStore):
    async def __aenter__(self) -> None:
        raise AssertionError("whoever has made it opens it")

    async def __aexit__(self, *_: object) -> None: ...


async def test_a_store_around_a_store_that_is_opened_need_not_be_opened_itself() -> None:
    store = cast(SessionStore, Delegating(Opened()))
    async with SessionManager(store) as sessions:
        await sessions.create(owner=ANN, agent_id="a")
        assert await sessions.count(owner=ANN) == 1
