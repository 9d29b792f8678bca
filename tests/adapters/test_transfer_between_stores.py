"""A session that is exported from one store and imported into another is the same session, whatever is in it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from itertools import permutations
from typing import Any

import pytest

from agent_runtime import (
    FunctionCall,
    MemorySessionStore,
    Message,
    Owner,
    SessionConflict,
    SessionManager,
    exported_session_id,
    open_stores,
)
from agent_runtime.ids import new_id

BACKENDS = ("memory", "sqlite", "redis", "mongodb", "postgres")
SPACE_OPTIONS = {"redis": "prefix", "mongodb": "database", "postgres": "schema"}
"""What keeps the sessions of this module apart from everybody else's."""

HOSTILE = "\0 ünï\u2028\U0001f4a5 '\"\\$where {x:1}\r\n\x1b[31m %s ' OR 1=1 -- \ufeff"
VALUES: dict[str, Any] = {
    "": "",
    "$set": {"a.b": 1, "__proto__": None, "_id": "x"},
    HOSTILE: HOSTILE,
    "numbers": [0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, -0.0, 1e308, 5e-324],
    "deep": {"1": {"2": {"3": {"4": {"5": True}}}}},
    "type": "session",
}
ANN = Owner(tenant_id="a:b{c}*'\"", user_id="ünï 💥 ann")
NAMES = ("-", "_" * 128, "0", "constructor")


class Backends:
    """A session manager for each backend, opened, and filled, when it is first asked for."""

    def __init__(self, url_of: Callable[[str], str], stack: AsyncExitStack) -> None:
        self._url_of = url_of
        self._stack = stack
        self._space = f"moved_{new_id()[-12:].lower().replace('-', '_')}"
        self._opened: dict[str, SessionManager] = {}
        self._filled: dict[str, dict[str, list[object]]] = {}

    async def opened(self, backend: str) -> SessionManager:
        if backend not in self._opened:
            options = {SPACE_OPTIONS[backend]: self._space} if backend in SPACE_OPTIONS else {}
            stores = await self._stack.enter_async_context(open_stores(self._url_of(backend), **options))
            self._opened[backend] = SessionManager(stores.sessions)
        return self._opened[backend]

    async def filled(self, backend: str) -> dict[str, list[object]]:
        """All that is known of ANN's sessions there, by id."""
        if backend not in self._filled:
            sessions = await self.opened(backend)
            await furnish(sessions, ANN)
            self._filled[backend] = {name: await known(sessions, ANN, name) for name in NAMES}
        return self._filled[backend]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The drivers of servers are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module")
async def backends(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Backends]:
    urls = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path_factory.mktemp('moved')}/moved.db"}

    def url_of(backend: str) -> str:
        return urls.get(backend) or str(request.getfixturevalue(f"{backend}_url"))

    async with AsyncExitStack() as stack:
        yield Backends(url_of, stack)


def somebody() -> Owner:
    """Whom no other test knows."""
    return Owner(tenant_id=None, user_id=f"ünï 💥 %_\\ {new_id()}")


def said(number: int) -> list[Message]:
    """A turn with everything that a message can have."""
    call = FunctionCall(id=f"call {HOSTILE}", name="pay", arguments='{"amount": 5, "to": "\\u0000"}')
    return [
        Message(role="user", content=f"{number} {HOSTILE}", name="ann"),
        Message(role="assistant", content="", tool_calls=(call, call)),
        Message(role="tool", content=HOSTILE * 20, tool_call_id="c1", name="pay"),
        Message(role="assistant", content=f"Done, {number}."),
    ]


