"""The stores that the programs of this folder try, by name."""

import hashlib
import multiprocessing
import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.servers.mongodb_server import MongoDBProgram
from tests.servers.postgres_server import PostgresProgram
from tests.servers.program import Program, served
from tests.servers.redis_server import RedisProgram
from tests.stores.distant import Distant

import agent_runtime_adapters.mongodb
import agent_runtime_adapters.postgres
import agent_runtime_adapters.redis
from agent_runtime import SessionStore, Stores, open_stores
from agent_runtime_adapters.sqlite import SQLiteSessionStore


class Opens(Protocol):
    """Opens a store that keeps what it has below `folder`; it is closed at the end of the block."""

    def __call__(self, folder: Path, **options: Any) -> AbstractAsyncContextManager[SessionStore]: ...


# What a worker needs is there when it is made: each is a copy of a process that has imported it.
IMPORTED = (agent_runtime_adapters.mongodb, agent_runtime_adapters.postgres, agent_runtime_adapters.redis)


@asynccontextmanager
async def memory(folder: Path, **options: Any) -> AsyncGenerator[SessionStore]:
    """In this process only, and waited for as if it were somewhere else."""
    yield Distant(**options)


@asynccontextmanager
async def sqlite(folder: Path, **options: Any) -> AsyncGenerator[SessionStore]:
    async with SQLiteSessionStore(folder / FILE, **options) as store:
        yield store


def stores_on(name: str, folder: Path, **options: Any) -> Stores:
    """All stores on the server of that name, in a place of its own for each folder."""
    place = f"t{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}"
    return open_stores(url_of(name), **{PLACES[name]: place}, **options)


@asynccontextmanager
async def on_server(name: str, folder: Path, **options: Any) -> AsyncGenerator[SessionStore]:
    async with stores_on(name, folder, **options) as stores:
        yield stores.sessions


@contextmanager
def server(name: str, url: str | None = None) -> Generator[None]:
    """For the length of the block the stores of that name are at `url`, or on a server that runs for so long.

    Worker processes are told through a file. Of stores that need no server nothing is said.
    """
    if name not in SERVERS:
        yield
        return
    with served(SERVERS[name], url) as here:
        told = _told(name)
        told.parent.mkdir(exist_ok=True)
        told.write_text(here, "utf-8")
        yield


def url_of(name: str) -> str:
    """Where the server of that name is."""
    return _told(name).read_text("utf-8")


def _told(name: str) -> Path:
    """Where the process that the workers were started by says where the server is."""
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None else parent.pid
    return Path(tempfile.gettempdir()) / f"agent-runtime-servers-{pid}" / name


FILE = "sessions.db"
SERVERS: Mapping[str, type[Program]] = {"redis": RedisProgram, "postgres": PostgresProgram, "mongodb": MongoDBProgram}
PLACES: Mapping[str, str] = {
    "redis": "prefix",
    "postgres": "schema",
    "mongodb": "database",
}  # the option that keeps tests apart
DURABLE: Mapping[str, Opens] = {"sqlite": sqlite, **{name: partial(on_server, name) for name in SERVERS}}
STORES: Mapping[str, Opens] = {"memory": memory, **DURABLE}
Clock = Callable[[], float]
