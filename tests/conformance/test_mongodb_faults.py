"""The stores in MongoDB keep their promises when the server, the network or a caller fails."""

import gc
import os
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from pymongo import MongoClient, common
from tests.servers.mongodb_server import MongoDBProgram
from tests.servers.program import HOST, Program, running

from agent_runtime import Stores
from agent_runtime.ids import new_id
from agent_runtime.testing import ServerFault, StoreFaultsContract, StoreSharingContract
from agent_runtime_adapters.mongodb import open_mongodb

# The driver leaves a socket to the garbage collector when it is closed while it connects to a server that is gone.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture(scope="module")
def program() -> Generator[Program]:
    """A server of this module's own, that it stops, kills and pauses."""
    with running(MongoDBProgram) as program:
        yield program


@pytest.fixture(scope="module", autouse=True)
def looks() -> Generator[None]:
    """The driver looks again at a server that it has lost after 0.05 s, not 0.5: it is lost a hundred times here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.05)
        yield
    gc.collect()  # here, where what is said of sockets is known


SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
_WRITES = ("insert", "update", "delete", "findAndModify")
_FAILING: Mapping[ServerFault, Mapping[str, object]] = {
    ServerFault.DROPPED: {"failCommands": (*_WRITES, "find", "aggregate"), "closeConnection": True},
    ServerFault.READ_ONLY: {"failCommands": _WRITES, "errorCode": 10107},
    ServerFault.FULL: {"failCommands": _WRITES, "errorCode": 14031},
}


class OnMongo:
    """The contract on the module's server, in a database of each test's own."""

    timeout = 1.5

    @pytest.fixture(autouse=True)
    def server(self, program: Program) -> None:
        self._program = program
        self._database = f"f_{new_id()}"

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._program.port

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        host, port = address or self.address
        url = f"mongodb://{host}:{port}/?directConnection=true"
        return open_mongodb(url, database=self._database, timeout=self.timeout)

    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        return at_work(self._program, cause)


class TestMongoSharing(OnMongo, StoreSharingContract):
    """What two have at the same time."""


if SOAK:  # of a slow server

    class TestMongoFaults(OnMongo, StoreFaultsContract):
        """And what they are told when the server or the network fails."""


@contextmanager
def at_work(program: Program, cause: ServerFault) -> Generator[None]:
    match cause:
        case ServerFault.STOPPED | ServerFault.KILLED:
            (program.stop if cause is ServerFault.STOPPED else program.kill)()
            yield
            program.start()
        case ServerFault.PAUSED:
            program.pause()
            yield
            program.go_on()
        case _:
            say(program, mode="alwaysOn", data=_FAILING[cause])
            yield
            say(program, mode="off")


def say(program: Program, **options: Any) -> None:
    with MongoClient[dict[str, Any]](program.url) as client:
        client.admin.command("configureFailPoint", "failCommand", **options)
