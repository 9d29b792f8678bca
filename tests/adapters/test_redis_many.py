"""Sessions on a cluster, and on a primary that a Sentinel replaces."""

from collections.abc import Generator, Sequence

import anyio
import pytest
from tests.servers.program import HOST
from tests.servers.redis_many import SERVICE, ClusterNode, agreed, ask, cluster, watched

from agent_runtime import (
    ConfigurationError,
    Message,
    MessageBatch,
    OutcomeUnknown,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    StoreUnavailable,
)
from agent_runtime.ids import new_id
from agent_runtime.testing import no_leaks
from agent_runtime_adapters.redis import RedisServer, RedisSessionStore, open_redis
from agent_runtime_adapters.redis.keys import owner_part

FIELDS = SessionFields(agent_id="support", data=b"x")
QUOTA = SessionQuota(ttl=60)
BATCH = MessageBatch.of([Message(role="user", content="hello")])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture(scope="module")
def nodes() -> Generator[Sequence[ClusterNode]]:
    with cluster(3) as nodes:
        yield nodes


@pytest.fixture
def url(nodes: Sequence[ClusterNode]) -> str:
    return f"redis+cluster://{HOST}:{nodes[0].port},{HOST}:{nodes[1].port}"


def owner(number: int) -> Owner:
    return Owner(tenant_id=None, user_id=f"user {number}")


async def append(store: RedisSessionStore, whose: Owner) -> int | Refusal:
    return await store.append(whose, "s", BATCH, expected=None, ttl=60, operation=new_id())


async def test_sessions_are_spread_over_the_nodes_and_each_is_whole(nodes: Sequence[ClusterNode], url: str) -> None:
    async with no_leaks():
        now = 1_000_000.0
        store = RedisSessionStore(url, prefix=new_id(), clock=lambda: now)
        async with store:
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(fill, store, owner(number))
            for number in range(50):
                assert [item.content for item in await store.messages(owner(number), "s") or ()] == ["hello"] * 3
                assert len(await store.messages(owner(number), "s", last=2) or ()) == 2
                assert await store.count(owner(number)) == 2
            assert all(int(ask(node, "DBSIZE")) > 50 for node in nodes)
            now += 61
            told = await store.expire()
            assert sorted(item.owner.user_id for item in told) == sorted(2 * [owner(n).user_id for n in range(50)])
            assert await store.expire() == []
        await store.aclose()


async def until_done(store: RedisSessionStore, whose: Owner, *, operation: str) -> int | Refusal:
    give_up = anyio.current_time() + 30
    while True:
        try:
            return await store.append(whose, "s", BATCH, expected=None, ttl=60, operation=operation)
        except (StoreUnavailable, OutcomeUnknown):
            assert anyio.current_time() < give_up
            await anyio.sleep(0.02)


async def fill(store: RedisSessionStore, whose: Owner) -> None:
    await store.create(whose, "s", FIELDS, QUOTA, operation="c")
    for _ in range(3):
        await append(store, whose)
    await store.put_checkpoint(whose, "s", "c1", b"1", ttl=60)
    await store.fork(whose, "s", "c1", "fork", QUOTA, operation="f")


async def test_all_that_belongs_to_an_owner_is_on_one_node(url: str) -> None:
    async with RedisServer(url) as server:
        tags = {server.tag(owner_part(owner(number))) for number in range(1_000)}
        assert len(tags) == server.shards == 64
    await server.aclose()


async def test_a_limit_of_all_sessions_is_refused_and_one_of_a_user_holds(url: str) -> None:
    store = RedisSessionStore(url, prefix=new_id())
    try:
        with pytest.raises(ConfigurationError, match="max_sessions_per_user"):
            await store.create(owner(1), "s", FIELDS, SessionQuota(ttl=60, max_sessions=5), operation="o")
        quota = SessionQuota(ttl=60, max_sessions_per_user=1)
        assert not isinstance(await store.create(owner(1), "s", FIELDS, quota, operation="o"), Refusal)
        assert await store.create(owner(1), "t", FIELDS, quota, operation="o") is Refusal.OWNER_FULL
    finally:
        await store.aclose()


async def test_a_slot_that_has_moved_is_found(nodes: Sequence[ClusterNode], url: str) -> None:
    stores = open_redis(url, prefix=new_id(), shards=1)
    async with stores:
        store = stores.sessions
        assert isinstance(store, RedisSessionStore)
        await fill(store, owner(1))
        slot = int(ask(nodes[0], "CLUSTER", "KEYSLOT", store.server.shard(0).decode()))
        [there] = [node for node in nodes if int(ask(node, "CLUSTER", "COUNTKEYSINSLOT", slot))]
        other = next(node for node in nodes if node is not there)
        moved(nodes, there, other, slot)
        assert await append(store, owner(1)) == 4
        assert len(await store.messages(owner(1), "s") or ()) == 4
    await stores.aclose()


def moved(nodes: Sequence[ClusterNode], there: ClusterNode, other: ClusterNode, slot: int) -> None:
    """Move a slot with its keys."""
    names = {node: ask(node, "CLUSTER", "MYID").decode() for node in nodes}
    ask(other, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[there])
    ask(there, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[other])
    for key in ask(there, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        ask(there, "MIGRATE", HOST, other.port, key, 0, 1_000)
    for node in (other, there, *nodes):
        ask(node, "CLUSTER", "SETSLOT", slot, "NODE", names[other])


async def test_a_url_of_another_kind_is_told(nodes: Sequence[ClusterNode], redis_url: str) -> None:
    for url, told in (
        (f"redis://{HOST}:{nodes[0].port}", r"redis\+cluster://"),
        (redis_url.replace("redis://", "redis+cluster://").removesuffix("/0"), "cluster"),
    ):
        server = RedisServer(url)
        with pytest.raises((ConfigurationError, StoreUnavailable), match=told):
            await server.__aenter__()
        await server.aclose()


async def test_a_node_that_is_gone_holds_up_its_own_sessions_only(nodes: Sequence[ClusterNode], url: str) -> None:
    store = RedisSessionStore(url, prefix=new_id(), timeout=0.5)
    async with store:
        for number in range(20):
            await store.create(owner(number), "s", FIELDS, QUOTA, operation="c")
        nodes[2].pause()
        try:
            outcomes: list[str] = []

            async def one(number: int) -> None:
                try:
                    await append(store, owner(number))
                    outcomes.append("done")
                except (StoreUnavailable, OutcomeUnknown):
                    outcomes.append("failed")

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(one, number)
            assert set(outcomes) == {"done", "failed"}
        finally:
            nodes[2].go_on()
        for number in range(20):
            await until_done(store, owner(number), operation=new_id())
    await store.aclose()


async def test_a_fail_over_is_an_outage_that_ends() -> None:
    with watched() as (primary, replica, sentinel):
        url = f"redis+sentinel://{HOST}:{primary.port + 1},{HOST}:{sentinel.port}/{SERVICE}/0"
        store = RedisSessionStore(url, prefix=new_id(), timeout=1.0)
        async with store:
            await fill(store, owner(1))
            agreed(lambda: int(ask(replica, "DBSIZE")) == int(ask(primary, "DBSIZE")))
            primary.kill()
            with pytest.raises((StoreUnavailable, OutcomeUnknown)):
                await append(store, owner(2))
            assert await until_done(store, owner(1), operation="again") == 4
            assert int(ask(replica, "DBSIZE")) > 0
        other = RedisServer(f"redis+sentinel://{HOST}:{sentinel.port}/yours")
        with pytest.raises(StoreUnavailable, match="yours"):
            await other.__aenter__()
        await other.aclose()
        await store.aclose()
