"""PROXY: a TCP proxy that breaks a connection in the ways in which networks do."""

import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from enum import StrEnum

import anyio
from anyio.abc import AsyncResource, ByteStream, SocketAttribute, TaskGroup, TaskStatus
from anyio.from_thread import start_blocking_portal

from agent_runtime.types import Value


class FaultKind(StrEnum):
    """What a proxy does to the bytes that pass. A request is what the client sends, an answer what the server sends."""

    NONE = "none"
    CUT_BEFORE_FORWARD = "cut before forward"
    """The connection ends with the first bytes of a request, which the server never sees."""
    CUT_AFTER_FORWARD = "cut after forward"
    """The server gets the request; the connection ends with the first bytes of its answer, which the client never sees."""
    CUT_IN_ANSWER = "cut in answer"
    """The connection ends after byte `at` of the next piece of an answer."""
    DELAY = "delay"
    """Each piece of an answer arrives `seconds` later."""
    TRICKLE = "trickle"
    """An answer arrives byte by byte, `seconds` apart."""
    TRUNCATE = "truncate"
    """The connection ends after byte `at` of the answers on it."""
    BLACKHOLE = "blackhole"
    """Everything is taken, nothing is passed on, and the connection stays open."""


class Fault(Value, frozen=True, kw_only=True):
    """One fault: `seconds` belongs to delay and trickle, `at` (bytes) to cut in answer and truncate.

    One that is to strike `once` is over with the first connection that it has ended.
    """

    kind: FaultKind = FaultKind.NONE
    seconds: float = 0.0
    at: int = 0
    once: bool = False


HEALTHY = Fault()


class Proxy:
    """A proxy in front of one server. Made by `open_proxy`.

    Attributes:
        host: Where to connect instead of the server: loopback.
        port: The same.
        fault: What is wrong now; assign another at any time, for open connections too.
        connections: How many were accepted.
    """

    def __init__(self, host: str, port: int, fault: Fault) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.fault = fault
        self.connections = 0
        self._target = host, port

    def cut(self) -> bool:
        """False, which ends a connection; with it ends a fault that strikes once."""
        if self.fault.once:
            self.fault = HEALTHY
        return False

    async def serve(self, *, task_status: TaskStatus[AsyncResource]) -> None:
        """Accept connections until the listener, which is what the task starts with, is closed."""
        async with await anyio.create_tcp_listener(local_host=self.host, family=socket.AF_INET) as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started(listener)
            await listener.serve(self._connect)

    async def _connect(self, client: ByteStream) -> None:
        self.connections += 1
        async with client:
            with suppress(OSError):
                await self._join(client, await anyio.connect_tcp(*self._target))

    async def _join(self, client: ByteStream, server: ByteStream) -> None:
        async with server, anyio.create_task_group() as both:
            both.start_soon(self._pump, client, server, _Requests(self), both)
            both.start_soon(self._pump, server, client, _Answers(self), both)

    async def _pump(self, source: ByteStream, sink: ByteStream, way: "_Requests | _Answers", both: TaskGroup) -> None:
        """Pass bytes one way until either side ends or the fault ends it; then end the other way too."""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while await way.forward(await source.receive(), sink):
                pass
        both.cancel_scope.cancel()


class _Requests:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def forward(self, piece: bytes, sink: ByteStream) -> bool:
        """Pass `piece` on as the fault has it; false to cut the connection."""
        kind = self._proxy.fault.kind
        if kind is FaultKind.CUT_BEFORE_FORWARD:
            return self._proxy.cut()
        if kind is not FaultKind.BLACKHOLE:
            await sink.send(piece)
        return True


class _Answers:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._passed = 0

    async def forward(self, piece: bytes, sink: ByteStream) -> bool:
        """Pass `piece` on as the fault has it; false to cut the connection."""
        fault = self._proxy.fault
        match fault.kind:
            case FaultKind.CUT_BEFORE_FORWARD | FaultKind.CUT_AFTER_FORWARD:
                return self._proxy.cut()
            case FaultKind.CUT_IN_ANSWER:
                await sink.send(piece[: fault.at])
                return self._proxy.cut()
            case FaultKind.BLACKHOLE:
                return True
            case FaultKind.TRICKLE:
                await _trickle(piece, sink, fault.seconds)
                return True
            case FaultKind.TRUNCATE if self._passed + len(piece) >= fault.at:
                await sink.send(piece[: max(0, fault.at - self._passed)])
                return self._proxy.cut()
            case _:
                await anyio.sleep(fault.seconds)
                await sink.send(piece)
                self._passed += len(piece)
                return True


async def _trickle(piece: bytes, sink: ByteStream, seconds: float) -> None:
    for at in range(len(piece)):
        await anyio.sleep(seconds)
        await sink.send(piece[at : at + 1])


@contextmanager
def open_proxy(host: str, port: int, fault: Fault = HEALTHY) -> Generator[Proxy]:
    """Run a proxy in front of `host:port`, in a thread and on an event loop of its own, until the block ends.

    So it serves any event loop, works while that loop is blocked, and leaves nothing on it.
    """
    proxy = Proxy(host, port, fault)
    with start_blocking_portal() as portal:
        serving, listener = portal.start_task(proxy.serve)
        try:
            yield proxy
        finally:
            # Before the cancel, in which asyncio would leave open the socket of a client that comes just now (bpo-41317).
            portal.call(listener.aclose)
            serving.cancel()
