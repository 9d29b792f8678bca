"""Stores that share a server, or a file, keep their promises when the server, the network or a caller fails."""

from collections.abc import Generator
from contextlib import AbstractContextManager

import pytest
from tests.stores.served import HOST, Client, ModelServer, at_work, model_server

from agent_runtime import Stores
from agent_runtime.testing import ServerFault, StoreFaultsContract


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Drivers are asyncio's."""
    return "asyncio"


class TestModelServer(StoreFaultsContract):
    timeout = 0.2
    slack = 0.2

    @pytest.fixture(autouse=True)
    def server(self) -> Generator[ModelServer]:
        with model_server() as server:
            self._server = server
            yield server

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._server.port

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        return Client(self._server, address or self.address, self.timeout).stores

    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        return at_work(self._server, cause)
