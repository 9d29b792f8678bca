"""LangGraph's graphs over our stores: its own conformance suite, and what we promise beyond it."""

import base64
import dataclasses
import operator
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict, cast

import anyio
import anyio.lowlevel
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel  # pyright: ignore[reportMissingTypeStubs]  # typed, but not marked so
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, empty_checkpoint
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.conformance import checkpointer_test, validate  # pyright: ignore[reportMissingTypeStubs]  # typed, but not marked so
from langgraph.checkpoint.conformance.report import CapabilityReport  # pyright: ignore[reportMissingTypeStubs]  # typed, but not marked so
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME
from langgraph.graph import END, START, MessagesState, StateGraph  # pyright: ignore[reportMissingTypeStubs]  # typed, but not marked so
from langgraph.types import Command, Send, interrupt
from tests.adapters.backends import BACKENDS, url_of
from tests.stores.failing import FailingStore

from agent_runtime import (
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    MemorySessionStore,
    NotFound,
    Owner,
    PermissionDenied,
    SessionConflict,
    SessionManager,
    Stores,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime.testing import Outcome, Trial, cancellations, inject
from agent_runtime_adapters.langgraph import LangGraphSaver
from agent_runtime_adapters.langgraph.names import session_name, thread_name
from agent_runtime_adapters.sqlite import SQLiteSessionStore

CAPABILITIES = {"put", "put_writes", "get_tuple", "list", "delete_thread", "delete_for_runs", "copy_thread", "prune"}
ANN = Owner(tenant_id=None, user_id="ann")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """LangGraph is asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module", params=BACKENDS)
async def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stores]:
    async with open_stores(url_of(request.param, tmp_path_factory, request)) as stores:
        yield stores


@pytest.fixture
def owner() -> Owner:
    return Owner(tenant_id="t", user_id=new_id())


@pytest.fixture
def saver(stores: Stores, owner: Owner) -> LangGraphSaver:
    return LangGraphSaver(SessionManager(stores.sessions), owner=owner)


def in_memory(store: Any = None, *, owner: Owner = ANN, allowed: Iterable[type] = ()) -> LangGraphSaver:
    return LangGraphSaver(SessionManager(store or MemorySessionStore()), owner=owner, allowed=allowed)


def at(thread: str = "t1", **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **more}}


def after(config: RunnableConfig, **more: Any) -> RunnableConfig:
    return {"configurable": {**config.get("configurable", {}), **more}}


def loop(step: int = 0, **more: Any) -> CheckpointMetadata:
    return cast("CheckpointMetadata", {"source": "loop", "step": step, "parents": {}, **more})


def holding(**values: Any) -> Checkpoint:
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, 1)}


async def put(saver: LangGraphSaver, config: RunnableConfig, step: int = 0, **values: Any) -> RunnableConfig:
    return await saver.aput(config, holding(**values), loop(step), {})


async def ids(saver: LangGraphSaver, config: RunnableConfig | None = None, **options: Any) -> list[str]:
    listed = saver.alist(config or at(), **options)
    return [found.checkpoint["id"] async for found in listed]


# LangGraph's own suite


async def test_langgraph_s_conformance_suite_passes_with_all_capabilities(stores: Stores) -> None:
    @checkpointer_test(name="LangGraphSaver")
    async def registered() -> AsyncGenerator[LangGraphSaver]:
        yield LangGraphSaver(SessionManager(stores.sessions), owner=Owner(tenant_id=None, user_id=new_id()))

    report: CapabilityReport = await validate(registered)
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert {name for name, result in report.results.items() if result.passed} == CAPABILITIES
    assert sum(result.tests_passed for result in report.results.values()) == 81


# Graphs


class Trail(TypedDict):
    done: Annotated[list[str], operator.add]


def trail(saver: LangGraphSaver, effects: list[str], *, pause: bool = False) -> Any:
    """Three nodes, each with an effect; with `pause` the second asks first."""
    graph = StateGraph(Trail)

    def node(name: str) -> Callable[[Trail], Awaitable[Trail]]:
        async def run(state: Trail) -> Trail:
            answer = interrupt(f"{name}?") if pause and name == "charge" else ""
            effects.append(name)
            await anyio.lowlevel.checkpoint()
            return {"done": [f"{name}{answer}"]}

        return run

    names = ("approve", "charge", "notify")
    for name in names:
        graph.add_node(name, cast("Any", node(name)))
    for one, other in zip((START, *names), (*names, END), strict=True):
        graph.add_edge(one, other)
    return cast("Any", graph).compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_run_that_waits_goes_on_in_another_process(tmp_path: Path, durability: str) -> None:
    effects: list[str] = []
    url = f"sqlite:///{tmp_path / 'agent.db'}"
    async with open_stores(url) as stores:
        graph = trail(LangGraphSaver(SessionManager(stores.sessions), owner=ANN), effects, pause=True)
        result = await graph.ainvoke({"done": []}, at(), durability=durability)
        assert result["__interrupt__"][0].value == "charge?"
    async with open_stores(url) as stores:
        graph = trail(LangGraphSaver(SessionManager(stores.sessions), owner=ANN), effects, pause=True)
        assert (await graph.aget_state(at())).next == ("charge",)
        result = await graph.ainvoke(Command(resume=" yes"), at(), durability=durability)
    assert result["done"] == ["approve", "charge yes", "notify"]
    assert effects == ["approve", "charge", "notify"]


async def test_messages_of_two_turns_are_kept_and_read_in_order() -> None:
    saver = in_memory()
    graph = StateGraph(MessagesState)

    async def answer(state: MessagesState) -> MessagesState:
        return {"messages": [AIMessage(f"answer {len(state['messages'])}")]}

    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    compiled: Any = cast("Any", graph).compile(checkpointer=saver)
    await compiled.ainvoke({"messages": [HumanMessage("one")]}, at())
    state = await compiled.ainvoke({"messages": [HumanMessage("two")]}, at())
    assert [message.content for message in state["messages"]] == ["one", "answer 1", "two", "answer 3"]
    assert len([state async for state in compiled.aget_state_history(at())]) == 6


def nested(saver: LangGraphSaver, asked: list[str], *, stateful: bool) -> Any:
    """A graph in a graph, which asks; `stateful` ones remember what they were given before."""
    inner = StateGraph(Trail)

    async def ask(state: Trail) -> Trail:
        answer = interrupt("which?")
        asked.append(answer)
        return {"done": [f"inner {answer}"]}

    inner.add_node("ask", cast("Any", ask))
    inner.add_edge(START, "ask")
    outer = StateGraph(Trail)
    outer.add_node("sub", cast("Any", inner).compile(checkpointer=True if stateful else None))
    outer.add_edge(START, "sub")
    return cast("Any", outer).compile(checkpointer=saver)


@pytest.mark.parametrize("stateful", [False, True])
async def test_a_graph_in_a_graph_waits_and_goes_on(stateful: bool) -> None:
    saver = in_memory()
    asked: list[str] = []
    for turn in ("one", "two"):
        assert "__interrupt__" in await nested(saver, asked, stateful=stateful).ainvoke({"done": [turn]}, at())
        result = await nested(saver, asked, stateful=stateful).ainvoke(Command(resume=turn), at())
        assert result["done"][-1] == f"inner {turn}"
    assert asked == ["one", "two"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_forty_graphs_at_once_wait_for_one_of_them(durability: str, owner: Owner, tmp_path: Path) -> None:
    class Numbered(Trail):
        number: int

    async def work(state: Numbered) -> Trail:
        if state["number"] == 7:
            interrupt("seven?")
        await anyio.sleep(0.001 * (state["number"] % 3))
        return {"done": [str(state["number"])]}

    def each(state: Trail) -> list[Send]:
        return [Send("sub", {"number": number, "done": []}) for number in range(40)]

    inner: Any = StateGraph(Numbered)
    inner.add_node("work", work)
    inner.add_edge(START, "work")
    outer: Any = StateGraph(Trail)
    outer.add_node("sub", inner.compile())
    outer.add_conditional_edges(START, each, ["sub"])
    async with SQLiteSessionStore(tmp_path / "agent.db", synchronous="NORMAL") as store:
        graph = outer.compile(checkpointer=in_memory(store, owner=owner))
        waiting = await graph.ainvoke({"done": []}, at(), durability=durability)
        assert [asked.value for asked in waiting["__interrupt__"]] == ["seven?"]
        result = await graph.ainvoke(Command(resume=True), at(), durability=durability)
        assert sorted(result["done"], key=int) == [str(number) for number in range(40)]
        assert (await graph.aget_state(at())).next == ()


async def test_time_travel_branches_off() -> None:
    saver = in_memory()
    effects: list[str] = []
    graph = trail(saver, effects)
    await graph.ainvoke({"done": []}, at())
    history = [state async for state in graph.aget_state_history(at())]
    before_charge = next(state.config for state in history if state.next == ("charge",))

    again = await graph.ainvoke(None, before_charge)
    assert again["done"] == ["approve", "charge", "notify"]
    other = await graph.ainvoke({"done": ["new"]}, before_charge)
    assert other["done"][:2] == ["approve", "new"]
    updated = await graph.aupdate_state(before_charge, {"done": ["edited"]})
    edited = await graph.ainvoke(None, updated)
    assert edited["done"][:2] == ["approve", "edited"]
    assert (await graph.aget_state(at())).values == edited
    assert (await graph.aget_state(history[0].config)).values["done"] == ["approve", "charge", "notify"]


async def test_writes_that_come_before_their_checkpoint_are_its_writes() -> None:
    saver = in_memory()
    first = await put(saver, at())
    late = holding()
    config = after(first, checkpoint_id=late["id"])
    await saver.aput_writes(config, [("x", 1)], "task")
    await saver.aput(first, late, loop(1), {})
    found = await saver.aget_tuple(at())
    assert found is not None and found.pending_writes == [("task", "x", 1)]


# Whose a thread is


async def everything(saver: LangGraphSaver, config: RunnableConfig) -> list[object]:
    """What each method that reads tells."""
    return [
        await saver.aget_tuple(config),
        await saver.aget(config),
        [item async for item in saver.alist(config)],
        [item async for item in saver.alist(None)],
    ]


async def test_another_owner_s_thread_is_like_one_that_is_not_there(saver: LangGraphSaver, owner: Owner) -> None:
    mine = await put(saver, at(), secret="canary")
    await saver.aput_writes(mine, [("x", "canary")], "task")
    for other in (Owner(tenant_id="t", user_id=new_id()), Owner(tenant_id=None, user_id=owner.user_id)):
        theirs = saver.of(other)
        assert await everything(theirs, at()) == await everything(theirs, at("no such")) == [None, None, [], []]
        assert await theirs.aget_tuple(mine) is None
        with pytest.raises(NotFound):
            await put(theirs, mine, step=1)
        with pytest.raises(NotFound):
            await theirs.aput_writes(mine, [("x", 1)], "task")
        with pytest.raises(NotFound):
            await theirs.acopy_thread("t1", "t2")
        await theirs.adelete_thread("t1")
        await theirs.adelete_for_runs(["r"])
        await theirs.aprune(["t1"], strategy="delete")
        await put(theirs, at(), mine="their own")
    found = await saver.aget_tuple(at())
    assert found is not None and found.checkpoint["channel_values"] == {"secret": "canary"}


async def test_the_configuration_says_whose_where_the_saver_does_not(stores: Stores) -> None:
    saver = LangGraphSaver(SessionManager(stores.sessions))
    user = new_id()
    for tenant in ("a", "b"):
        graph = trail(saver, [])
        result = await graph.ainvoke({"done": [tenant]}, at(user_id=user, tenant_id=tenant))
        assert result["done"][0] == tenant
        [*_, oldest] = [state async for state in graph.aget_state_history(at(user_id=user, tenant_id=tenant))]
        assert oldest.config["configurable"].items() >= {"user_id": user, "tenant_id": tenant}.items()
    with pytest.raises(InvalidInput, match="whose thread"):
        await saver.aget_tuple(at())
    with pytest.raises(InvalidInput, match="user_id"):
        await saver.aget_tuple(at(user_id=7))
    for call in (saver.adelete_thread("t1"), saver.aprune(["t1"]), saver.acopy_thread("t1", "t2")):
        with pytest.raises(ConfigurationError, match="whose threads"):
            await call
    with pytest.raises(ConfigurationError, match="whose threads"):
        await anext(aiter(saver.alist(None)))


async def test_owners_are_never_mixed() -> None:
    saver = in_memory(owner=Owner(tenant_id="t", user_id="ann"))
    await put(saver, at(user_id="ann", tenant_id="t"))
    for claim in ({"user_id": "bob"}, {"tenant_id": "u"}, {"user_id": "ann", "tenant_id": "u"}):
        for call in (saver.aget_tuple(at(**claim)), put(saver, at(**claim))):
            with pytest.raises(PermissionDenied):
                await call


@pytest.mark.parametrize("config", [{}, {"configurable": {}}, at(""), at("x" * 126), at("é" * 60), at("\ud800")])
async def test_a_configuration_without_a_thread_is_refused(config: RunnableConfig) -> None:
    with pytest.raises(InvalidInput, match="thread"):
        await in_memory().aget_tuple(config)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    | st.from_regex("(lgb?-)?[a-z]*", fullmatch=True)
)
def test_each_thread_has_a_session_of_its_own(thread: str) -> None:
    if thread:
        assert thread_name(session_name(thread)) == thread


async def test_other_sessions_are_no_threads() -> None:
    sessions = SessionManager(MemorySessionStore())
    saver = LangGraphSaver(sessions, owner=ANN)
    for name in ("support", "lgb-A", "lgb-_w"):
        await sessions.create(owner=ANN, agent_id="x", session_id=name)
    await put(saver, at("mine"))
    listed = [item.config.get("configurable", {}) async for item in saver.alist(None)]
    assert [found["thread_id"] for found in listed] == ["mine"]


# Order


async def test_the_latest_is_what_was_stored_last_whatever_the_clocks_say(
    saver: LangGraphSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects: list[str] = []
    await trail(saver, effects, pause=True).ainvoke({"done": []}, at())

    now = time.time_ns
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)
    monkeypatch.setattr(time, "time_ns", lambda: now() - 3_600 * 10**9)
    graph = trail(saver, effects, pause=True)  # a second worker, whose clock is an hour late
    result = await graph.ainvoke(Command(resume=""), at())
    assert result["done"] == ["approve", "charge", "notify"]

    state = await graph.aget_state(at())
    assert (state.values["done"], state.next) == (["approve", "charge", "notify"], ())
    stored = await ids(saver)
    assert stored[0] != max(stored)  # by LangGraph's ids it would be another
    assert [state.metadata["step"] async for state in graph.aget_state_history(at())] == [3, 2, 1, 0, -1]


async def test_before_is_what_was_stored_before_in_any_namespace() -> None:
    saver = in_memory()
    root = await put(saver, at())
    child = await put(saver, at(checkpoint_ns="child"))
    second = await put(saver, root, step=1)
    [newest, oldest] = await ids(saver)
    assert await ids(saver, at(checkpoint_ns="child"), before=second) == await ids(saver, at(checkpoint_ns="child"))
    assert await ids(saver, before=child) == [oldest]
    assert await ids(saver, before=root) == []
    assert await ids(saver, before=at(checkpoint_id="unknown")) == [newest, oldest]
    assert len(await ids(saver, {"configurable": {"thread_id": "t1"}})) == 3
    assert await ids(saver, after(root)) == [oldest]
    assert await ids(saver, limit=0) == []
    assert await saver.aget_tuple(at(checkpoint_ns="other")) is None


async def test_the_newest_of_a_long_thread_is_read_without_the_rest() -> None:
    store = MemorySessionStore()
    read: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def checkpoints(self, *args: Any, **options: Any) -> Any:
            found = await store.checkpoints(*args, **options)
            read.append(len(found))
            return found

    saver = in_memory(Counting())
    config = at()
    for step in range(200):
        config = await put(saver, config, step=step)
        await saver.aput_writes(config, [("x", step)], "task")
    for latest in (at(), config):
        read.clear()
        assert await saver.aget_tuple(latest) is not None
        assert sum(read) <= 5
    read.clear()
    assert await saver.aget_tuple(at(checkpoint_ns="new|child")) is None
    assert sum(read) == 0


# Two workers


async def test_of_two_that_resume_the_same_thread_one_goes_on(stores: Stores, owner: Owner) -> None:
    effects: list[str] = []
    workers = [
        trail(LangGraphSaver(SessionManager(stores.sessions), owner=owner), effects, pause=True) for _ in range(2)
    ]
    await workers[0].ainvoke({"done": []}, at())
    outcomes: list[object] = []

    async def resume(graph: Any) -> None:
        try:
            result = await graph.ainvoke(Command(resume=""), at(), durability="sync")
            outcomes.append(result["done"])
        except SessionConflict as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(resume, worker)
    assert sorted(map(str, outcomes)) == sorted(map(str, [SessionConflict, ["approve", "charge", "notify"]]))
    assert effects.count("notify") == 1
    assert (await workers[0].aget_state(at())).values["done"] == ["approve", "charge", "notify"]


@pytest.mark.parametrize(("begun", "stored"), [(True, 1), (False, 2)])
async def test_where_a_run_is_stored_at_its_end_the_later_of_two_fails_then(begun: bool, stored: int) -> None:
    store = MemorySessionStore()
    if begun:
        await trail(in_memory(store), []).ainvoke({"done": []}, at())
    outcomes: list[str] = []

    async def run() -> None:
        try:
            await trail(in_memory(store), []).ainvoke({"done": []}, at(), durability="exit")
            outcomes.append("stored")
        except SessionConflict:
            outcomes.append("refused")

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(run)
    assert outcomes.count("stored") == stored


async def test_a_turn_keeps_the_second_from_beginning(stores: Stores, owner: Owner) -> None:
    effects: list[str] = []
    savers = [LangGraphSaver(SessionManager(stores.sessions), owner=owner) for _ in range(2)]
    refused: list[str] = []

    async def run(saver: LangGraphSaver) -> None:
        try:
            async with saver.turn(at()):
                await trail(saver, effects).ainvoke({"done": []}, at())
        except SessionConflict as error:
            refused.append(str(error))

    async with anyio.create_task_group() as group:
        for saver in savers:
            group.start_soon(run, saver)
    assert (effects, len(refused)) == (["approve", "charge", "notify"], 1)
    async with savers[1].turn(at(), wait=1):
        await trail(savers[1], effects).ainvoke({"done": []}, at())


async def test_two_that_begin_the_same_thread_are_not_both_stored() -> None:
    store = MemorySessionStore()
    begin = cast("CheckpointMetadata", {"source": "input", "step": -1})
    await in_memory(store).aput(at(), holding(), begin, {})
    with pytest.raises(SessionConflict, match="another run has gone on"):
        await in_memory(store).aput(at(), holding(), begin, {})


async def test_the_same_checkpoint_again_changes_nothing() -> None:
    saver = in_memory()
    checkpoint = holding(x=1)
    first = await put(saver, at())
    for _ in range(2):
        await saver.aput(first, checkpoint, loop(1), {})
    assert len(await ids(saver)) == 2


async def test_a_thread_that_was_deleted_under_a_run_does_not_come_back(saver: LangGraphSaver) -> None:
    config = await put(saver, at())
    await saver.adelete_thread("t1")
    with pytest.raises(NotFound):
        await put(saver, config, step=1)
    with pytest.raises(NotFound):
        await saver.aput_writes(config, [("x", 1)], "task")
    assert await everything(saver, at()) == [None, None, [], []]


async def test_writes_of_many_tasks_at_once_are_all_there(stores: Stores, owner: Owner) -> None:
    savers = [LangGraphSaver(SessionManager(stores.sessions), owner=owner) for _ in range(2)]
    config = await put(savers[0], at())
    async with anyio.create_task_group() as group:
        for n in range(30):
            group.start_soon(savers[n % 2].aput_writes, config, [("x", n), ("y", n)], f"task {n:02}")
    found = await savers[1].aget_tuple(at())
    assert found is not None
    assert found.pending_writes == [(f"task {n:02}", channel, n) for n in range(30) for channel in ("x", "y")]


async def test_the_first_write_counts_and_the_last_answer() -> None:
    store = MemorySessionStore()
    config = await put(in_memory(store), at())
    for answer in ("one", "two", "three", "two"):  # each from another process
        saver = in_memory(store)
        await saver.aput_writes(config, [("x", answer), (RESUME, answer), (INTERRUPT, answer)], "b", "~p, 2")
    await in_memory(store).aput_writes(config, [("x", "first in path")], "z", "~p, 1")
    found = await in_memory(store).aget_tuple(at())
    assert found is not None
    assert found.pending_writes == [
        ("z", "x", "first in path"),
        ("b", RESUME, "two"),
        ("b", INTERRUPT, "two"),
        ("b", "x", "one"),
    ]


async def test_what_checkpoints_are_written_to_is_not_remembered_for_ever() -> None:
    saver = in_memory()
    config = await put(saver, at())
    for n in range(600):
        await saver.aput_writes(after(config, checkpoint_id=f"c{n}"), [], "task")
    assert len(saver._threads._counters) == 512  # pyright: ignore[reportPrivateUsage]  # ours


# Faults


async def test_a_caller_may_write_while_it_lists() -> None:
    saver = in_memory()
    config = at()
    for step in range(3):
        config = await put(saver, config, step=step)
    with anyio.fail_after(5):
        async for found in saver.alist(at()):
            config = await put(saver, config, step=9)
            await saver.aput_writes(found.config, [("x", 1)], "task")
    assert len(await ids(saver)) == 6


async def test_cancelled_at_any_await_a_call_is_done_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "agent.db", synchronous="NORMAL") as store:
        await cancel_each_call(in_memory(store))


async def cancel_each_call(saver: LangGraphSaver) -> None:
    config = at()

    async def view(thread: str = "t1") -> list[Any]:
        return [(item.checkpoint["id"], item.pending_writes) async for item in saver.alist(at(thread))]

    async def prepare() -> RunnableConfig:
        for thread in ("t1", "t2"):
            await saver.adelete_thread(thread)
        found = await put(saver, at())
        await saver.aput_writes(found, [("x", 1), ("y", 2)], "task")
        return found

    new = holding(x=1)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "first put": lambda: saver.aput(at("t2"), new, loop(-1), {}),
        "put": lambda: saver.aput(config, new, loop(1), {}),
        "writes": lambda: saver.aput_writes(config, [("a", 1), ("b", 2)], "other"),
        "delete": lambda: saver.adelete_thread("t1"),
        "copy": lambda: saver.acopy_thread("t1", "t2"),
    }
    for call in calls.values():
        for fault in cancellations():
            config = await prepare()
            before = (await view(), await view("t2"))
            await call()
            whole = (await view(), await view("t2"))
            config = await prepare()
            ends = [forms((await view(), [])), forms(whole)]
            assert forms(before) == ends[0]

            async def attempt(call: Callable[[], Awaitable[object]] = call) -> None:
                await call()

            async def check(trial: Trial, ends: list[Any] = ends) -> None:
                nonlocal config
                assert trial.outcome in (Outcome.CANCELLED, Outcome.DONE)
                assert forms((await view(), await view("t2"))) in ends
                config = await prepare()

            await inject(attempt, fault=fault, check=check)


def forms(views: tuple[list[Any], list[Any]]) -> list[list[int]]:
    """How many writes each checkpoint has: what stays the same when ids are new."""
    return [[len(writes) for _, writes in view] for view in views]


@pytest.mark.parametrize("at_call", [1, 2])
async def test_an_outage_is_never_an_empty_thread(at_call: int) -> None:
    store = MemorySessionStore()
    config = await put(in_memory(store), at())
    failing = in_memory(FailingStore(store, at_call, "unavailable before", times=100))
    with pytest.raises(StoreUnavailable):
        await failing.aget_tuple(config)
    with pytest.raises(StoreUnavailable):
        await in_memory(FailingStore(store, 1, "unavailable before", times=100)).aget_tuple(at(checkpoint_ns="x"))


async def test_a_closed_thread_takes_nothing_more(saver: LangGraphSaver, stores: Stores, owner: Owner) -> None:
    config = await put(saver, at())
    await SessionManager(stores.sessions).close("lg-t1", owner=owner)
    for call in (put(saver, config, step=1), saver.aput_writes(config, [("x", 1)], "task"), put(saver, at())):
        with pytest.raises(SessionConflict, match="closed"):
            await call


# What is decoded


@dataclasses.dataclass
class Mine:
    """A class of the application's state."""

    name: str


class Attack:
    """Its construction would be the attack."""

    made: ClassVar[list[object]] = []

    def __init__(self, argument: object) -> None:
        self.made.append(argument)


def extension(code: int, *parts: object) -> bytes:
    return ormsgpack.packb({"channel_values": {"x": ormsgpack.Ext(code, ormsgpack.packb(parts))}})


@pytest.mark.parametrize(
    "payload",
    [
        extension(0, __name__, "Attack", "argument"),
        extension(1, __name__, "Attack", ("argument",)),
        extension(2, __name__, "Attack", {"argument": 1}),
        extension(3, __name__, "Attack", "argument", "made.append"),
        extension(4, __name__, "Attack", {"argument": 1}),
        extension(5, __name__, "Attack", {"argument": 1}, "model_validate_json"),
        extension(0, "os", "system", "exit 1"),
        extension(1, "subprocess", "call", (["false"],)),
    ],
)
async def test_what_an_attacker_has_stored_makes_no_object(payload: bytes) -> None:
    store, saver = await stored_by_an_attacker("msgpack", payload)
    found = await saver.aget_tuple(at())
    assert found is not None
    assert Attack.made == [] and type(found.checkpoint["channel_values"]["x"]) in (str, list, dict)
    assert store is not None


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("json", b'{"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["exit 1"]}'),
        ("json", b"{}"),
        ("pickle", b"cos\nsystem\n(S'exit 1'\ntR."),
        ("msgpack+aes", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x91" * 5_000),
    ],
)
async def test_other_forms_are_refused(kind: str, payload: bytes) -> None:
    _, saver = await stored_by_an_attacker(kind, payload)
    with pytest.raises(CorruptRecord):
        await saver.aget_tuple(at())


