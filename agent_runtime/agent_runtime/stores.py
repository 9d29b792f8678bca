"""All stores behind one URL, so that a service moves to another backend by changing it."""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast, get_args

from agent_runtime.errors import ConfigurationError
from agent_runtime.event_log import EventLog, LogBounds
from agent_runtime.key_value_store import KeyValueStore
from agent_runtime.memory import MemorySessionStore
from agent_runtime.memory_event_log import MemoryEventLog
from agent_runtime.memory_key_values import MemoryKeyValueStore
from agent_runtime.memory_rate_limits import MemoryRateLimitStore
from agent_runtime.plugins import declared, load, sole, suggestion
from agent_runtime.rate_limit_store import RateLimitStore
from agent_runtime.session_store import SessionStore

STORES = "agent_runtime.stores"

OpenStores: TypeAlias = Callable[..., "Stores"]
"""What an entry point of the group `agent_runtime.stores` names, called with the URL and the options.

Whatever else it takes, it knows these options, so that its stores can be tried at any URL (`agent-runtime doctor --stores`):
`namespace`, `[a-z][a-z0-9_]{0,31}`, is a place of its own there (a prefix, a schema, a database, a file) that `Stores.erase`
removes; `clock` gives Unix seconds in the place of the backend's clock; `log_bounds` is how much each log keeps.
"""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_NOT_TAKEN = re.compile(r"unexpected keyword argument '(\w+)'")


class Resource(Protocol):
    """What stores share, a connection or a file: opened by who needs it first, or by its `async with`."""

    async def aclose(self) -> None:
        """Close it for good."""
        ...

    async def __aenter__(self) -> Any:
        """Open it."""
        ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it; the next use opens it again."""
        ...


class Stores:
    """A backend's stores, over one connection (or file).

    `async with stores:` connects at once and disconnects at the end; otherwise the first call connects, and `aclose` ends
    it for good.

    Attributes:
        name: What it is called where people read it: without user and password.
        sessions: For `SessionManager`.
        key_values: For the cache.
        rate_limits: For rate limits.
        event_log: For streams that are read again.
    """

    def __init__(
        self,
        name: str,
        *,
        sessions: SessionStore,
        key_values: KeyValueStore,
        rate_limits: RateLimitStore,
        event_log: EventLog,
        shared: Resource | None = None,
        erase: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.name = name
        self.sessions = sessions
        self.key_values = key_values
        self.rate_limits = rate_limits
        self.event_log = event_log
        self._shared = shared
        self._erase = erase

    def __repr__(self) -> str:
        return f"Stores({self.name})"

    async def aclose(self) -> None:
        """Close the connection for good. Idempotent."""
        if self._shared is not None:
            await self._shared.aclose()

    async def erase(self) -> None:
        """Remove the namespace with all that is in it, whoever's it is; there is nothing to do afterwards but `aclose`.

        Raises `ConfigurationError` for stores that were not opened with a `namespace`, and what a write raises.
        """
        if self._erase is None:
            raise ConfigurationError(f"{self.name} was not opened with a namespace of its own, and is not erased")
        await self._erase()

    async def __aenter__(self) -> Self:
        if self._shared is not None:
            await self._shared.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shared is not None:
            await self._shared.__aexit__(exc_type, exc, traceback)


def open_stores(url: str, **options: object) -> Stores:
    """The stores at `url`, by its scheme; nothing is connected yet.

    Schemes: `memory:`, `sqlite:///file.db`, `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`,
    `mongodb://`, `postgresql://`, and those that installed distributions declare in the entry-point group
    `agent_runtime.stores`. `options` go to the backend; its page in the docs names them.

    Raises `ConfigurationError` for a scheme that nobody declares, a backend whose library is not installed, and a URL or
    an option that it does not take. The error holds no password.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            "a store's URL begins with its scheme, as in sqlite:///file.db or redis://localhost:6379"
        )
    openers = declared(STORES)
    known = [opener for opener in openers if opener.name == scheme.lower()]
    if not known:
        names = sorted({opener.name for opener in openers})
        raise ConfigurationError(
            f"no installed distribution opens stores at {scheme[:60]!r}{suggestion(scheme, names)}; there are: "
            f"{', '.join(names)}"
        )
    opener = cast(OpenStores, load(sole(known), STORES, what=f"stores at {scheme}"))
    try:
        return opener(url, **options)
    except TypeError as error:
        raise ConfigurationError(f"stores at {scheme}{_reason(error, opener)}") from error


def _reason(error: TypeError, opener: OpenStores) -> str:
    refused = _NOT_TAKEN.search(str(error))
    if refused is None:
        return f": {error}"
    names = sorted(_options(opener))
    return f" take no option {refused[1]!r}{suggestion(refused[1], names)}; there are: {', '.join(names) or 'none'}"


def _options(opener: OpenStores) -> Iterator[str]:
    """The names of the options, those of `**options: Unpack[...]` among them."""
    for parameter in inspect.signature(opener).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield parameter.name
        for options in get_args(parameter.annotation) if parameter.kind is parameter.VAR_KEYWORD else ():
            yield from getattr(options, "__annotations__", ())


def open_memory(
    url: str,
    *,
    namespace: str | None = None,
    clock: Callable[[], float] | None = None,
    log_bounds: LogBounds | None = None,
) -> Stores:
    """Stores in this process's memory, new ones for each call, for `memory:`. Options: `clock`, `log_bounds`, `namespace`."""
    if url.lower() not in ("memory:", "memory://"):
        raise ConfigurationError("stores in memory have no place: write memory:")
    options: dict[str, Any] = {} if clock is None else {"clock": clock}
    return Stores(
        "memory",
        sessions=MemorySessionStore(**options),
        key_values=MemoryKeyValueStore(**options),
        rate_limits=MemoryRateLimitStore(**options),
        event_log=MemoryEventLog(bounds=log_bounds, **options),
        erase=None if namespace is None else _nothing,
    )


async def _nothing() -> None:
    """They are gone with the process, and nobody else has seen them."""
