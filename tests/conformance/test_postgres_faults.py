"""The stores in PostgreSQL keep their promises when the server, the network or a caller fails."""

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import asyncpg
import pytest
from tests.servers.postgres_server import PostgresProgram
from tests.servers.program import HOST, Program, running

from agent_runtime import Stores
from agent_runtime.testing import ServerFault, StoreFaultsContract
from agent_runtime_adapters.postgres import open_postgres


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Generator[Program]:
    with running(PostgresProgram) as program:
        yield program


class TestPostgresFaults(StoreFaultsContract):
    timeout = 1.5  # a connection that is opened byte by byte takes its time
    not_offered: ClassVar = {ServerFault.FULL: "a disk that is full is not to be had without being root"}

    @pytest.fixture(autouse=True)
    def served(self, server: Program) -> None:
        self.server = server

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.server.port

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        host, port = address or self.address
        url = f"postgresql://postgres@{host}:{port}/postgres"
        return open_postgres(url, timeout=self.timeout)

    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        return at_work(self.server, cause)


@contextmanager
def at_work(server: Program, cause: ServerFault) -> Generator[None]:
    match cause:
        case ServerFault.STOPPED | ServerFault.KILLED:
            (server.stop if cause is ServerFault.STOPPED else server.kill)()
            yield
            server.start()
        case ServerFault.PAUSED:
            server.pause()
            yield
            server.go_on()
        case ServerFault.DROPPED:
            yield
            say(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        case _:
            say(server, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            yield
            say(server, "SET default_transaction_read_only = off; ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def say(server: Program, *commands: str) -> None:
    """Run each in a transaction of its own."""

    async def said() -> None:
        connection = await asyncpg.connect(server.url)
        try:
            for command in commands:
                for part in command.split("; "):
                    await connection.execute(part)
        finally:
            await connection.close()

    asyncio.run(said())