async def stored_by_an_attacker(kind: str, payload: bytes) -> tuple[MemorySessionStore, LangGraphSaver]:
    store = MemorySessionStore()
    sessions = SessionManager(store)
    saver = LangGraphSaver(sessions, owner=ANN)
    await put(saver, at())
    [stored] = await sessions.list_checkpoints("lg-t1", owner=ANN)
    await sessions.clear_checkpoints("lg-t1", owner=ANN)
    state = {**stored.state, "checkpoint": [kind, base64.b64encode(payload).decode()]}
    await sessions.save_checkpoint("lg-t1", state, owner=ANN, checkpoint_id=stored.checkpoint_id)
    return store, saver


async def test_a_record_of_something_else_is_corrupt() -> None:
    sessions = SessionManager(MemorySessionStore())
    saver = LangGraphSaver(sessions, owner=ANN)
    await put(saver, at())
    [stored] = await sessions.list_checkpoints("lg-t1", owner=ANN)
    await sessions.save_checkpoint("lg-t1", {"kind": "writes"}, owner=ANN, checkpoint_id=f"{stored.checkpoint_id}x")
    with pytest.raises(CorruptRecord, match="is damaged"):
        await saver.aget_tuple(at())


async def test_classes_that_are_allowed_come_back_and_others_as_data() -> None:
    store = MemorySessionStore()
    await put(in_memory(store), at(), mine=Mine(name="a"), message=HumanMessage("hi"))
    for allowed, expected in (([Mine], Mine(name="a")), ([], {"name": "a"})):
        found = await in_memory(store, allowed=allowed).aget_tuple(at())
        assert found is not None
        assert found.checkpoint["channel_values"]["mine"] == expected
        assert found.checkpoint["channel_values"]["message"] == HumanMessage("hi")


