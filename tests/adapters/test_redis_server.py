"""The connection to Redis: what goes out together, what one caller does to the others, and what becomes of a server's troubles."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import anyio
import pytest
from redis import Redis
from tests.servers.program import HOST, Program, free_port, running
from tests.servers.redis_server import RedisProgram

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    LimitExceeded,
    OutcomeUnknown,
    Owner,
    RuntimeClosed,
    SessionFields,
    SessionQuota,
    StoredLease,
    Stores,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime.testing import Fault, FaultKind, no_leaks, open_proxy
from agent_runtime_adapters.redis import RedisServer, RedisSessionStore, open_redis
from agent_runtime_adapters.redis.lua import Script

SECRET = "secret"
OWNER = Owner(tenant_id="acme", user_id="ann")
FIELDS = SessionFields(agent_id="support", data=b"x")
QUOTA = SessionQuota(ttl=60)
SPAN = 0.2  # seconds for each call where a server is to be silent


def made(source: str) -> Script:
    """A script of the test's own."""
    return Script(source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ECHO = made("#!lua flags=no-writes\nreturn ARGV[1]")
ADD = made("#!lua\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])")
WRONG = made("#!lua\nredis.call('SET', KEYS[1], '')\nreturn redis.call('LPUSH', KEYS[1], '')")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture(scope="module")
def program() -> Generator[Program]:
    """A server of this module's own, that it stops, fills and confuses."""
    with running(RedisProgram) as program:
        yield program


@pytest.fixture
async def server(program: Program) -> AsyncGenerator[RedisServer]:
    async with opened(program.url) as server:
        yield server


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[RedisServer]:
    server = RedisServer(url, prefix=new_id(), **options)
    try:
        yield server
    finally:
        await server.aclose()


def ask(program: Program, *command: str) -> dict[str, Any]:
    with Redis.from_url(program.url) as client:
        return cast("dict[str, Any]", client.execute_command(*command))


def key(server: RedisServer) -> bytes:
    return server.shard(0) + b"k"


async def add(server: RedisServer, number: int = 1, *, repeatable: bool = False) -> int:
    return int(await server.run(ADD, [key(server)], [number], repeatable=repeatable))


async def value(server: RedisServer) -> int:
    return await add(server, 0)


# Together


async def test_each_of_many_callers_gets_its_own_answer(server: RedisServer) -> None:
    answers = await asyncio.gather(*(server.run(ECHO, [], [n], writes=False) for n in range(1_000)))
    assert answers == [b"%d" % n for n in range(1_000)]


async def test_what_is_asked_in_one_turn_is_sent_at_once(program: Program, server: RedisServer) -> None:
    await add(server)
    before = ask(program, "INFO", "stats")["total_reads_processed"]
    await asyncio.gather(*(add(server) for _ in range(100)))
    after = ask(program, "INFO", "stats")["total_reads_processed"]
    assert after - before < 10  # reading the statistics among them
    assert await value(server) == 101


async def test_there_are_few_connections(program: Program, server: RedisServer) -> None:
    async def ten() -> None:
        for _ in range(10):
            await add(server)

    before = ask(program, "INFO", "clients")["connected_clients"]
    await asyncio.gather(*(ten() for _ in range(50)))
    assert ask(program, "INFO", "clients")["connected_clients"] - before <= 4


async def test_what_is_large_does_not_go_with_what_is_small(server: RedisServer) -> None:
    large = b"x" * 1_000_000
    answers = await asyncio.gather(*(server.run(ECHO, [], [large if n % 2 else b"y"]) for n in range(20)))
    assert [len(answer) for answer in answers] == [1, 1_000_000] * 10


async def test_commands_behind_a_script_are_answered_with_it(server: RedisServer) -> None:
    await add(server, 5)
    assert await server.run(ECHO, [], ["a"], then=[("GET", key(server)), ("GET", "nothing")], writes=False) == [
        b"a",
        b"5",
        None,
    ]
    with pytest.raises(ConfigurationError, match="something else"):
        await server.run(ECHO, [], ["a"], then=[("LLEN", key(server)), ("GET", key(server))], writes=False)
    assert await value(server) == 5


# One caller and the others


async def test_an_argument_that_cannot_be_sent_is_the_caller_s_alone(server: RedisServer) -> None:
    async def wrong() -> None:
        with pytest.raises(TypeError):
            await server.run(ADD, [key(server)], [None])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # on purpose

    await asyncio.gather(add(server), wrong(), add(server))
    assert await value(server) == 2


async def test_a_script_that_fails_is_the_caller_s_alone_and_in_doubt(server: RedisServer) -> None:
    async def wrong() -> None:
        with pytest.raises((OutcomeUnknown, ConfigurationError)):
            await server.run(WRONG, [key(server) + b"2"], [])

    await asyncio.gather(add(server), wrong(), add(server))
    assert await value(server) == 2


async def test_a_caller_that_is_cancelled_takes_nobody_along(server: RedisServer) -> None:
    calls = [asyncio.ensure_future(add(server)) for _ in range(10)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    calls[1].cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    calls[2].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True] * 3 + [False] * 7
    assert 7 <= await value(server) <= 10


async def test_a_script_that_the_server_has_forgotten_is_sent_again(program: Program, server: RedisServer) -> None:
    await add(server)
    ask(program, "SCRIPT", "FLUSH")
    await asyncio.gather(*(add(server) for _ in range(5)))
    assert await value(server) == 6


async def test_nothing_is_left_when_it_is_closed(program: Program) -> None:
    async with no_leaks():
        async with opened(program.url) as server:
            await asyncio.gather(*(add(server) for _ in range(300)))
        with pytest.raises(RuntimeClosed):
            await add(server)


async def test_calls_in_flight_are_made_before_it_is_closed(program: Program, server: RedisServer) -> None:
    calls = [asyncio.ensure_future(add(server)) for _ in range(5)]
    await asyncio.sleep(0)
    await server.aclose()
    assert sorted(await asyncio.gather(*calls)) == [1, 2, 3, 4, 5]


# Connections that end


async def test_a_connection_that_the_server_has_closed_is_not_written_to(program: Program, server: RedisServer) -> None:
    for n in range(3):
        assert await add(server) == n + 1
        ask(program, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await anyio.sleep(0.02)  # until its end has arrived


@pytest.mark.parametrize("kind", [FaultKind.CUT_BEFORE_FORWARD, FaultKind.CUT_AFTER_FORWARD])
async def test_a_write_that_was_lost_is_in_doubt_and_one_that_may_be_repeated_is(
    program: Program, kind: FaultKind
) -> None:
    with open_proxy(HOST, program.port) as proxy:
        async with opened(f"redis://{HOST}:{proxy.port}") as server:
            await add(server)
            proxy.fault = Fault(kind=kind, once=True)
            with pytest.raises(OutcomeUnknown):
                await add(server)
            there = await value(server)
            proxy.fault = Fault(kind=kind, once=True)
            assert await add(server, repeatable=True) in (there + 1, there + 2)
            proxy.fault = Fault(kind=kind, once=True)
            assert await server.run(ECHO, [], ["a"], writes=False) == b"a"


async def test_a_write_that_is_lost_twice_stays_in_doubt(program: Program) -> None:
    with open_proxy(HOST, program.port) as proxy:
        async with opened(f"redis://{HOST}:{proxy.port}") as server:
            await add(server)
            proxy.fault = Fault(kind=FaultKind.CUT_AFTER_FORWARD)
            with pytest.raises(OutcomeUnknown):
                await add(server, repeatable=True)
            with pytest.raises(StoreUnavailable):
                await server.run(ECHO, [], ["a"], writes=False)


async def test_a_server_that_says_nothing_is_waited_for_as_long_as_was_said(program: Program) -> None:
    async with opened(program.url, timeout=SPAN) as server:
        await add(server)
        program.pause()
        try:
            begin = anyio.current_time()
            results = await asyncio.gather(add(server), server.run(ECHO, [], [1], writes=False), return_exceptions=True)
            assert [type(result) for result in results] == [OutcomeUnknown, StoreUnavailable]
            assert SPAN * 0.9 < anyio.current_time() - begin < SPAN * 3
        finally:
            program.go_on()
        assert await value(server) in (1, 2)


async def test_calls_that_no_lane_is_free_for_were_not_sent(program: Program) -> None:
    async with opened(program.url, timeout=SPAN) as server:
        await asyncio.gather(*(add(server) for _ in range(300)))  # three lanes
        program.pause()
        try:
            calls: list[asyncio.Future[int]] = []
            for _ in range(6):
                calls.append(asyncio.ensure_future(add(server)))
                for _ in range(5):
                    await asyncio.sleep(0)
            results = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            program.go_on()
        assert [type(result) for result in results] == [OutcomeUnknown] * 3 + [StoreUnavailable] * 3
        assert 300 <= await value(server) <= 303


async def test_closed_in_the_middle_what_was_sent_is_in_doubt(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime.store_server._LAST_WORDS", -9.95)
    async with opened(program.url, timeout=10) as server:
        await add(server)
        program.pause()
        try:
            call = asyncio.ensure_future(add(server))
            await anyio.sleep(0.01)
            await server.aclose()
            with pytest.raises(OutcomeUnknown, match="closed"):
                await call
        finally:
            program.go_on()


# Servers that refuse


async def test_a_server_that_became_a_replica_says_so_until_it_is_the_primary_again(
    program: Program, server: RedisServer
) -> None:
    await add(server)
    ask(program, "REPLICAOF", HOST, "1")
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="replica") as raised:
                await add(server)
            assert raised.value.retryable
        async with opened(program.url) as late:
            with pytest.raises(StoreUnavailable, match="Sentinels"):
                await add(late)
    finally:
        ask(program, "REPLICAOF", "NO", "ONE")
    assert await add(server) == 2


async def test_a_server_without_memory_refuses_writes_and_is_read(program: Program, server: RedisServer) -> None:
    await add(server)
    ask(program, "CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await add(server)
        assert await server.run(ECHO, [], ["a"], writes=False) == b"a"
    finally:
        ask(program, "CONFIG", "SET", "maxmemory", "0")
    assert await add(server) == 2


async def test_a_server_without_memory_gets_rid_of_sessions(program: Program) -> None:
    async with opened(program.url) as server:
        store, ended = RedisSessionStore(server), RedisSessionStore(server, clock=lambda: 4e9)
        for name in ("s1", "s2", "s3"):
            await store.create(OWNER, name, FIELDS, QUOTA, operation="c")
        lease = await store.acquire(OWNER, "s1", "r", seconds=60, ttl=60, entry=b"1")
        assert isinstance(lease, StoredLease)
        await store.put_checkpoint(OWNER, "s1", "c1", b"x", ttl=60)
        ask(program, "CONFIG", "SET", "maxmemory", "1")
        try:
            assert await store.delete_checkpoints(OWNER, "s1") == 1
            assert await store.release(OWNER, "s1", lease.token)
            assert await store.discard_run(OWNER, "s1", "r") is True
            assert await store.delete(OWNER, "s1")
            assert [each.session_id for each in await ended.expire()] == ["s2", "s3"]
            assert await store.delete_all(OWNER) == 0
        finally:
            ask(program, "CONFIG", "SET", "maxmemory", "0")


async def test_a_server_that_is_busy_is_told(program: Program, server: RedisServer) -> None:
    await add(server)
    ask(program, "CONFIG", "SET", "busy-reply-threshold", "1")
    try:
        async with opened(program.url) as other:
            endless = asyncio.ensure_future(other.run(made("#!lua flags=no-writes\nwhile true do end"), [], []))
            await anyio.sleep(0.05)
            with pytest.raises(StoreUnavailable, match="SCRIPT KILL"):
                await add(server)
            ask(program, "SCRIPT", "KILL")
            with pytest.raises(OutcomeUnknown):
                await endless
    finally:
        ask(program, "CONFIG", "SET", "busy-reply-threshold", "5000")
    assert await add(server) == 2


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("MISCONF Redis is configured to save s3cret", StoreUnavailable, "disk"),
        ("NOREPLICAS Not enough s3cret", StoreUnavailable, "min-replicas-to-write"),
        ("UNKILLABLE s3cret", StoreUnavailable, "busy"),
        ("LOADING s3cret", StoreUnavailable, "loading"),
        ("MASTERDOWN s3cret", StoreUnavailable, "primary"),
        ("CLUSTERDOWN s3cret", StoreUnavailable, "slots"),
        ("TRYAGAIN s3cret", StoreUnavailable, "moving"),
        ("MOVED 1 127.0.0.1:1", StoreUnavailable, "moved"),
        ("NOAUTH s3cret", ConfigurationError, "its URL has none"),
        ("WRONGPASS s3cret", ConfigurationError, "user and password"),
        ("NOPERM s3cret", ConfigurationError, "@scripting"),
        ("ERR max number of clients reached", StoreUnavailable, "no more connections"),
        ("ERR unknown command 's3cret'", ConfigurationError, "EVALSHA"),
        ("ERR Protocol error: invalid bulk length", LimitExceeded, "proto-max-bulk-len"),
        ("ERR s3cret happened", OutcomeUnknown, "half-way"),
    ],
)
async def test_what_a_server_says_is_told_in_other_words(
    server: RedisServer, said: str, kind: type[AgentRuntimeError], told: str
) -> None:
    saying = made("#!lua\nreturn redis.error_reply(ARGV[1])")
    with pytest.raises(kind, match=told) as raised:
        await server.run(saying, [], [said])
    assert server.name in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert await add(server) == 1


def test_what_is_no_error_of_redis_is_not_translated() -> None:
    assert RedisServer("redis://h").translated(ZeroDivisionError()) is None


# Servers that are not fit


@contextmanager
def configured(program: Program, name: str, setting: str) -> Generator[None]:
    with Redis.from_url(program.url) as client:
        before = str(client.config_get(name)[name])
    ask(program, "CONFIG", "SET", name, setting)
    try:
        yield
    finally:
        ask(program, "CONFIG", "SET", name, before)


@pytest.mark.parametrize(
    ("name", "setting", "told"),
    [("appendonly", "no", "appendonly yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")],
)
async def test_a_server_that_forgets_is_refused_unless_that_is_wanted(
    program: Program, name: str, setting: str, told: str
) -> None:
    with configured(program, name, setting):
        async with opened(program.url) as server:
            with pytest.raises(ConfigurationError, match=told):
                await add(server)
        async with opened(program.url, durability="volatile") as server:
            assert await add(server) == 1


async def test_who_may_not_ask_whether_the_server_is_fit_has_to_say_that_it_need_not_be(program: Program) -> None:
    ask(program, "ACL", "SETUSER", "mute", "on", f">{SECRET}", "~*", "+@all", "-info")
    ask(program, "ACL", "SETUSER", "mere", "on", f">{SECRET}", "~*", "+@all", "-evalsha")
    try:
        mute = f"redis://mute:{SECRET}@{HOST}:{program.port}"
        async with opened(mute) as server:
            with pytest.raises(ConfigurationError, match="INFO"):
                await add(server)
        async with opened(mute, durability="volatile") as server:
            assert await add(server) == 1
        async with opened(f"redis://mere:{SECRET}@{HOST}:{program.port}") as server:
            with pytest.raises(ConfigurationError, match="@scripting"):
                await add(server)
    finally:
        ask(program, "ACL", "DELUSER", "mute", "mere")


async def test_a_password_that_is_wrong_is_told_without_it(program: Program) -> None:
    async with opened(f"redis://ann:s3cret@{HOST}:{program.port}") as server:
        with pytest.raises(ConfigurationError, match="user and password") as raised:
            await add(server)
    assert "s3cret" not in f"{raised.value}{server.name}{server!r}"


@pytest.mark.parametrize("database", [99, -1, 10**20])
async def test_a_database_that_is_not_there_is_named(program: Program, database: int) -> None:
    async with opened(f"redis://{HOST}:{program.port}/{database}") as server:
        with pytest.raises(ConfigurationError, match=f"no database {database},"):
            await add(server)


async def test_nobody_there_is_an_outage() -> None:
    async with opened(f"redis://{HOST}:{free_port()}") as server:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="reached"):
                await asyncio.gather(add(server), add(server))


