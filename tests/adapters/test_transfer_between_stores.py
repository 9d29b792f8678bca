"""A session that is exported from one store and imported into another is the same session, whatever is in it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from agent_runtime import (
    FunctionCall,
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
NAMES = ("-", "_" * 128, "0", "constructor")

Open = Callable[[str], AbstractAsyncContextManager[SessionManager]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The drivers of servers are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module")
def space() -> str:
    return f"moved_{new_id()[-12:].lower().replace('-', '_')}"


@pytest.fixture
def opened(request: pytest.FixtureRequest, space: str, tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened(backend: str) -> AsyncGenerator[SessionManager]:
        urls = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/moved.db"}
        url = urls.get(backend) or str(request.getfixturevalue(f"{backend}_url"))
        options = {SPACE_OPTIONS[backend]: space} if backend in SPACE_OPTIONS else {}
        async with open_stores(url, **options) as stores:
            yield SessionManager(stores.sessions)

    return opened


@pytest.fixture
def owner() -> Owner:
    """Somebody whom no other test knows, of a name that is no easy one."""
    return Owner(tenant_id="a:b{c}*'\"", user_id=f"ünï 💥 %_\\ {new_id()}")


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
async def test_nothing_is_lost_on_the_way(opened: Open, owner: Owner, source: str, target: str) -> None:
    async with opened(source) as here, opened(target) as there:
        await furnish(here, owner)
        other = Owner(tenant_id=None, user_id=owner.user_id)
        for session in await here.list_by_user(owner=owner):
            data = await here.export(session.session_id, owner=owner)
            assert exported_session_id(data) == session.session_id
            for _ in range(2):
                await there.import_session(data, owner=other, session_id=session.session_id)
            name = session.session_id
            assert await known(there, other, name) == await known(here, owner, name)
        assert await there.count(owner=other) == len(NAMES)
        await goes_on(there, other)
        for sessions, whose in ((here, owner), (there, other)):
            await sessions.delete_by_user(owner=whose)


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
async def test_a_very_large_session_is_moved_as_one(opened: Open, owner: Owner, target: str) -> None:
    """Larger than a document of MongoDB may be."""
    turn = Message(role="user", content="x" * 250_000)
    async with opened("memory") as here, opened(target) as there:
        await here.create(owner=owner, agent_id="a", session_id="s")
        for _ in range(80):
            await here.append_messages("s", [turn], owner=owner)
        data = await here.export("s", owner=owner)
        assert (await there.import_session(data, owner=owner, session_id="s")).message_count == 80
        assert await there.export("s", owner=owner) == data
        await there.delete_by_user(owner=owner)