async def test_langgraph_s_own_allowlist_is_added_to_it() -> None:
    store = MemorySessionStore()
    await put(in_memory(store), at(), mine=Mine(name="a"))
    found = await in_memory(store).with_allowlist([(__name__, "Mine")]).aget_tuple(at())
    assert found is not None and found.checkpoint["channel_values"]["mine"] == Mine(name="a")


@pytest.mark.parametrize("value", [2**70, object(), ["deep", print]])
async def test_what_cannot_be_stored_is_refused_as_a_whole(value: object) -> None:
    saver = in_memory()
    with pytest.raises(InvalidInput, match="cannot be stored"):
        await put(saver, at(), x=value)
    assert await everything(saver, at()) == [None, None, [], []]


async def test_a_serializer_that_would_pickle_is_refused() -> None:
    saver = in_memory()
    saver.serde = JsonPlusSerializer(pickle_fallback=True)
    with pytest.raises(InvalidInput, match="pickle"):
        await put(saver, at(), x=2**70)


# Removing and copying


async def test_pruning_keeps_what_a_delta_channel_is_made_from() -> None:
    def joined(state: list[str], writes: Sequence[list[str]]) -> list[str]:
        return [*state, *(item for write in writes for item in write)]

    class Growing(TypedDict):
        log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=5)]

    async def add(state: Growing) -> Growing:
        return {"log": [str(len(state["log"]))]}

    saver = in_memory()
    graph: Any = StateGraph(Growing)
    graph.add_node("add", add)
    graph.add_edge(START, "add")
    compiled = graph.compile(checkpointer=saver)
    for turn in range(12):
        await compiled.ainvoke({"log": [f"turn {turn}"]}, at())
        before: Growing = (await compiled.aget_state(at())).values
        assert len(before["log"]) == 2 * (turn + 1)
        await saver.aprune(["t1"])
        assert (await compiled.aget_state(at())).values == before
        assert len(await ids(saver)) <= 6 + 1  # as many as there are from one snapshot to the next


