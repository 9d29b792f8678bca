"""A memory store as it would be behind a network."""

from typing import Any

from anyio.lowlevel import checkpoint

from agent_runtime import MemorySessionStore


class Distant(MemorySessionStore):
    """A store that is waited for before and after each operation, as one behind a network is."""

    def __getattribute__(self, name: str) -> Any:
        operation = super().__getattribute__(name)
        if name.startswith("_"):
            return operation

        async def waited(*args: Any, **options: Any) -> object:
            await checkpoint()
            result = await operation(*args, **options)
            await checkpoint()
            return result

        return waited
