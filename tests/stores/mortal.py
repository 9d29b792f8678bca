"""A process's way to a store, which ends with the process."""

from collections.abc import Callable
from typing import Any, cast

from agent_runtime import MemorySessionStore, SessionStore, StoreUnavailable


class Mortal:
    """Passes every operation on to `store` until `die` is called: what comes after has never happened.

    `before` and `after` are called with the name of each operation and its arguments; they may call `die`.
    """

    def __init__(self, store: MemorySessionStore) -> None:
        self.calls: list[str] = []
        self.before: Callable[[str, tuple[Any, ...]], None] = lambda name, args: None
        self.after: Callable[[str, tuple[Any, ...]], None] = lambda name, args: None
        self._store = store
        self._dead = False

    def die(self) -> None:
        self._dead = True

    def __getattr__(self, name: str) -> Any:
        async def passed_on(*args: Any, **options: Any) -> object:
            self.calls.append(name)
            self._check()
            self.before(name, args)
            self._check()
            result: object = await getattr(self._store, name)(*args, **options)
            self.after(name, args)
            self._check()
            return result

        return passed_on

    def _check(self) -> None:
        if self._dead:
            raise StoreUnavailable("this process is gone")

    @property
    def as_store(self) -> SessionStore:
        return cast("SessionStore", self)
