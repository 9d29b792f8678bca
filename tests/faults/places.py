"""The stores that the programs of this folder try, by name."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.stores.distant import Distant

from agent_runtime import SessionStore
from agent_runtime_adapters.sqlite import SQLiteSessionStore


class Opens(Protocol):
    """Opens a store that keeps what it has below `folder`; it is closed at the end of the block."""

    def __call__(self, folder: Path, **options: Any) -> AbstractAsyncContextManager[SessionStore]: ...


@asynccontextmanager
async def memory(folder: Path, **options: Any) -> AsyncGenerator[SessionStore]:
    """In this process only, and waited for as if it were somewhere else."""
    yield Distant(**options)


@asynccontextmanager
async def sqlite(folder: Path, **options: Any) -> AsyncGenerator[SessionStore]:
    async with SQLiteSessionStore(folder / FILE, **options) as store:
        yield store


FILE = "sessions.db"
STORES: Mapping[str, Opens] = {"memory": memory, "sqlite": sqlite}
DURABLE: Mapping[str, Opens] = {"sqlite": sqlite}
Clock = Callable[[], float]
