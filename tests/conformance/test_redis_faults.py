"""The stores in Redis keep their promises when the server, the network or a caller fails."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

import pytest
from redis import Redis
from tests.servers.program import HOST, Program, running
from tests.servers.redis_server import RedisProgram

from agent_runtime import Stores
from agent_runtime.ids import new_id
from agent_runtime.testing import ServerFault, StoreFaultsContract
from agent_runtime_adapters.redis import open_redis


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's."""
    return "asyncio"


@pytest.fixture(scope="module")
def program() -> Generator[Program]:
    """A server of this module's own, that it stops, kills and fills."""
    with running(RedisProgram) as program:
        yield program


class TestRedisFaults(StoreFaultsContract):
    timeout = 0.3

    @pytest.fixture(autouse=True)
    def server(self, program: Program) -> None:
        self._program = program
        self._prefix = new_id()

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._program.port

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        host, port = address or self.address
        return open_redis(f"redis://{host}:{port}", prefix=self._prefix, timeout=self.timeout)

    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        return at_work(self._program, cause)


@contextmanager
def at_work(program: Program, cause: ServerFault) -> Generator[None]:
    _begin(program, cause)
    try:
        yield
    finally:
        _end(program, cause)


def _begin(program: Program, cause: ServerFault) -> None:
    match cause:
        case ServerFault.STOPPED:
            program.stop()
        case ServerFault.KILLED:
            program.kill()
        case ServerFault.PAUSED:
            program.pause()
        case ServerFault.DROPPED:
            ask(program, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        case ServerFault.READ_ONLY:
            ask(program, "REPLICAOF", HOST, "1")
        case ServerFault.FULL:
            ask(program, "CONFIG", "SET", "maxmemory", "1")


def _end(program: Program, cause: ServerFault) -> None:
    match cause:
        case ServerFault.STOPPED | ServerFault.KILLED:
            program.start()
        case ServerFault.PAUSED:
            program.go_on()
        case ServerFault.READ_ONLY:
            ask(program, "REPLICAOF", "NO", "ONE")
        case ServerFault.FULL:
            ask(program, "CONFIG", "SET", "maxmemory", "0")
        case _:
            pass


def ask(program: Program, *command: str) -> None:
    with Redis.from_url(program.url) as client:
        client.execute_command(*command)