async def test_pruning_that_is_cancelled_leaves_the_newest_and_nothing_of_what_is_gone(tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "agent.db", synchronous="NORMAL") as store:
        saver, sessions = in_memory(store), SessionManager(store)
        stored: list[str] = []

        async def prepare() -> None:
            await saver.adelete_thread("t1")
            config = at()
            for step in range(4):
                config = await put(saver, config, step=step)
                await saver.aput_writes(config, [("x", step)], "task")
            stored[:] = await ids(saver)

        async def check(trial: Trial) -> None:
            left = await ids(saver)
            assert left == stored[: len(left)] and left
            assert len(await sessions.list_checkpoints("lg-t1", owner=ANN)) == 2 * len(left)
            await prepare()

        await prepare()
        trials = await inject(lambda: saver.aprune(["t1"]), check)
        assert len(trials) > 4


async def test_a_copy_goes_its_own_way() -> None:
    saver = in_memory()
    first = await put(saver, at(), x=1)
    await saver.aput_writes(first, [("x", 1)], "task")
    for _ in range(2):
        await saver.acopy_thread("t1", "t2")
    await put(saver, after(first, thread_id="t2"), step=1)
    await put(saver, first, step=1)
    with pytest.raises(SessionConflict):
        await saver.acopy_thread("t1", "t2")
    await saver.adelete_thread("t1")
    assert len(await ids(saver, at("t2"))) == 2


