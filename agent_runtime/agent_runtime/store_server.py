"""What stores on a server share: one connection for all of them, opened by the first call, and calls that nobody cuts in two."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

from agent_runtime.background import Background, runs_on_asyncio
from agent_runtime.errors import AgentRuntimeError, ConfigurationError, OutcomeUnknown, RuntimeClosed, StoreUnavailable

C = TypeVar("C")
T = TypeVar("T")

_LAST_WORDS = 1.0  # seconds that a connection has to say goodbye


class StoreServer(ABC, Generic[C]):
    """A server that several stores of one process may share, with `C`, the driver's client or pool, as the connection.

    `async with server:` connects at once, and disconnects. Otherwise the first call connects, as does the next one after
    such a block, and `aclose` disconnects for good. Drivers are asyncio's: on trio each call is a `ConfigurationError`, and
    so is a second event loop while the first one runs.

    A call is made in a task of its own. A caller that is cancelled leaves at once; the call goes on to its end, for
    `timeout` seconds at most, so that no connection is given back in the middle of a reply. Connecting counts.

    Args:
        name: What errors call it: the kind, host and port, without user and password.
        timeout: Seconds for each call.
    """

    def __init__(self, name: str, *, timeout: float = 5.0) -> None:
        is_number = isinstance(timeout, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]  # may be text
        if not is_number or not 0 < timeout < math.inf:
            raise ConfigurationError(f"timeout is {timeout!r}, and must be seconds above 0")
        self.name = name
        self.timeout = float(timeout)
        self._background = Background()
        self._connection: C | None = None
        self._connecting: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @abstractmethod
    async def connect(self) -> C:
        """Connect, look whether the server is fit, and make what stores need. Cancelled or failing, close what was opened."""

    @abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Close it."""

    @abstractmethod
    def translated(self, error: Exception) -> AgentRuntimeError | None:
        """The driver's error in our words, never the server's; `None` for what is no error of the driver.

        `OutcomeUnknown` where the connection was lost after a command was sent: of a call that only reads, it becomes
        `StoreUnavailable`. The cause is set by the caller.
        """

    async def do(self, call: Callable[[C], Awaitable[T]], *, writes: bool = True, repeatable: bool = False) -> T:
        """Have `call(connection)` done.

        One that only reads, or is `repeatable` (made twice, it does what it does once), is made again, once, when the
        connection was lost. Raises what `translated` gives; `StoreUnavailable` when there was no connection in time or
        nothing was read in time, `OutcomeUnknown` when a write did not end in time, `RuntimeClosed` after `aclose`.
        """
        self.check()
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def job() -> None:
            try:
                done = await self._done(call, writes, repeatable or not writes)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is for the one who waits
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(done)

        def over() -> None:
            if not outcome.done():  # only `aclose` ends a job in between
                outcome.set_exception(self.in_doubt("was closed before it answered", writes=writes))

        self.start(job, on_end=over)
        return await outcome

    def start(self, job: Callable[[], Awaitable[object]], *, on_end: Callable[[], None]) -> None:
        """Run `job()` in a task of its own, that nobody but `aclose` cancels; `on_end` is called once, also if it never began.

        For a server that makes calls in another way than `do`: `rest` and `aclose` wait for it.
        """
        self._background.start(job, on_end=on_end)

    def in_doubt(self, why: str, *, writes: bool) -> AgentRuntimeError:
        """What becomes of a call that was sent and not answered: `OutcomeUnknown` where it writes."""
        if not writes:
            return StoreUnavailable(f"{self.name} {why}")
        return OutcomeUnknown(
            f"{self.name} {why}: the change may be there, or not; read it, or repeat it with the same operation id"
        )

    async def _done(self, call: Callable[[C], Awaitable[T]], writes: bool, again: bool) -> T:
        connection: C | None = None
        try:
            with anyio.fail_after(self.timeout):
                connection = await self.connected()
                return await self._made(call, connection, writes, again)
        except TimeoutError as error:
            if connection is None:
                raise StoreUnavailable(f"{self.name} was not reached in {self.timeout:g} s (timeout)") from error
            late = f"did not answer in {self.timeout:g} s (timeout)"
            raise self.in_doubt(late, writes=writes) from error
        except Exception as error:
            ours = None if isinstance(error, AgentRuntimeError) else self.translated(error)
            if ours is None:
                raise
            if isinstance(ours, OutcomeUnknown) and not writes:
                ours = StoreUnavailable(f"{self.name} was lost while it was read")
            raise ours from error

    async def _made(self, call: Callable[[C], Awaitable[T]], connection: C, writes: bool, again: bool) -> T:
        try:
            return await call(connection)
        except Exception as error:
            if not again or not isinstance(self.translated(error), OutcomeUnknown):
                raise
        try:
            return await call(await self.connected())
        except Exception as error:
            if isinstance(error, StoreUnavailable) or isinstance(self.translated(error), StoreUnavailable):
                raise self.in_doubt("was lost, and not reached again", writes=writes) from error
            raise

    async def connected(self) -> C:
        """The connection, made by the first who needs it. Raises what `connect` does."""
        assert self._connecting is not None
        async with self._connecting:
            if self._connection is None:
                self._connection = await self.connect()
            return self._connection

    def check(self) -> None:
        """Raise `RuntimeClosed` or `ConfigurationError` where no call can be made here and now."""
        if self._closed:
            raise RuntimeClosed(f"the connection to {self.name} has been closed; make another one")
        if self._is_home():
            return
        if not runs_on_asyncio():
            raise ConfigurationError(
                f"{self.name} is reached by a driver that needs asyncio; this event loop is another"
            )
        loop = asyncio.get_running_loop()
        if self._loop is not None and not self._loop.is_closed():
            raise ConfigurationError(
                f"the connection to {self.name} is in use in another event loop; make one for each, or close it there first"
            )
        # What a loop that has ended left open is the garbage collector's: nobody can close it in another loop.
        self._loop, self._connection, self._connecting, self._background = loop, None, asyncio.Lock(), Background()

    def _is_home(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:  # on trio
            return False

    async def settled(self) -> None:
        """Return when no call is in flight, those of callers that were cancelled included."""
        await self._background.ended()

    async def rest(self) -> None:
        """Wait for the calls in flight and disconnect; the next call connects again.

        Where others call meanwhile, it leaves open what they use, until the next `rest` or `aclose`.
        """
        if self._loop is None or self._loop.is_closed():
            return
        with anyio.move_on_after(self.timeout + _LAST_WORDS, shield=True):
            await self._background.ended()
            await self._disconnected()
        if self._connection is None and not self._background:
            self._loop = None

    async def aclose(self) -> None:
        """Wait for the calls in flight, and disconnect for good: later calls raise `RuntimeClosed`. Idempotent."""
        self._closed = True
        await self.rest()
        await self._background.aclose()
        if self._loop is not None and not self._loop.is_closed():  # what `rest` has waited for did not end
            with anyio.move_on_after(_LAST_WORDS, shield=True):
                await self._disconnected()
            self._loop = None

    async def _disconnected(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self.disconnect(connection)

    async def __aenter__(self) -> Self:
        await self.do(_nothing, writes=False)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.rest()


S = TypeVar("S", bound=StoreServer[Any])


class ServerStore(Generic[S]):
    """What a store on a server is: a `StoreServer`, its own or a shared one, that somebody else closes."""

    def __init__(self, server: S, *, owned: bool) -> None:
        self.server = server
        self._owned = owned

    async def aclose(self) -> None:
        """Disconnect for good, unless the server was passed in. Idempotent."""
        if self._owned:
            await self.server.aclose()

    async def __aenter__(self) -> Self:
        if self._owned:
            await self.server.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owned:
            await self.server.__aexit__(exc_type, exc, traceback)


async def _nothing(_: object) -> None:
    pass
