"""Where the conversations of a command are kept: in a SQLite file, or on a server that a URL names."""

import os
import re
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agent_runtime import SessionManager, Stores, open_stores
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.streaming import settled

T = TypeVar("T")

VARIABLE = "AGENT_RUNTIME_DB"
DEFAULT_FILE = "agent-runtime.db"
KEPT = 90 * 86_400.0
"""Seconds that a conversation stays in a store of ours after the last word."""

_SQLITE = "sqlite:///"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)  # of two letters at least: C: is a drive
_OPTION = re.compile(r"([?&;#])([^?&;#=]*)=[^&;]*")
_SECRETS = ("pass", "pwd", "secret", "token", "key", "auth", "cred")


@dataclass(frozen=True, slots=True)
class Kept:
    """Stores, not open yet; `name` is what they are called where people read it, without a password."""

    name: str
    stores: Stores

    def sessions(self) -> SessionManager:
        """The sessions in them."""
        return _StoresSessions(self.stores)


def kept(db: str | None, *, reads: bool = False) -> Kept:
    """What is meant: the option, the environment's, or the file of the current folder.

    Options of `open_stores` follow a URL, as in `redis://localhost:6379/0#prefix=shop&timeout=10`.

    With `reads` a file must be there: what only reads makes none. Raises `CommandFailed` for a missing file, a folder and
    memory, `ConfigurationError` for a URL that nobody opens or whose library is missing.
    """
    where = db or os.environ.get(VARIABLE) or DEFAULT_FILE
    if not is_url(where):
        return _file(Path(where), reads=reads)
    scheme = where.partition(":")[0].lower()
    if scheme == "memory":
        raise CommandFailed(
            "memory: is gone when the command ends", hint=f"name a file or a server with --db or {VARIABLE}"
        )
    if where.lower().startswith(_SQLITE) and len(where) > len(_SQLITE):
        return _file(Path(where[len(_SQLITE) :]), reads=reads)
    url, _, options = where.partition("#")
    stores = open_stores(url, **options_of(options))
    return Kept(stores.name, stores)


def is_url(where: str) -> bool:
    """Whether it is a URL; a file whose name looks like one is written `./redis:1`."""
    return _SCHEME.match(where) is not None


def without_password(where: str) -> str:
    """A file, or a URL with `***` for what may be a password in it, however it is written."""
    if not is_url(where):
        return where
    scheme, colon, rest = where.partition(":")
    start = "//" if rest.startswith("//") else ""
    who, at, place = rest.removeprefix(start).rpartition("@")
    user, has_password, _ = who.partition(":")
    hidden = f"{user}:***{at}{place}" if has_password else f"{who}{at}{place}"
    return _OPTION.sub(_without_secret, f"{scheme}{colon}{start}{hidden}")


def _without_secret(option: re.Match[str]) -> str:
    begin, name = option.groups()
    may_be_secret = any(word in name.lower() for word in _SECRETS)
    return f"{begin}{name}=***" if may_be_secret else option.group()


def options_of(text: str) -> dict[str, Any]:
    """Each value is taken as JSON where it is JSON, and as text otherwise."""
    options = dict[str, Any]()
    for option in text.split("&") if text else ():
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier():
            raise CommandFailed(
                "after the # of a store's URL come options, as in #prefix=shop&timeout=10",
                hint="a # in a password is written %23",
            )
        try:
            options[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            options[name] = value
    return options


def _file(path: Path, *, reads: bool) -> Kept:
    if path.is_dir():
        raise CommandFailed(f"{path} is a folder: name a file in it with --db or {VARIABLE}")
    if reads and (not path.exists() or (path.is_file() and path.stat().st_size == 0)):
        raise CommandFailed(
            f"there is no database {path}", hint=f"name it with --db or {VARIABLE}; `agent-runtime chat` makes one"
        )
    return Kept(str(path), open_stores(f"{_SQLITE}{path}"))


class _StoresSessions(SessionManager):
    """Opens the stores, and closes them at the end."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.sessions, ttl=KEPT)
        self._stores = stores

    async def __aenter__(self) -> Self:
        await self._stores.__aenter__()
        return await super().__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc, traceback)
        finally:
            await self._stores.__aexit__(exc_type, exc, traceback)


class OpenSessions:
    """Made by `opened`. The event loop has a thread of its own: Ctrl-C finds this one waiting, or between two questions."""

    def __init__(self, manager: SessionManager, portal: BlockingPortal) -> None:
        self.manager = manager
        self._portal = portal

    def ask(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **named: Any) -> T:
        """What `function`, a method of the `manager`, gives."""
        given: T = settled(self._portal.start_task_soon(partial(function, *arguments, **named)))
        return given


@contextmanager
def opened(sessions: SessionManager) -> Generator[OpenSessions]:
    """The sessions, open until the end of the block."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(sessions) as manager:
        yield OpenSessions(manager, portal)
