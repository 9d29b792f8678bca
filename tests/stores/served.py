"""Stores on a server: the memory stores behind TCP, in this process, with a client that does everything right."""

import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import anyio
from anyio.abc import AsyncResource, ByteStream, SocketAttribute, TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agent_runtime import (
    AgentRuntimeError,
    LimitExceeded,
    OutcomeUnknown,
    Stores,
    StoreServer,
    StoreUnavailable,
    open_memory,
)
from agent_runtime.testing import ServerFault

HOST = "127.0.0.1"
WIDTH = 20  # bytes of a request and of an answer, which is the number of the request
READS = frozenset({"read", "sessions", "count", "messages", "checkpoints", "runs", "entries", "get", "peek"})


class Question:
    """What a client asks; only its number goes over the network."""

    def __init__(self, kind: str, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.kind = kind
        self.method = method
        self.args = args
        self.options = options
        self.result: object = None
        self.error: Exception | None = None

    @property
    def writes(self) -> bool:
        return self.method not in READS


class ModelServer:
    """Answers numbers with the same numbers, when it has done what is asked under them."""

    def __init__(self, portal: BlockingPortal) -> None:
        self.stores = open_memory("memory:")
        self.questions: list[Question] = []
        self.refusal: AgentRuntimeError | None = None
        """What it says to each write."""
        self.port = 0
        self.starts = 0
        self._portal = portal
        self._goes_on = portal.call(anyio.Event)
        self._goes_on.set()
        self._connections: set[ByteStream] = set()
        self._stop: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.starts += 1
        serving, listener = self._portal.start_task(self._serve)
        self._stop = lambda: (self._portal.call(listener.aclose), serving.cancel())[0]

    def stop(self) -> None:
        self._stop()
        self.drop()

    def drop(self) -> None:
        self._portal.call(self._drop)

    def pause(self) -> None:
        self._goes_on = self._portal.call(anyio.Event)

    def go_on(self) -> None:
        self._portal.call(self._goes_on.set)

    async def _drop(self) -> None:
        for stream in list(self._connections):
            await anyio.aclose_forcefully(stream)

    async def _serve(self, *, task_status: TaskStatus[AsyncResource]) -> None:
        async with await anyio.create_tcp_listener(
            local_host=HOST, local_port=self.port, family=socket.AF_INET, reuse_port=True
        ) as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started(listener)
            await listener.serve(self._converse)

    async def _converse(self, stream: ByteStream) -> None:
        self._connections.add(stream)
        try:
            while True:
                number = await _whole(stream)
                await self._goes_on.wait()
                await self._answer(self.questions[number])
                await stream.send(b"%*d" % (WIDTH, number))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            self._connections.discard(stream)
            await anyio.aclose_forcefully(stream)

    async def _answer(self, question: Question) -> None:
        try:
            if question.writes and self.refusal is not None:
                raise self.refusal
            store = getattr(self.stores, question.kind)
            question.result = await getattr(store, question.method)(*question.args, **question.options)
        except AgentRuntimeError as error:
            question.error = error


async def _whole(stream: ByteStream) -> int:
    """The next number; a connection that ends within it gives none."""
    data = b""
    while len(data) < WIDTH:
        data += await stream.receive(WIDTH - len(data))
    return int(data)


class Line:
    """The client's connection: for one call at a time, opened by the first, closed by one that ends without its answer."""

    keeps_broken = False

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._stream: ByteStream | None = None
        self._turn = anyio.Lock()

    async def ask(self, number: int) -> int:
        """The number that is answered."""
        async with self._turn:
            whole = self.keeps_broken
            try:
                if self._stream is None:
                    self._stream = await self.open()
                await self._stream.send(b"%*d" % (WIDTH, number))
                answer = await _whole(self._stream)
                whole = True
                return answer
            finally:
                if not whole:
                    await self.aclose()

    async def open(self) -> ByteStream:
        return await anyio.connect_tcp(*self._address)

    async def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await anyio.aclose_forcefully(stream)


class Client(StoreServer[Line]):
    """The stores of a model server, as seen from elsewhere."""

    line = Line

    def __init__(self, server: ModelServer, address: tuple[str, int], timeout: float) -> None:
        super().__init__("the model server", timeout=timeout)
        self.model = server
        self._address = address

    async def connect(self) -> Line:
        return self.line(*self._address)

    async def disconnect(self, connection: Line) -> None:
        await connection.aclose()

    def translated(self, error: Exception) -> AgentRuntimeError | None:
        if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError | anyio.ClosedResourceError):
            return OutcomeUnknown("the connection was lost")
        return StoreUnavailable("there is no connection") if isinstance(error, OSError) else None

    async def call(self, question: Question) -> object:
        """What the server gives."""
        number = self.put(question)
        answered = await self.do(lambda line: line.ask(number), writes=question.writes)
        return self.given(answered)

    def put(self, question: Question) -> int:
        self.model.questions.append(question)
        return len(self.model.questions) - 1

    def given(self, number: int) -> object:
        answered = self.model.questions[number]
        if answered.error is not None:
            raise answered.error
        return answered.result

    @property
    def stores(self) -> Stores:
        parts = {
            kind: cast("Any", _Remote(self, kind)) for kind in ("sessions", "key_values", "rate_limits", "event_log")
        }
        return Stores(self.name, **parts, shared=self)


class _Remote:
    """One of the stores."""

    def __init__(self, client: Client, kind: str) -> None:
        self._client = client
        self._kind = kind

    def __getattr__(self, method: str) -> Callable[..., Awaitable[object]]:
        return lambda *args, **options: self._client.call(Question(self._kind, method, args, options))


@contextmanager
def model_server() -> Generator[ModelServer]:
    with start_blocking_portal() as portal:
        server = ModelServer(portal)
        server.start()
        yield server
        server.stop()


@contextmanager
def at_work(server: ModelServer, cause: ServerFault) -> Generator[None]:
    """The cause, until the end of the block."""
    match cause:
        case ServerFault.STOPPED | ServerFault.KILLED:
            server.stop()
            yield
            server.start()
        case ServerFault.PAUSED:
            server.pause()
            yield
            server.go_on()
        case ServerFault.DROPPED:
            server.drop()
            yield
        case ServerFault.READ_ONLY | ServerFault.FULL:
            words = "takes no writes"
            server.refusal = StoreUnavailable(words) if cause is ServerFault.READ_ONLY else LimitExceeded(words)
            yield
            server.refusal = None