async def test_a_thread_that_is_brought_back_takes_writes() -> None:
    saver = in_memory()
    first = await put(saver, at())
    await saver.acopy_thread("t1", "backup")
    await saver.aput_writes(first, [("x", 1)], "task")
    await saver.adelete_thread("t1")
    await saver.acopy_thread("backup", "t1")
    await saver.aput_writes(first, [("x", 2)], "task")
    found = await saver.aget_tuple(at())
    assert found is not None
    assert found.pending_writes == [("task", "x", 2)]


async def test_a_wrong_strategy_is_refused() -> None:
    with pytest.raises(InvalidInput, match="strategy"):
        await in_memory().aprune(["t1"], strategy="all")


async def test_writes_without_a_checkpoint_are_refused() -> None:
    with pytest.raises(InvalidInput, match="checkpoint_id"):
        await in_memory().aput_writes(at(), [("x", 1)], "task")


# Form


def test_synchronous_calls_say_what_to_use() -> None:
    graph = trail(in_memory(), [])
    for call in (
        lambda: graph.invoke({"done": []}, at()),
        lambda: graph.get_state(at()),
        lambda: list(graph.get_state_history(at())),
    ):
        with pytest.raises(NotImplementedError, match="asynchronous"):
            call()


@pytest.mark.parametrize("current", [None, 1, "1", "00000000000000000000000000000001.0123"])
def test_versions_grow_in_each_form_that_another_saver_left(current: Any) -> None:
    saver = in_memory()
    following = saver.get_next_version(current, None)
    assert following > str(current or "").zfill(32)
    assert following != saver.get_next_version(current, None)
    assert int(following.split(".")[0]) == (2 if current else 1)
