"""A store as it would be behind a network."""

from typing import Any, TypeVar, cast

from anyio.lowlevel import checkpoint

S = TypeVar("S")


def waited(store: S) -> S:
    """The store, waited for before and after each operation."""
    return cast("S", _Waited(store))


class _Waited:
    def __init__(self, store: object) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> object:
            await checkpoint()
            result = await operation(*args, **options)
            await checkpoint()
            return result

        return call
