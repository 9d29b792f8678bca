"""Conversations of the OpenAI Agents SDK in our stores, through its own runner."""

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from agents import Agent, ModelResponse, RunConfig, Runner, TResponseInputItem, Usage, function_tool
from agents.items import TResponseOutputItem
from agents.memory import Session, SessionSettings, SQLiteSession
from agents.models.interface import Model
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from tests.adapters import adds_items
from tests.adapters.backends import BACKENDS, url_of
from tests.stores.failing import FailingStore

from agent_runtime import (
    CorruptRecord,
    InvalidInput,
    LimitExceeded,
    Limits,
    MemorySessionStore,
    Message,
    Owner,
    SessionConflict,
    SessionManager,
    Stores,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime.testing import Outcome, Trial, cancellations, hostile_text, inject, json_values
from agent_runtime_adapters.openai_agents import OpenAIAgentsSession
from agent_runtime_adapters.sqlite import SQLiteSessionStore

QUIET = RunConfig(tracing_disabled=True)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The SDK is asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module", params=BACKENDS)
async def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stores]:
    async with open_stores(url_of(request.param, tmp_path_factory, request)) as stores:
        yield stores


@pytest.fixture
def owner() -> Owner:
    return Owner(tenant_id="t", user_id=new_id())


@pytest.fixture
def session(stores: Stores, owner: Owner) -> OpenAIAgentsSession:
    return OpenAIAgentsSession("s1", SessionManager(stores.sessions), owner=owner)


def in_memory(store: Any = None, **options: Any) -> OpenAIAgentsSession:
    manager = SessionManager(store or MemorySessionStore())
    return OpenAIAgentsSession("s1", manager, owner=Owner(tenant_id=None, user_id="ann"), **options)


def user(text: str) -> TResponseInputItem:
    return {"role": "user", "content": text}


def said(items: Sequence[TResponseInputItem | None]) -> list[object]:
    return [cast("dict[str, object]", item)["content"] for item in items]


