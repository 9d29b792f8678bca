"""What is PostgreSQL's own about sessions: its clock, damage, and connections that nobody used for long."""

import time
from collections.abc import AsyncGenerator

import anyio
import pytest
from tests.stores.postgres import execute

from agent_runtime import (
    CorruptRecord,
    Message,
    MessageBatch,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoredSession,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.postgres import PostgresDatabase, PostgresSessionStore
from agent_runtime_adapters.postgres import connections as postgres_connections

OWNER = Owner(tenant_id=None, user_id="ann")
BATCH = MessageBatch.of([Message(role="user", content="hello"), Message(role="assistant", content="good day")])
BRIEF = 0.05


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def store(postgres_url: str) -> AsyncGenerator[PostgresSessionStore]:
    async with PostgresSessionStore(postgres_url, schema=f"s_{new_id().lower()}") as store:
        yield store


async def made(store: PostgresSessionStore, *, ttl: float = 60) -> StoredSession:
    fields = SessionFields(agent_id="a", data=b"{}")
    made = await store.create(OWNER, new_id(), fields, SessionQuota(ttl=ttl), operation="o")
    assert isinstance(made, StoredSession)
    return made


async def with_turns(store: PostgresSessionStore) -> str:
    session_id = (await made(store)).session_id
    for _ in range(3):
        await store.append(OWNER, session_id, BATCH, expected=None, ttl=60, operation=new_id())
    return session_id


async def test_without_another_clock_the_server_s_counts(store: PostgresSessionStore) -> None:
    before = time.time()
    session = await made(store, ttl=BRIEF)
    assert before - 1 < session.created_at < time.time() + 1
    assert session.expires_at == pytest.approx(session.created_at + BRIEF)
    await anyio.sleep(BRIEF * 1.5)
    assert await store.read(OWNER, session.session_id) is None
    assert session.session_id in [expired.session_id for expired in await store.expire()]


async def test_a_lease_is_over_by_the_server_s_clock(store: PostgresSessionStore) -> None:
    session_id = (await made(store)).session_id
    await store.acquire(OWNER, session_id, "h", seconds=BRIEF, ttl=60)
    assert await store.acquire(OWNER, session_id, "other", seconds=BRIEF, ttl=60) is Refusal.HELD
    await anyio.sleep(BRIEF * 1.5)
    assert not isinstance(await store.acquire(OWNER, session_id, "other", seconds=BRIEF, ttl=60), Refusal)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM agent_runtime.messages WHERE first = 2",
        "DELETE FROM agent_runtime.messages WHERE first = 4",
        "DELETE FROM agent_runtime.messages WHERE first = 0",
        "DELETE FROM agent_runtime.messages",
        "UPDATE agent_runtime.messages SET size = 3 WHERE first = 2",
        "UPDATE agent_runtime.messages SET data = set_byte(data, 20, 255 - get_byte(data, 20))",
        "UPDATE agent_runtime.sessions SET message_count = 5",
    ],
)
async def test_a_conversation_that_is_damaged_is_not_guessed_at(store: PostgresSessionStore, damage: str) -> None:
    session_id = await with_turns(store)
    await execute(store.server, damage)
    with pytest.raises(CorruptRecord):
        await store.messages(OWNER, session_id)
    await store.delete(OWNER, session_id)


async def test_nothing_of_a_session_that_an_operator_deletes_is_left(store: PostgresSessionStore) -> None:
    session_id = await with_turns(store)
    await store.acquire(OWNER, session_id, "r", seconds=1, ttl=60, entry=b"x")
    await store.put_checkpoint(OWNER, session_id, "c", b"x", ttl=60)
    await execute(store.server, "DELETE FROM agent_runtime.sessions")
    for table in ("messages", "checkpoints", "runs", "run_entries", "session_writes"):
        await execute(store.server, f"DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM agent_runtime.{table}); END $$")


async def test_a_connection_that_nobody_used_for_long_is_made_anew(
    postgres_url: str, store: PostgresSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresDatabase(postgres_url, schema=store.server.schema) as database:
        connections = await database.connected()
        first = await connections.take()
        connections.give(first)
        assert await connections.take() is first
        connections.give(first)
        monkeypatch.setattr(postgres_connections, "_KEPT_IDLE", 0.0)
        second = await connections.take()
        assert second is not first
        assert first.is_closed()
        connections.give(second)