async def furnish(sessions: SessionManager, owner: Owner) -> None:
    """One of each kind of session: empty, long, with checkpoints of which some are gone, closed."""
    empty, long, saved, closed = NAMES
    await sessions.create(owner=owner, agent_id="a", session_id=empty)
    await sessions.create(owner=owner, agent_id="clerk: ünï {x}*", session_id=long, metadata=VALUES)
    for number in range(40):
        await sessions.append_messages(long, said(number), owner=owner)
    await sessions.append_messages(long, [Message(role="user", content="💥" * 60_000)], owner=owner)
    await sessions.create(owner=owner, agent_id="a", session_id=saved)
    for number in range(30):
        await sessions.save_checkpoint(saved, {**VALUES, "n": number}, owner=owner, checkpoint_id=f"c-{number}")
        await sessions.append_messages(saved, said(number)[:1], owner=owner)
    await sessions.save_checkpoint(saved, {"large": "\0" * 1_000_000}, owner=owner, checkpoint_id="L" * 128)
    await sessions.delete_checkpoint(saved, "c-3", owner=owner)
    await sessions.create(owner=owner, agent_id="a", session_id=closed, metadata={"last": "word"})
    await sessions.append_messages(closed, said(0), owner=owner)
    await sessions.save_checkpoint(closed, {}, owner=owner, checkpoint_id="end")
    await sessions.close(closed, owner=owner)


async def known(sessions: SessionManager, owner: Owner, name: str) -> list[object]:
    """All that can be read of a session, but times, versions and the numbers of checkpoints."""
    session = await sessions.get(name, owner=owner)
    assert session is not None
    checkpoints = await sessions.list_checkpoints(name, owner=owner)
    return [
        (session.agent_id, session.metadata, session.message_count, session.closed),
        await sessions.messages(name, owner=owner),
        [(item.checkpoint_id, item.state, item.message_count) for item in checkpoints],
        await sessions.export(name, owner=owner),
    ]


@pytest.mark.parametrize(("source", "target"), list(permutations(BACKENDS, 2)))
async def test_nothing_is_lost_on_the_way(backends: Backends, source: str, target: str) -> None:
    here, there, owner = await backends.opened(source), await backends.opened(target), somebody()
    for name, all_of_it in (await backends.filled(source)).items():
        data = await here.export(name, owner=ANN)
        assert exported_session_id(data) == name
        for _ in range(2):
            await there.import_session(data, owner=owner, session_id=name)
        assert await known(there, owner, name) == all_of_it
    assert await there.count(owner=owner) == len(NAMES)
    await goes_on(there, owner)


async def goes_on(sessions: SessionManager, owner: Owner) -> None:
    """What was imported is a session like any other."""
    empty, long, saved, closed = NAMES
    numbers = [item.sequence for item in await sessions.list_checkpoints(saved, owner=owner)]
    assert numbers == list(range(len(numbers), 0, -1))
    assert (await sessions.save_checkpoint(saved, {}, owner=owner)).sequence == len(numbers) + 1
    assert await sessions.append_messages(empty, said(0), owner=owner) == 4
    assert await sessions.append_messages(long, said(40), owner=owner, expected=161) == 165
    assert (await sessions.messages(long, owner=owner, window=2))[1].content == "Done, 40."
    assert (await sessions.fork(saved, "c-7", owner=owner)).message_count == 7
    with pytest.raises(SessionConflict, match="closed"):
        await sessions.append_messages(closed, said(1), owner=owner)


@pytest.mark.parametrize("target", BACKENDS)
async def test_a_very_large_session_is_moved_as_one(backends: Backends, target: str) -> None:
    """Larger than a document of MongoDB may be."""
    here, there, owner = SessionManager(MemorySessionStore()), await backends.opened(target), somebody()
    turn = Message(role="user", content="x" * 250_000)
    await here.create(owner=owner, agent_id="a", session_id="s")
    for _ in range(80):
        await here.append_messages("s", [turn], owner=owner)
    data = await here.export("s", owner=owner)
    assert (await there.import_session(data, owner=owner, session_id="s")).message_count == 80
    assert await there.export("s", owner=owner) == data
    assert await there.delete("s", owner=owner)
