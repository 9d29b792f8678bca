"""The connection to MongoDB: what it takes, whether the server is fit, and what its failures become."""

import gc
import struct
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from tests.servers.mongodb_server import MongoDBProgram
from tests.servers.program import HOST, Program, free_port, running

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    MessageBatch,
    OutcomeUnknown,
    Owner,
    SessionFields,
    SessionQuota,
    StoreUnavailable,
    open_stores,
)
from agent_runtime.ids import new_id
from agent_runtime.testing.session_samples import TURN, done
from agent_runtime_adapters.mongodb import MongoDatabase, MongoSessionStore, open_mongodb
from agent_runtime_adapters.mongodb.database import Collections
from agent_runtime_adapters.mongodb.failures import translated, unreached
from agent_runtime_adapters.mongodb.fitness import Durability, check, is_replicated
from agent_runtime_adapters.mongodb.indexes import INDEXES

OWNER = Owner(tenant_id=None, user_id="ann")
FIT = {"maxWireVersion": 13, "isWritablePrimary": True}


# The driver leaves a socket to the garbage collector when it is closed while it connects to a server that is gone.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def database(mongodb_url: str) -> AsyncGenerator[MongoDatabase]:
    async with MongoDatabase(mongodb_url, database=f"test-{new_id()}", timeout=30.0) as database:
        yield database


@pytest.fixture(scope="module")
def program() -> Generator[Program]:
    """A server of this module's own, that it kills and pauses."""
    with running(MongoDBProgram) as program:
        yield program
    gc.collect()  # here, where what is said of sockets is known


# What it takes


@pytest.mark.parametrize(
    "url",
    [
        "mongodb:",
        "mongodb://",
        "http://host",
        "mongodb://u:" + "p@ss@w/x@host",
        "mongodb://u:p/w@host",
        "mongodb://u:p?w@host",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_words(url: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        MongoDatabase(url)
    assert "host" not in str(caught.value).replace("@host:port", "")


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"database": ""}, {"database": "a.b"}, {"durability": "some"}, {"timeout": float("inf")}],
)
def test_an_option_that_it_does_not_take_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        MongoDatabase("mongodb://host", **options)


def test_the_name_has_neither_user_nor_password() -> None:
    stores = open_mongodb("mongodb://ann:secret@one:27017,two:27018/mine?replicaSet=r")
    assert stores.name == "MongoDB at one:27017,two:27018"


def test_the_database_in_the_url_wins() -> None:
    assert MongoDatabase("mongodb://host/mine?w=1", database="other").database == "mine"
    assert MongoDatabase("mongodb://host/?w=1", database="other").database == "other"


def test_options_are_those_of_the_database_that_is_shared() -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        MongoSessionStore(MongoDatabase("mongodb://host"), timeout=1.0)


async def test_an_option_of_the_url_that_is_wrong_is_told_without_the_url() -> None:
    database = MongoDatabase("mongodb://ann:secret@host:99999/")
    with pytest.raises(ConfigurationError, match="one of its options is wrong") as caught:
        await database.do(lambda found: found.list_collection_names())
    assert "secret" not in str(caught.value)


async def test_stores_by_url_are_opened(mongodb_url: str) -> None:
    place, _, options = mongodb_url.partition("?")
    async with open_stores(f"{place}{new_id()}?{options}") as stores:
        assert await stores.sessions.count(OWNER) == 0


# Whether it is fit


async def test_many_workers_make_the_indexes_at_once(mongodb_url: str) -> None:
    name = f"test-{new_id()}"
    async with anyio.create_task_group() as workers:
        for _ in range(8):
            workers.start_soon(_open, mongodb_url, name)
    async with MongoDatabase(mongodb_url, database=name) as database:
        for collection, indexes in INDEXES.items():
            made = await database.do(lambda found: found[collection].index_information())  # noqa: B023 - called at once
            assert len(made) == 1 + len(indexes)


