"""What is PostgreSQL's own about sessions: its clock, damage, locks, others' functions, and connections of long ago."""

import time
from collections.abc import AsyncGenerator

import anyio
import asyncpg
import pytest
from tests.stores.postgres import execute

from agent_runtime import (
    Charge,
    CorruptRecord,
    Message,
    MessageBatch,
    OutcomeUnknown,
    Owner,
    RateLimit,
    Refusal,
    SessionFields,
    SessionQuota,
    Settlement,
    StoredSession,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.postgres import (
    PostgresDatabase,
    PostgresEventLog,
    PostgresRateLimitStore,
    PostgresSessionStore,
)
from agent_runtime_adapters.postgres import connections as postgres_connections
from agent_runtime_adapters.postgres import database as postgres_database
from agent_runtime_adapters.postgres.connections import Rows

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


@pytest.fixture
async def connection(postgres_url: str) -> AsyncGenerator[asyncpg.Connection]:
    """One beside the stores'."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


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


async def test_a_fork_and_who_removes_all_do_not_wait_for_each_other(
    connection: asyncpg.Connection, store: PostgresSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "is_undone", never)  # a ring would not be hidden
    now = [1_000.0]
    fields, owner = SessionFields(agent_id="a", data=b"{}"), Owner(tenant_id=None, user_id=new_id())
    store = PostgresSessionStore(store.server, clock=lambda: now[0])
    for session_id, ttl in (("old", 60), ("expired", 1)):
        await store.create(owner, session_id, fields, SessionQuota(ttl=ttl), operation="o")
    await store.put_checkpoint(owner, "old", "c", b"x", ttl=60)
    now[0] += 2

    async def fork() -> None:
        forked = await store.fork(owner, "old", "c", "expired", SessionQuota(ttl=60), operation="f")
        assert isinstance(forked, StoredSession)

    async def delete_all() -> None:
        assert await store.delete_all(owner) == 1

    async with connection.transaction(), anyio.create_task_group() as group:
        await connection.execute(
            f"SELECT FROM {store.server.schema}.sessions WHERE user_id = $1 AND session_id = 'expired' FOR UPDATE",
            owner.user_id,
        )
        for number, call in enumerate((fork, delete_all), 1):
            group.start_soon(call)
            await until_waiting(connection, number)
        await connection.execute("COMMIT; BEGIN")
    assert [session.session_id for session in await store.sessions(owner)] == ["expired"]


async def test_expired_sessions_that_were_removed_before_an_outage_are_told_of(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresSessionStore(postgres_url, schema=f"s_{new_id().lower()}", clock=lambda: 1_000.0) as store:
        await execute(store.server, EXPIRED)
        real, calls = store.server.call, 0

        async def call(function: str, *values: object) -> Rows:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OutcomeUnknown("lost")
            return await real(function, *values)

        monkeypatch.setattr(store.server, "call", call)
        told = [*await store.expire(), *await store.expire()]
        assert len({expired.session_id for expired in told}) == len(told) == 150
        calls = 1
        with pytest.raises(OutcomeUnknown):
            await store.expire()


def never(error: Exception) -> bool:
    return False


async def until_waiting(connection: asyncpg.Connection, count: int) -> None:
    """Until so many wait for a lock, one behind the other."""
    query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    with anyio.fail_after(10):
        while await connection.fetchval(query) < count:  # noqa: ASYNC110 - the server tells nobody
            await anyio.sleep(0.005)


async def test_what_others_have_put_into_the_path_of_the_connection_is_not_called(
    postgres_url: str, connection: asyncpg.Connection
) -> None:
    trap = f"trap_{new_id().lower()}"
    await connection.execute(TRAP.format(trap))
    charge = Charge(key=(None, "ann", "k"), limit=RateLimit(rate=1, period=1, burst=5), cost=1)
    async with PostgresDatabase(f"{postgres_url}?search_path={trap}", schema=f"s_{new_id().lower()}") as database:
        log, limits = PostgresEventLog(database), PostgresRateLimitStore(database)
        assert await log.append(OWNER, "s", [b"secret"], expected=0, ttl=60, operation="o") == 1
        assert (await limits.take([charge])).allowed
        assert (await limits.peek([charge])).allowed
        await limits.settle([Settlement(charge=charge, used=1)])


# A function for exactly the types of a call is preferred to PostgreSQL's own, which takes any.
TRAP = """
CREATE SCHEMA {0};
CREATE FUNCTION {0}.unnest(bytea[]) RETURNS SETOF bytea LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION {0}.unnest(double precision[]) RETURNS SETOF double precision LANGUAGE plpgsql
AS $$ BEGIN RAISE 'trapped'; END $$
"""

EXPIRED = """
INSERT INTO agent_runtime.sessions (
    tenant_id, user_id, session_id, agent_id, closed, operation, created_at, updated_at, expires_at, due, data
) SELECT '', 'ann', 's' || n, 'a', false, 'o', 0, 0, 1, 1, '' FROM generate_series(1, 150) AS n
"""
