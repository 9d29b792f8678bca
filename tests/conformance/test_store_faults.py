"""Stores that share a server, or a file, keep their promises when the server, the network or a caller fails."""

from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.stores.served import HOST, Client, ModelServer, at_work, model_server

from agent_runtime import Stores, open_stores
from agent_runtime.testing import ServerFault, StoreFaultsContract, StoreSharingContract


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Drivers are asyncio's."""
    return "asyncio"


class TestModelServer(StoreFaultsContract):
    timeout = 0.5
    slack = 1.0
    recovery = 3.0

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


class TestSQLite(StoreSharingContract):
    @pytest.fixture(autouse=True)
    def url(self, tmp_path: Path) -> None:
        self._url = f"sqlite:///{tmp_path}/stores.db"

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        return open_stores(self._url, synchronous="NORMAL")