async def _open(url: str, name: str) -> None:
    async with MongoDatabase(url, database=name, timeout=30.0):
        pass


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        ({"maxWireVersion": 12, "isWritablePrimary": True}, ConfigurationError),
        ({"maxWireVersion": 13, "isWritablePrimary": False}, StoreUnavailable),
    ],
)
async def test_a_server_that_is_not_fit_is_refused(
    database: MongoDatabase, hello: dict[str, Any], error: type[AgentRuntimeError]
) -> None:
    with pytest.raises(error):
        await database.do(lambda found: check(hello, found, "MongoDB at x", "durable"))


async def test_writes_have_to_be_answered(mongodb_url: str) -> None:
    url = f"{mongodb_url}&w=0"
    async with MongoDatabase(url, database="w", timeout=30.0):
        pass  # the URL does not matter where writes are to be durable
    with pytest.raises(ConfigurationError, match="w=0"):
        await _open_volatile(url)


async def _open_volatile(url: str) -> None:
    async with MongoDatabase(url, database="w", timeout=30.0, durability="volatile"):
        pass


@pytest.mark.parametrize(("durability", "level"), [("durable", "majority"), ("volatile", "local")])
async def test_what_no_majority_has_to_acknowledge_is_read_before_it_does(
    mongodb_url: str, durability: Durability, level: str
) -> None:
    async with MongoDatabase(mongodb_url, database="w", timeout=30.0, durability=durability) as database:
        assert (await database.connected()).read_concern.level == level


def test_who_has_a_majority_says_so() -> None:
    assert is_replicated({"setName": "r"})
    assert is_replicated({"msg": "isdbgrid"})
    assert not is_replicated(FIT)


# What failures become


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ServerSelectionTimeoutError("secret"), StoreUnavailable),
        (WaitQueueTimeoutError("secret"), StoreUnavailable),
        (AutoReconnect("secret"), OutcomeUnknown),
        (NotPrimaryError("secret", {"code": 10107}), StoreUnavailable),
        (NotPrimaryError("secret", {"code": 11602}), OutcomeUnknown),
        (OperationFailure("secret", 10107), StoreUnavailable),
        (OperationFailure("secret", 11600, {"code": 11600}), OutcomeUnknown),
        (OperationFailure("secret", 112, {"code": 112}), StoreUnavailable),
        (OperationFailure("secret", 14031, {"code": 14031}), StoreUnavailable),
        (OperationFailure("secret", 18, {"code": 18}), ConfigurationError),
        (OperationFailure("secret", 13, {"code": 13}), ConfigurationError),
        (OperationFailure("secret", 10334, {"code": 10334}), LimitExceeded),
        (OperationFailure("secret", 4711, {"code": 4711}), StoreUnavailable),
        (WriteConcernError("secret", 64, {"code": 64}), OutcomeUnknown),
        (BulkWriteError({"writeErrors": [{"code": 13}]}), ConfigurationError),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), OutcomeUnknown),
        (DocumentTooLarge("secret"), LimitExceeded),
        (OverflowError("secret"), InvalidInput),
        (InvalidOperation("secret"), StoreUnavailable),
        (PyMongoError("secret"), StoreUnavailable),
    ],
)
def test_an_error_of_the_driver_is_one_of_ours_without_its_words(
    error: Exception, ours: type[AgentRuntimeError]
) -> None:
    told = translated(error, "MongoDB at x")
    assert type(told) is ours
    assert "secret" not in str(told)


def test_other_errors_stay_what_they_are() -> None:
    assert translated(KeyError("x"), "MongoDB at x") is None


@pytest.mark.parametrize("error", [RuntimeError("Lock is not acquired"), struct.error("secret"), IndexError("secret")])
def test_whatever_comes_out_of_the_driver_leaves_in_doubt(error: Exception) -> None:
    code = "def answer(error):\n    raise error"
    driver: dict[str, Any] = {"__name__": "pymongo.asynchronous.topology"}
    exec(code, driver)
    with pytest.raises(type(error)) as caught:
        driver["answer"](error)
    told = translated(caught.value, "MongoDB at x")
    assert isinstance(told, OutcomeUnknown)
    assert "secret" not in str(told)


