"""Hand-written Python that does only what a case asks for: the limit that the runtime is compared with."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

Emit: TypeAlias = "Callable[[Chunk], Awaitable[None]]"


class Context(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Eight fields, as many as a service of its own would carry."""

    current_task: str
    agent_id: str
    user_id: str
    tenant_id: str | None
    session_id: str | None
    run_id: str
    created_ns: int
    deadline: float


class Answer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    output: str


class Chunk(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    text: str


class Turn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message."""

    role: Literal["user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[str, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


Handler: TypeAlias = Callable[[Context], Awaitable[str]]


def context() -> Context:
    return Context(
        current_task="t",
        agent_id="agent",
        user_id="u",
        tenant_id=None,
        session_id=None,
        run_id="r",
        created_ns=0,
        deadline=60.0,
    )


async def passing(value: Context, call_next: Handler) -> str:
    """A layer that does nothing."""
    return await call_next(value)


def onion(agent: Handler, layers: int) -> Handler:
    """`agent` inside that many layers, bound once."""
    handler = agent
    for _ in range(layers):
        handler = _bound(handler)
    return handler


def _bound(call_next: Handler) -> Handler:
    return lambda value: passing(value, call_next)


class HandOver:
    """A producer's chunks for a consumer in another task: a bounded deque, and one future each way."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._chunks: deque[Chunk | None] = deque()
        self._filled: asyncio.Future[None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def emit(self, chunk: Chunk | None) -> None:
        """Hand over one chunk; `None` after the last."""
        self._chunks.append(chunk)
        if self._filled is not None:
            self._filled.set_result(None)
            self._filled = None
        if len(self._chunks) >= self._size:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    async def receive(self) -> Chunk | None:
        """The next chunk."""
        if not self._chunks:
            self._filled = asyncio.get_running_loop().create_future()
            await self._filled
        chunk = self._chunks.popleft()
        if self._emptied is not None and len(self._chunks) <= self._size // 2:
            self._emptied.set_result(None)
            self._emptied = None
        return chunk


async def handed_over(produce: Callable[[Emit], Awaitable[None]]) -> int:
    """Run `produce` in a task, take its chunks in this one, and return how many there were."""
    between = HandOver()

    async def producer() -> None:
        await produce(between.emit)
        await between.emit(None)

    task = asyncio.create_task(producer())
    chunks = 0
    while await between.receive() is not None:
        chunks += 1
    await task
    return chunks


def touching(emit: Emit, layers: int) -> Emit:
    """`emit` inside that many layers that each look at the chunk."""
    for _ in range(layers):
        emit = _looking(emit)
    return emit


def _looking(emit: Emit) -> Emit:
    characters = 0

    async def look(chunk: Chunk) -> None:
        nonlocal characters
        characters += len(chunk.text)
        await emit(chunk)

    return look