class ScriptedModel(Model):
    """Answers what the script says, a text or a tool to call, and keeps what it was asked."""

    def __init__(self, *script: str | ResponseFunctionToolCall) -> None:
        self.asked: list[list[TResponseInputItem]] = []
        self._script = iter(script)

    async def get_response(self, system_instructions: Any, input: Any, *rest: Any, **options: Any) -> ModelResponse:
        self.asked.append([*input])
        return ModelResponse(output=[output(next(self._script))], usage=Usage(), response_id=None)

    def stream_response(self, *rest: Any, **options: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def output(answer: str | ResponseFunctionToolCall) -> TResponseOutputItem:
    if not isinstance(answer, str):
        return answer
    text = ResponseOutputText(annotations=[], text=answer, type="output_text")
    return ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")


@function_tool
def weather(city: str) -> str:
    """The weather."""
    return f"sunny in {city}"


# Through the runner


async def test_two_turns_and_a_restart_are_one_conversation(tmp_path: Path, owner: Owner) -> None:
    url = f"sqlite:///{tmp_path / 'agent.db'}"
    call = ResponseFunctionToolCall(call_id="c1", name="weather", arguments='{"city": "Rome"}', type="function_call")
    model = ScriptedModel()
    for script in (("Hello Ann.",), (call, "It is sunny."), ("Rome.",)):
        model = ScriptedModel(*script)
        agent = Agent(name="friend", model=model, tools=[weather])
        async with open_stores(url) as stores:  # as a new process does
            session = OpenAIAgentsSession("s1", SessionManager(stores.sessions), owner=owner)
            result = await Runner.run(agent, f"Question {script[-1]}", session=session, run_config=QUIET)
        assert result.final_output == script[-1]
    kinds = [item.get("type", item.get("role")) for item in cast("list[dict[str, str]]", model.asked[-1])]
    assert kinds == ["user", "message", "user", "function_call", "function_call_output", "message", "user"]
    async with open_stores(url) as stores:
        sessions = SessionManager(stores.sessions)
        shown = [message.role for message in await sessions.messages("s1", owner=owner)]
    assert shown == ["user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant"]


async def test_the_runner_gives_each_store_the_history_that_it_gives_its_own(session: OpenAIAgentsSession) -> None:
    theirs = SQLiteSession("s1")
    for one in (session, theirs):
        model = ScriptedModel("one", "two", "three")
        agent = Agent(name="friend", model=model)
        for question in ("a", "b", "c"):
            await Runner.run(agent, question, session=one, run_config=QUIET)
    theirs_items, ours_items = await theirs.get_items(), await session.get_items()
    theirs.close()
    assert ours_items == theirs_items and len(ours_items) == 6


async def test_the_runner_is_given_as_much_as_the_settings_say(stores: Stores, owner: Owner) -> None:
    settings = SessionSettings(limit=2)
    session = OpenAIAgentsSession("s1", SessionManager(stores.sessions), owner=owner, session_settings=settings)
    model = ScriptedModel("one", "two", "three")
    for question in ("a", "b", "c"):
        await Runner.run(Agent(name="friend", model=model), question, session=session, run_config=QUIET)
    assert [len(asked) for asked in model.asked] == [1, 3, 3]


# The protocol


async def test_it_is_a_session_of_the_sdk_s(session: OpenAIAgentsSession) -> None:
    protocol: Session = session
    assert isinstance(protocol, Session)
    assert await protocol.get_items() == []
    assert await protocol.pop_item() is None
    await protocol.clear_session()


async def test_items_come_back_in_order(session: OpenAIAgentsSession) -> None:
    await session.add_items([user("a"), user("b")])
    await session.add_items([])
    await session.add_items([user("c")])
    assert said(await session.get_items()) == ["a", "b", "c"]
    for limit in range(5):
        assert said(await session.get_items(limit)) == ["a", "b", "c"][max(0, 3 - limit) :]
    with pytest.raises(InvalidInput, match="limit"):
        await session.get_items(-1)


async def test_a_popped_item_is_gone_from_every_window(session: OpenAIAgentsSession) -> None:
    await session.add_items([user(name) for name in "abcdef"])
    assert said([await session.pop_item() for _ in range(3)]) == ["f", "e", "d"]
    await session.add_items([user("g")])
    assert await session.pop_item() == user("g")
    for limit in range(5):
        assert said(await session.get_items(limit)) == ["a", "b", "c"][max(0, 3 - limit) :]
    assert [await session.pop_item() for _ in range(4)] == [user("c"), user("b"), user("a"), None]
    assert await session.get_items() == []


async def test_a_cleared_conversation_is_erased_and_begins_anew(
    session: OpenAIAgentsSession, stores: Stores, owner: Owner
) -> None:
    await session.add_items([user("a")])
    await session.pop_item()
    await session.clear_session()
    assert await session.get_items() == []
    assert await stores.sessions.count(owner) == 0
    await session.add_items([user("b")])
    assert said(await session.get_items()) == ["b"]


@given(st.lists(st.one_of(st.just("pop"), st.sampled_from("abc")), max_size=20), st.integers(0, 6))
async def test_any_order_of_adding_and_popping_is_that_of_a_list(steps: list[str], limit: int) -> None:
    session, model = in_memory(), list[str]()
    for step in steps:
        if step == "pop":
            popped = await session.pop_item()
            assert popped == (user(model.pop()) if model else None)
        else:
            model.append(step)
            await session.add_items([user(step)])
    assert said(await session.get_items(limit)) == model[max(0, len(model) - limit) :]


@given(json_values() | hostile_text())
async def test_any_json_comes_back_as_it_was(value: object) -> None:
    session = in_memory()
    item = cast("TResponseInputItem", {"role": "developer", "content": value})
    await session.add_items([item])
    assert await session.get_items() == [item]


async def test_numbers_that_others_lose_come_back() -> None:
    session = in_memory()
    item = cast("TResponseInputItem", {"n": [2**70, float("inf"), 0.1]})
    await session.add_items([item])
    assert await session.get_items() == [item]


@pytest.mark.parametrize("item", [object(), {"content": object()}, ["list"], "text", None])
async def test_what_is_no_item_is_refused_with_all_that_came_with_it(item: Any) -> None:
    session = in_memory()
    with pytest.raises(InvalidInput, match="an item is no"):
        await session.add_items([user("a"), item])
    assert await session.get_items() == []


async def test_the_limits_of_the_manager_hold() -> None:
    sessions = SessionManager(MemorySessionStore(), limits=Limits(message_bytes=100))
    session = OpenAIAgentsSession("s1", sessions, owner=Owner(tenant_id=None, user_id="ann"))
    with pytest.raises(LimitExceeded, match="message_bytes"):
        await session.add_items([user("a" * 200)])


# Owners and others


async def test_another_owner_s_conversation_is_like_none(
    stores: Stores, session: OpenAIAgentsSession, owner: Owner
) -> None:
    await session.add_items([user("secret")])
    sessions = SessionManager(stores.sessions)
    for other in (Owner(tenant_id="t", user_id=new_id()), Owner(tenant_id="u", user_id=owner.user_id)):
        theirs = OpenAIAgentsSession("s1", sessions, owner=other)
        assert (await theirs.get_items(), await theirs.pop_item()) == ([], None)
        await theirs.clear_session()
        await theirs.add_items([user("mine")])
        assert said(await theirs.get_items()) == ["mine"]
        await theirs.clear_session()
    assert said(await session.get_items()) == ["secret"]


async def test_a_session_of_something_else_is_not_taken_for_a_conversation() -> None:
    owner = Owner(tenant_id=None, user_id="ann")
    sessions = SessionManager(MemorySessionStore())
    await sessions.create(owner=owner, agent_id="support", session_id="s1")
    await sessions.append_messages("s1", [Message(role="user", content="Hello")], owner=owner)
    session = OpenAIAgentsSession("s1", sessions, owner=owner)
    for call in (session.get_items, session.pop_item):
        with pytest.raises(InvalidInput, match="messages of something else"):
            await call()


async def test_a_damaged_item_is_never_left_out() -> None:
    owner = Owner(tenant_id=None, user_id="ann")
    sessions = SessionManager(MemorySessionStore())
    await sessions.create(owner=owner, agent_id="x", session_id="s1")
    broken = Message(role="user", name="openai_agents.item", content="{")
    await sessions.append_messages("s1", [broken], owner=owner)
    with pytest.raises(CorruptRecord):
        await OpenAIAgentsSession("s1", sessions, owner=owner).get_items()


# Many at once


async def test_nothing_that_many_add_at_once_is_lost_and_calls_stay_together(session: OpenAIAgentsSession) -> None:
    async with anyio.create_task_group() as group:
        for n in range(25):
            group.start_soon(session.add_items, [user(f"{n} first"), user(f"{n} second")])
    items = [str(text) for text in said(await session.get_items())]
    assert sorted(items) == sorted(f"{n} {which}" for n in range(25) for which in ("first", "second"))
    assert all(items[at].split()[0] == items[at + 1].split()[0] for at in range(0, 50, 2))


async def test_each_item_is_popped_by_one(stores: Stores, owner: Owner) -> None:
    workers = [OpenAIAgentsSession("s1", SessionManager(stores.sessions), owner=owner) for _ in range(2)]
    await workers[0].add_items([user(str(n)) for n in range(20)])
    popped: list[object] = []

    async def pop(session: OpenAIAgentsSession) -> None:
        while (item := await session.pop_item()) is not None:
            popped.extend(said([item]))

    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(pop, worker)
    assert sorted(map(str, popped)) == sorted(map(str, range(20)))


async def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'agent.db'}"
    async with await anyio.open_process([sys.executable, adds_items.__file__, url, "x"], stderr=None) as other:
        assert other.stdout is not None
        await other.stdout.receive()
        await adds_items.add_items(url, "y")
        assert await other.wait() == 0
    async with open_stores(url) as stores:
        sessions = SessionManager(stores.sessions)
        items = said(await OpenAIAgentsSession("s1", sessions, owner=adds_items.OWNER).get_items())
    for name in ("x", "y"):
        assert [item for item in items if str(item).startswith(name)] == [
            f"{name} {n}" for n in range(adds_items.ITEMS)
        ]


