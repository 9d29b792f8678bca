"""The promises of the stores at a URL, which pytest tries in a process of its own. Where they are is in its environment."""

import os
from collections.abc import AsyncGenerator
from functools import partial

import msgspec
import pytest

from agent_runtime import EventLog, KeyValueStore, RateLimitStore, SessionStore, Stores
from agent_runtime.testing import (
    EventLogContract,
    KeyValueStoreContract,
    RateLimitStoreContract,
    SessionStoreContract,
    StoreNetworkContract,
    StoreSharingContract,
)
from agent_runtime_adapters.cli.doctor_place import VARIABLE, Trial

_STEP = 1_000_000.0  # seconds after which all that a promise has left is gone
_LATER = 4_000_000_000.0  # what real time has left is gone, too

PLACE = msgspec.json.decode(os.environ[VARIABLE], type=Trial)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Drivers are asyncio's."""
    return "asyncio"


class Emptied:
    """Stores with a clock that is set: they are emptied by a step of it."""

    def __init__(self) -> None:
        self.now = _LATER
        self.open = partial(PLACE.open, clock=lambda: self.now, log_bounds=EventLogContract.bounds)
        self.stores: Stores = self.open()

    async def empty(self) -> None:
        self.now += _STEP
        while await self.stores.sessions.expire():
            pass

    async def reopen(self) -> None:
        """As after a restart; what is in memory only would be gone."""
        if PLACE.is_shared:
            await self.stores.aclose()
            self.stores = self.open()


@pytest.fixture(scope="module")
async def emptied() -> AsyncGenerator[Emptied]:
    emptied = Emptied()
    yield emptied
    await emptied.stores.aclose()


class Parted:
    """What the four have in common."""

    emptied: Emptied

    @pytest.fixture(autouse=True)
    async def beginning(self, emptied: Emptied) -> None:
        self.emptied = emptied
        await emptied.empty()

    async def advance(self, seconds: float) -> None:
        self.emptied.now += seconds


class TestSessions(Parted, SessionStoreContract):
    part = "sessions"

    @pytest.fixture
    async def store(self, beginning: None) -> SessionStore:
        return self.emptied.stores.sessions

    async def reopen(self, store: SessionStore) -> SessionStore:
        await self.emptied.reopen()
        return self.emptied.stores.sessions


class TestKeyValues(Parted, KeyValueStoreContract):
    part = "values"

    @pytest.fixture
    async def store(self, beginning: None) -> KeyValueStore:
        return self.emptied.stores.key_values

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        await self.emptied.reopen()
        return self.emptied.stores.key_values


class TestRateLimits(Parted, RateLimitStoreContract):
    part = "rate limits"

    @pytest.fixture
    async def store(self, beginning: None) -> RateLimitStore:
        return self.emptied.stores.rate_limits

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        await self.emptied.reopen()
        return self.emptied.stores.rate_limits


class TestEventLog(Parted, EventLogContract):
    part = "event log"

    @pytest.fixture
    async def store(self, beginning: None) -> EventLog:
        return self.emptied.stores.event_log

    async def reopen(self, store: EventLog) -> EventLog:
        await self.emptied.reopen()
        return self.emptied.stores.event_log


if PLACE.address is not None:
    ADDRESS = PLACE.address

    class TestNetwork(StoreNetworkContract):
        part = "processes and network"

        @property
        def address(self) -> tuple[str, int]:
            return ADDRESS

        def open(self, address: tuple[str, int] | None = None) -> Stores:
            return PLACE.open(address, timeout=self.timeout)

elif PLACE.is_shared:

    class TestSharing(StoreSharingContract):
        part = "processes"

        def open(self, address: tuple[str, int] | None = None) -> Stores:
            return PLACE.open()