# URLs and options


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "Redis at h:6379"),
        ("redis://u:p@h:1/3", "Redis at h:1"),
        ("rediss://:p%40@[::1]:7/0?ssl_check_hostname=false", "Redis at [::1]:7 by TLS"),
        ("redis+sentinel://a,b:2/mine/1", "Redis 'mine' at a:26379,b:2"),
        ("redis+cluster://u:p@a,b:2", "the Redis cluster at a:6379,b:2"),
        ("rediss+cluster://a", "the Redis cluster at a:6379 by TLS"),
    ],
)
def test_a_url_says_where_it_is(url: str, name: str) -> None:
    stores = open_stores(url)
    assert isinstance(stores, Stores)
    assert stores.name == name


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis://",
        "redis://h:x",
        "redis://h:70000",
        "redis://h/x",
        "redis://h/1/2",
        "redis://a,b",
        "redis+sentinel://h",
        "redis+cluster://h/1",
        "redis://s3cret@h?ssl_ca_certs=x",
        "rediss://u:s3cret@h?what=1",
        "rediss://h?ssl_check_hostname=perhaps",
    ],
)
def test_a_url_of_another_form_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://host") as raised:
        RedisServer(url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [{"shards": 0}, {"shards": 16_385}, {"prefix": ""}, {"prefix": "a}b"}, {"durability": "maybe"}, {"timeout": 0}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        open_redis("redis://h", **options)


def test_options_belong_to_who_makes_the_server() -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisSessionStore(RedisServer("redis://h"), prefix="p")


# Killed


async def test_what_was_acknowledged_is_there_after_a_crash(program: Program) -> None:
    async with opened(program.url) as server:
        await asyncio.gather(*(add(server) for _ in range(100)))
        program.kill()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await server.run(ECHO, [], [""])
        program.start()
        assert await value(server) == 100
