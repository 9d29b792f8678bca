"""The connection to PostgreSQL: who may use it, what it makes there, and what becomes of a server's troubles."""

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from socket import create_server
from subprocess import PIPE, Popen
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest
from anyio.abc import TaskGroup
from tests.servers.program import free_port
from tests.stores.postgres import execute

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    LimitExceeded,
    Message,
    MessageBatch,
    OutcomeUnknown,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime_adapters.postgres import PostgresDatabase, PostgresSessionStore

SECRET = "geheim"
ROOT = Path(__file__).parents[2]
OWNER = Owner(tenant_id="acme", user_id="ann")
FIELDS = SessionFields(agent_id="a", data=b"{}")
BATCH = MessageBatch.of([Message(role="user", content="hello")])

CONNECT = """
import anyio, sys
from agent_runtime_adapters.postgres import PostgresDatabase
async def connect():
    sys.stdin.read()
    async with PostgresDatabase(sys.argv[1], schema=sys.argv[2]):
        pass
anyio.run(connect)
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def shared(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    async with PostgresDatabase(postgres_url, schema=new_schema()) as database:
        yield database


@pytest.fixture
async def opened(postgres_url: str, shared: PostgresDatabase) -> AsyncGenerator[Callable[..., PostgresDatabase]]:
    """Another connection to the module's schema, closed at the end of the test."""
    databases: list[PostgresDatabase] = []

    def another(**options: float | str) -> PostgresDatabase:
        given = {"url": postgres_url, "schema": shared.schema, **options}
        databases.append(PostgresDatabase(**given))  # type: ignore[arg-type]  # what each test gives
        return databases[-1]

    yield another
    for database in databases:
        await database.aclose()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncGenerator[asyncpg.Connection]:
    """One beside the stores'."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


# The schema


def test_eight_processes_that_start_at_once_make_one_schema(postgres_url: str) -> None:
    schema = new_schema()
    folders = [str(ROOT / folder) for folder in ("agent_runtime", "adapters")]
    processes = [
        Popen((sys.executable, "-c", CONNECT, postgres_url, schema), stdin=PIPE, env={"PYTHONPATH": ":".join(folders)})
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 8


async def test_a_schema_of_something_else_is_refused_and_left_alone(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    schema = new_schema()
    await connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.sessions (mine text)")
    with pytest.raises(ConfigurationError, match="something else"):
        await use(opened(schema=schema))
    there = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    assert [row[0] for row in there] == ["sessions"]


async def test_a_schema_that_is_empty_is_taken(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    schema = new_schema()
    await connection.execute(f"CREATE SCHEMA {schema}")
    await use(opened(schema=schema))


async def test_a_newer_schema_is_refused(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    schema = new_schema()
    await use(opened(schema=schema))
    await connection.execute(f"INSERT INTO {schema}.agent_runtime_schema (version) VALUES (99)")
    with pytest.raises(ConfigurationError, match="upgrade"):
        await use(opened(schema=schema))


async def test_a_schema_may_be_called_like_a_word_of_sql(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    await use(opened(schema="select"))
    await connection.execute('DROP SCHEMA "select" CASCADE')


# Who may use it


@pytest.mark.parametrize(
    ("setting", "error", "match"),
    [
        ("synchronous_commit = off", ConfigurationError, "volatile"),
        ("default_transaction_isolation = 'serializable'", ConfigurationError, "read committed"),
        ("default_transaction_read_only = on", StoreUnavailable, "takes no writes"),
    ],
)
async def test_a_server_that_is_not_fit_is_refused(
    opened: Callable[..., PostgresDatabase],
    connection: asyncpg.Connection,
    postgres_url: str,
    setting: str,
    error: type[AgentRuntimeError],
    match: str,
) -> None:
    role = new_schema()
    await connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET {setting}")
    url = f"postgresql://{role}@{urlsplit(postgres_url).netloc.rpartition('@')[2]}/postgres"
    with pytest.raises(error, match=match):
        await use(opened(url=url))
    if "synchronous_commit" in setting:
        await use(opened(url=url, durability="volatile"))
    await connection.execute(f"DROP ROLE {role}")


async def test_a_database_of_another_encoding_is_refused(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection, postgres_url: str
) -> None:
    name = new_schema()
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with pytest.raises(ConfigurationError, match="UTF8"):
        await use(opened(url=postgres_url.removesuffix("postgres") + name))
    await connection.execute(f"DROP DATABASE {name} (FORCE)")


async def test_a_database_and_a_user_that_are_not_there_are_told_without_the_server_s_words(
    opened: Callable[..., PostgresDatabase], postgres_url: str
) -> None:
    place = urlsplit(postgres_url).netloc.rpartition("@")[2]
    for url in (f"postgresql://postgres:{SECRET}@{place}/nowhere", f"postgresql://nobody:{SECRET}@{place}/postgres"):
        with pytest.raises(ConfigurationError) as caught:
            await use(opened(url=url))
        assert place in str(caught.value)
        assert not any(word in str(caught.value) for word in (SECRET, "nobody", "nowhere", "FATAL"))


@pytest.mark.parametrize("parameter", ["foo=bar", "work_mem=much", "shared_buffers=1", "sslmode=maybe"])
async def test_a_parameter_of_the_url_that_is_wrong_is_told_as_that(
    opened: Callable[..., PostgresDatabase], postgres_url: str, parameter: str
) -> None:
    with pytest.raises(ConfigurationError, match="parameters"):
        await use(opened(url=f"{postgres_url}?{parameter}"))


async def test_a_server_without_tls_is_told_as_that(opened: Callable[..., PostgresDatabase], postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="TLS"):
        await use(opened(url=f"{postgres_url}?sslmode=require"))


async def test_a_port_that_nobody_listens_on_is_an_outage(opened: Callable[..., PostgresDatabase]) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await use(opened(url=f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"))


async def test_a_port_where_something_else_listens_is_told_as_that(opened: Callable[..., PostgresDatabase]) -> None:
    with closing(create_server(("127.0.0.1", 0))) as silent:
        database = opened(url=f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/postgres", timeout=0.2)
        with pytest.raises(StoreUnavailable, match="something else listens there"):
            await use(database)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/db",
        f"postgresql://ann:{SECRET}/@localhost/db",
        f"postgresql://ann:{SECRET}?@localhost/db",
        f"postgresql://ann:{SECRET}#@localhost/db",
        f"postgresql://ann:{SECRET}@local host/db",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresDatabase(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"schema": "Mine"},
        {"schema": 'a"; DROP TABLE x; --'},
        {"schema": "pg_mine"},
        {"schema": "x" * 64},
        {"max_connections": 0},
        {"statement_cache_size": -1},
        {"durability": "maybe"},
        {"timeout": 0},
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        open_stores("postgresql://localhost/db", **options)


async def test_stores_by_url_share_one_database(postgres_url: str, shared: PostgresDatabase) -> None:
    async with open_stores(postgres_url, schema=shared.schema, statement_cache_size=0) as stores:
        assert await stores.sessions.count(OWNER) == 0
        assert await stores.key_values.get(OWNER, "k") is None
    assert "postgres@" not in stores.name


# Troubles


@pytest.mark.parametrize(
    ("state", "kind", "retryable"),
    [
        ("57P01", StoreUnavailable, True),
        ("57014", StoreUnavailable, True),
        ("40001", StoreUnavailable, True),
        ("40P01", StoreUnavailable, True),
        ("55P03", StoreUnavailable, True),
        ("53300", StoreUnavailable, True),
        ("53200", StoreUnavailable, True),
        ("25006", StoreUnavailable, True),
        ("53100", StoreUnavailable, False),
        ("58030", StoreUnavailable, False),
        ("42P01", StoreUnavailable, False),
        ("0LP01", StoreUnavailable, False),
        ("08006", OutcomeUnknown, False),
        ("57P02", OutcomeUnknown, False),
        ("40003", OutcomeUnknown, False),
        ("42501", ConfigurationError, False),
        ("28P01", ConfigurationError, False),
        ("26000", ConfigurationError, False),
        ("54000", LimitExceeded, False),
        ("22021", InvalidInput, False),
        ("XX001", CorruptRecord, False),
    ],
)
async def test_what_the_server_says_is_told_in_our_words(
    shared: PostgresDatabase, state: str, kind: type[AgentRuntimeError], retryable: bool
) -> None:
    await execute(shared, FAILS)
    with pytest.raises(AgentRuntimeError) as caught:
        await shared.call("fails", state, 2)
    assert (type(caught.value), caught.value.retryable) == (kind, retryable)
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)


async def test_what_the_server_has_undone_is_asked_for_again_once(shared: PostgresDatabase) -> None:
    await execute(shared, FAILS)
    for state in ("40001", "40P01", "57P01"):
        await execute(shared, "ALTER SEQUENCE agent_runtime.attempts RESTART")
        [row] = await shared.call("fails", state, 1)
        assert row[0] == 2


async def test_a_value_that_cannot_be_sent_is_the_caller_s_and_the_connection_goes_on(
    opened: Callable[..., PostgresDatabase],
) -> None:
    database = opened(max_connections=1)
    for value in ("a\0b", "\ud800"):
        with pytest.raises(InvalidInput):
            await database.call("session_count", "", value, None, writes=False)
    assert await PostgresSessionStore(database).count(OWNER) == 0


async def test_connections_that_were_ended_while_nobody_used_them_are_made_anew(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    store = PostgresSessionStore(opened(max_connections=4))
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(store.count, OWNER)
    await end_all_others(connection)
    session_id = await made(store)
    await end_all_others(connection)
    assert await store.delete(OWNER, session_id)  # which is made once: nothing was sent before


async def test_a_write_whose_connection_is_ended_by_its_server_is_made_again(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    store = PostgresSessionStore(opened())
    session_id = await made(store)
    async with connection.transaction(), anyio.create_task_group() as group:
        await locked(connection, store, session_id, group)
        await end_all_others(connection)
        await until_waiting(connection)
        await connection.execute("COMMIT; BEGIN")
    assert await store.messages(OWNER, session_id) == list(BATCH.messages)


async def test_one_session_that_is_locked_stops_no_other(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    store = PostgresSessionStore(opened(max_connections=2))
    blocked, other = await made(store), await made(store)
    async with connection.transaction(), anyio.create_task_group() as group:
        await locked(connection, store, blocked, group)
        for count in range(1, 21):
            assert await append(store, other) == count
        assert await store.messages(OWNER, blocked) == []
        await connection.execute("COMMIT; BEGIN")
    assert await store.messages(OWNER, blocked) == list(BATCH.messages)


async def test_a_write_that_waits_too_long_is_in_doubt_is_stopped_and_keeps_no_connection(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    store = PostgresSessionStore(opened(max_connections=1, timeout=0.3))
    session_id = await made(store)
    async with connection.transaction():
        await connection.execute(lock(store), session_id)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(expect, OutcomeUnknown, append, store, session_id))
            await until_waiting(connection)
            # No connection in time: nothing was sent, so nothing is in doubt.
            group.start_soon(partial(expect, StoreUnavailable, append, store, session_id))
        with anyio.fail_after(5):
            while await waiting(connection):  # noqa: ASYNC110 - the server tells nobody
                await anyio.sleep(0.01)
    assert await append(store, session_id) == 1


# What is read


async def test_an_owner_s_sessions_and_expired_ones_are_found_by_an_index(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    schema = new_schema()
    store = PostgresSessionStore(opened(schema=schema, max_connections=1), clock=lambda: 1_000.0)
    await store.create(OWNER, "mine", FIELDS, SessionQuota(ttl=1_000), operation="o")
    await execute(store.server, MANY)
    quota = SessionQuota(ttl=1_000, max_sessions_per_user=2)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "list": lambda: store.sessions(OWNER),
        "count": lambda: store.count(OWNER),
        "create": lambda: store.create(OWNER, "second", FIELDS, quota, operation="o"),
        "expire": store.expire,
        "delete": lambda: store.delete_all(OWNER),
    }
    for name, call in calls.items():
        await execute(store.server, "SELECT pg_stat_force_next_flush()")
        before = await rows_read(connection, schema)
        await call()
        await execute(store.server, "SELECT pg_stat_force_next_flush()")
        scans, rows = await rows_read(connection, schema)
        assert scans == before[0], f"{name} reads all sessions"
        assert rows - before[1] <= 60, f"{name} read {rows - before[1]} of 2,031 sessions"


async def test_the_last_messages_are_read_without_the_others(
    opened: Callable[..., PostgresDatabase], connection: asyncpg.Connection
) -> None:
    schema = new_schema()
    store = PostgresSessionStore(opened(schema=schema, max_connections=1))
    session_id = await made(store)
    for _ in range(60):
        await append(store, session_id)
    await execute(store.server, "SELECT pg_stat_force_next_flush()")
    before = await rows_read(connection, schema, "messages")
    found = await store.messages(OWNER, session_id, last=5)
    await execute(store.server, "SELECT pg_stat_force_next_flush()")
    scans, rows = await rows_read(connection, schema, "messages")
    assert found is not None
    assert len(found) == 5
    assert scans == before[0]
    assert rows - before[1] <= 7


async def test_with_a_limit_for_all_sessions_those_that_live_are_counted(
    opened: Callable[..., PostgresDatabase],
) -> None:
    store = PostgresSessionStore(opened(schema=new_schema()), clock=lambda: 1_000.0)
    await execute(store.server, MANY)
    quota = SessionQuota(ttl=10, max_sessions=2_001)
    assert not isinstance(await store.create(OWNER, "s1", FIELDS, quota, operation="o"), Refusal)
    assert await store.create(OWNER, "s2", FIELDS, quota, operation="o") is Refusal.FULL


FAILS = """
CREATE SEQUENCE IF NOT EXISTS agent_runtime.attempts;
CREATE OR REPLACE FUNCTION agent_runtime.fails(state text, times integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE attempt bigint := nextval('agent_runtime.attempts');
BEGIN
    IF attempt <= times OR times > 1 THEN
        RAISE EXCEPTION 'geheim' USING ERRCODE = state;
    END IF;
    RETURN attempt;
END
$$
"""

# 2,000 sessions of others, and 30 whose time is up.
MANY = """
INSERT INTO agent_runtime.sessions (
    tenant_id, user_id, session_id, agent_id, closed, operation, created_at, updated_at, expires_at, due, data
) SELECT 'acme', 'user' || n, 's', 'a', false, 'o', 0, 0, CASE WHEN n > 2000 THEN 1 ELSE 10000 END,
         CASE WHEN n > 2000 THEN 1 ELSE 10000 END, ''
    FROM generate_series(1, 2030) AS n
"""


def new_schema() -> str:
    return f"s_{new_id().lower()}"


async def use(database: PostgresDatabase) -> None:
    assert await PostgresSessionStore(database).count(OWNER) == 0


async def made(store: PostgresSessionStore) -> str:
    session_id = new_id()
    made = await store.create(OWNER, session_id, FIELDS, SessionQuota(ttl=60), operation="o")
    assert not isinstance(made, Refusal)
    return session_id


async def append(store: PostgresSessionStore, session_id: str) -> int | Refusal:
    return await store.append(OWNER, session_id, BATCH, expected=None, ttl=60, operation=new_id())


def lock(store: PostgresSessionStore) -> str:
    return f"SELECT FROM {store.server.schema}.sessions WHERE session_id = $1 FOR UPDATE"


async def locked(
    connection: asyncpg.Connection, store: PostgresSessionStore, session_id: str, group: TaskGroup
) -> None:
    """Lock the session in the transaction, and have an append that waits for it."""
    await connection.execute(lock(store), session_id)
    group.start_soon(append, store, session_id)
    await until_waiting(connection)


async def until_waiting(connection: asyncpg.Connection) -> None:
    with anyio.fail_after(10):
        while not await waiting(connection):  # noqa: ASYNC110 - the server tells nobody
            await anyio.sleep(0.005)


async def waiting(connection: asyncpg.Connection) -> int:
    """How many wait for a lock that this connection has."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
    )


async def end_all_others(connection: asyncpg.Connection) -> None:
    """And wait until they have ended."""
    others = await connection.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND query LIKE '%session%'"
    )
    assert others


async def expect(
    error: type[AgentRuntimeError],
    call: Callable[[PostgresSessionStore, str], Awaitable[object]],
    store: PostgresSessionStore,
    session_id: str,
) -> None:
    with pytest.raises(error):
        await call(store, session_id)


async def rows_read(connection: asyncpg.Connection, schema: str, table: str = "sessions") -> tuple[int, int]:
    """How often all of the table was read, and how many rows of it by an index."""
    [row] = await connection.fetch(
        "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = $2", schema, table
    )
    return row[0], row[1]
