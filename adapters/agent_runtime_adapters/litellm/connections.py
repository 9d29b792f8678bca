"""The connections that litellm keeps: one pool for the process, in it a client for each provider and event loop."""

import asyncio
from collections.abc import Iterable
from typing import Any


class Connections:
    """Closes what was opened in an event loop since the first of our clients was entered there, after the last left.

    `pool` is litellm's: its keys end with the `id` of the event loop, its values are closed by `close()`. What the program
    opened there before, through litellm itself, stays open.
    """

    def __init__(self, pool: dict[str, Any]) -> None:
        self._pool = pool
        self._entered: dict[int, tuple[int, frozenset[str]]] = {}

    def enter(self) -> None:
        loop = id(asyncio.get_running_loop())
        count, before = self._entered.get(loop, (0, frozenset(self._of(loop))))
        self._entered[loop] = count + 1, before

    async def leave(self) -> None:
        loop = id(asyncio.get_running_loop())
        count, before = self._entered.pop(loop)
        if count > 1:
            self._entered[loop] = count - 1, before
            return
        for opened in [self._pool.pop(key) for key in self._of(loop) if key not in before]:
            await opened.close()

    def _of(self, loop: int) -> Iterable[str]:
        return [key for key in self._pool if key.endswith(f"-{loop}")]