async def test_a_pop_that_a_clear_overtook_takes_nothing_of_the_new_conversation() -> None:
    store = MemorySessionStore()
    session = in_memory(store)
    await session.add_items([user("old")])

    class Overtaken:
        """Clears and begins anew between the read and the write of the first pop."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def append(self, *args: Any, **options: Any) -> object:
            if options["expected"] is not None:
                await session.clear_session()
                await session.add_items([user("new")])
            return await store.append(*args, **options)

    assert await in_memory(Overtaken()).pop_item() == user("old")
    assert said(await session.get_items()) == ["new"]


class Restless:
    """A store in which somebody else does something before each append."""

    def __init__(self, store: MemorySessionStore, meanwhile: Callable[[], Awaitable[object]], times: int) -> None:
        self.left = times
        self._store = store
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, *args: Any, **options: Any) -> object:
        self.left -= 1
        if self.left >= 0:
            await self._meanwhile()
        return await self._store.append(*args, **options)


async def test_a_write_that_was_overtaken_is_tried_again() -> None:
    store = MemorySessionStore()
    other = in_memory(store)
    await other.add_items([user("a")])
    restless = Restless(store, lambda: other.add_items([user("b")]), times=3)
    assert await in_memory(restless).pop_item() == user("b")
    assert said(await other.get_items()) == ["a", "b", "b"]
    cleared = Restless(store, other.clear_session, times=3)
    assert await in_memory(cleared).pop_item() is None
    await in_memory(cleared).add_items([user("c")])
    assert (said(await other.get_items()), cleared.left) == (["c"], -1)


async def test_it_is_not_tried_for_ever() -> None:
    store = MemorySessionStore()
    other = in_memory(store)
    await other.add_items([user("a")])
    with pytest.raises(SessionConflict, match="all the time"):
        await in_memory(Restless(store, lambda: other.add_items([user("b")]), times=1_000)).pop_item()
    with pytest.raises(SessionConflict, match="all the time"):
        await in_memory(Restless(store, other.clear_session, times=1_000)).add_items([user("c")])


async def test_under_a_lease_nobody_else_writes(stores: Stores, session: OpenAIAgentsSession, owner: Owner) -> None:
    sessions = SessionManager(stores.sessions)
    await session.add_items([user("a")])
    async with sessions.lease("s1", owner=owner) as lease:
        for call in (session.add_items([user("x")]), session.pop_item()):
            with pytest.raises(SessionConflict, match="held"):
                await call
        mine = OpenAIAgentsSession("s1", sessions, owner=owner, lease=lease)
        await mine.add_items([user("b")])
        assert await mine.pop_item() == user("b")
    async with sessions.lease("s1", owner=owner):
        for call in (mine.add_items([user("late")]), mine.pop_item()):
            with pytest.raises(SessionConflict, match="taken over"):
                await call
    assert said(await session.get_items()) == ["a"]


async def test_a_closed_conversation_takes_nothing_more(
    stores: Stores, session: OpenAIAgentsSession, owner: Owner
) -> None:
    await session.add_items([user("a")])
    await SessionManager(stores.sessions).close("s1", owner=owner)
    for call in (session.add_items([user("x")]), session.pop_item()):
        with pytest.raises(SessionConflict, match="closed"):
            await call


# Outages and cancellation


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_an_outage_is_never_an_empty_conversation(at: int) -> None:
    store = MemorySessionStore()
    await in_memory(store).add_items([user("a")])
    for call in ("get_items", "pop_item"):
        failing = FailingStore(store, at, "unavailable before", times=100)
        if at > (1 if call == "get_items" else 3):
            continue
        with pytest.raises(StoreUnavailable):
            await getattr(in_memory(failing), call)()
    with pytest.raises(StoreUnavailable):
        await in_memory(FailingStore(store, 1, "unavailable before", times=100)).add_items([user("b")])
    assert said(await in_memory(store).get_items()) == ["a"]


async def test_cancelled_at_any_await_a_call_is_done_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    async with SQLiteSessionStore(tmp_path / "agent.db", synchronous="NORMAL") as store:
        await cancel_each_call(in_memory(store))


async def cancel_each_call(session: OpenAIAgentsSession) -> None:
    async def add() -> None:
        await session.add_items([user("x"), user("y")])

    async def pop() -> None:
        await session.pop_item()

    async def check(trial: Trial) -> None:
        assert trial.outcome in (Outcome.CANCELLED, Outcome.DONE)
        texts = said(await session.get_items())
        assert texts in (["a"], ["a", "x", "y"], [])
        await session.clear_session()
        await session.add_items([user("a")])

    await session.add_items([user("a")])
    for call in (add, pop):
        for fault in cancellations():
            await inject(call, fault=fault, check=check)
