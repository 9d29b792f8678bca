"""Connections to one database, each for one call at a time.

The driver's own pool makes a task for each connection that is given back: two more turns of the event loop for each call.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeAlias

import anyio
import asyncpg

Connection: TypeAlias = asyncpg.Connection
Rows: TypeAlias = Sequence[asyncpg.Record]

_KEPT_IDLE = 300.0  # seconds; what lies between may have forgotten a connection that nobody used for longer
_LAST_WORDS = 1.0  # seconds for a connection to say goodbye, or to have its statement stopped


class Busy(Exception):
    """No connection was free in time, and no more may be made."""


class Late(Exception):
    """No connection was made in time."""


class Connections:
    """At most so many connections, opened by `connect` when they are needed.

    `later(job)` runs what is left to do when a call was cancelled, beside the caller.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        maximum: int,
        patience: float,
        later: Callable[[Callable[[], Awaitable[object]]], object],
    ) -> None:
        self._connect = connect
        self._patience = patience
        self._later = later
        self._places = anyio.Semaphore(maximum)
        self._idle: list[tuple[Connection, float]] = []

    async def take(self) -> Connection:
        """One for the caller alone, who gives it back. Raises `Busy` or `Late` after `patience` seconds, and what `connect` does."""
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            await self._patiently(self._places.acquire(), Busy)
        try:
            return self._used() or await self._patiently(self._connect(), Late)
        except BaseException:
            self._places.release()
            raise

    def give(self, connection: Connection) -> None:
        """Take it back, at the end of its call."""
        if not connection.is_closed():
            self._idle.append((connection, monotonic()))
        self._places.release()

    def discard(self, connection: Connection) -> None:
        """Take it back from a call that was cancelled: its statement is stopped, and it is closed."""

        async def closed() -> None:
            try:
                with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=_LAST_WORDS)
            finally:
                self._places.release()

        self._later(closed)

    def drop(self) -> None:
        """Have none that is open now used again."""
        while self._idle:
            self._idle.pop()[0].terminate()

    async def aclose(self) -> None:
        """Close them; none is in use."""
        while self._idle:
            connection, _ = self._idle.pop()
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=_LAST_WORDS)

    def _used(self) -> Connection | None:
        """The one that was used last: of those that are not needed, the others grow old."""
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_closed() and since > monotonic() - _KEPT_IDLE:
                return connection
            connection.terminate()
        return None

    async def _patiently(self, wait: Awaitable[Any], late: type[Exception]) -> Any:
        with anyio.move_on_after(self._patience):
            return await wait
        raise late