async def test_a_driver_that_is_cancelled_is_left_to_end_by_itself(database: MongoDatabase) -> None:
    async def slow(collections: Collections) -> None:
        try:
            await anyio.sleep(0.1)
        except anyio.get_cancelled_exc_class():
            pytest.fail("cancelled")

    database.timeout, timeout = 0.05, database.timeout
    with pytest.raises(OutcomeUnknown, match="timeout"):
        await database.do(slow)
    database.timeout = timeout
    await database.settled()


async def test_what_the_driver_waits_for_ends_before_the_call(program: Program) -> None:
    database = MongoDatabase(program.url, timeout=1.0)
    async with database:
        program.pause()
        try:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(_lost, database)
        finally:
            program.go_on()
        assert await database.do(lambda found: found["counters"].find_one({}), writes=False)


async def _lost(database: MongoDatabase) -> None:
    with pytest.raises((StoreUnavailable, OutcomeUnknown)):
        await database.do(lambda found: found["counters"].insert_one({}))


def test_who_was_not_reached_has_done_nothing() -> None:
    assert isinstance(unreached(AutoReconnect("secret"), "MongoDB at x"), StoreUnavailable)


async def test_a_server_that_is_not_there_is_told_in_time() -> None:
    store = MongoSessionStore(f"mongodb://{HOST}:{free_port()}", timeout=0.3)
    with anyio.fail_after(3), pytest.raises(StoreUnavailable):
        await store.read(OWNER, "s")
    await store.aclose()


async def test_what_was_acknowledged_outlives_a_kill(program: Program) -> None:
    store = MongoSessionStore(program.url, timeout=1.5)
    await store.create(OWNER, "s", SessionFields(agent_id="a", data=b""), SessionQuota(ttl=60), operation="o")
    for number in range(5):
        await _append(store, f"o{number}", "s")
    program.kill()
    with pytest.raises((StoreUnavailable, OutcomeUnknown)):
        await _append(store, "late", "s")
    with pytest.raises(StoreUnavailable):
        await store.messages(OWNER, "s")
    program.start()
    assert len(await store.messages(OWNER, "s") or ()) == 10
    assert await _append(store, "late", "s") == 12
    await store.delete(OWNER, "s")
    await store.aclose()


async def test_a_paused_server_is_told_as_doubt_of_a_write_and_as_an_outage_of_a_read(program: Program) -> None:
    store = MongoSessionStore(program.url, timeout=0.5)
    await store.create(OWNER, "p", SessionFields(agent_id="a", data=b""), SessionQuota(ttl=60), operation="o")
    program.pause()
    try:
        with pytest.raises(StoreUnavailable):
            await store.read(OWNER, "p")
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await _append(store, "o", "p")
    finally:
        program.go_on()
    again = MongoSessionStore(program.url)
    assert await _append(again, "o", "p") == 2
    await again.aclose()
    await store.aclose()


@pytest.mark.parametrize("command", ["aggregate", "update", "insert"])
async def test_a_connection_that_is_cut_in_an_append_loses_and_doubles_nothing(program: Program, command: str) -> None:
    store = MongoSessionStore(program.url)
    name = f"c-{command}"
    await store.create(OWNER, name, SessionFields(agent_id="a", data=b""), SessionQuota(ttl=60), operation="o")
    point = {"failCommands": [command], "closeConnection": True}
    await store.server.do(
        lambda found: found.client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=point)
    )
    assert await _append(store, "o", name) == 2
    assert len(await store.messages(OWNER, name) or ()) == 2
    await store.aclose()


async def _append(store: MongoSessionStore, operation: str, name: str) -> int:
    batch = MessageBatch.of(TURN)
    return done(await store.append(OWNER, name, batch, expected=None, ttl=60, operation=operation))
