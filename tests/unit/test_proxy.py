"""The fault proxy, in front of a server that answers each line with a longer one."""

import gc
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import anyio
import pytest
from anyio.abc import AsyncResource, ByteStream, SocketAttribute, TaskStatus
from anyio.from_thread import start_blocking_portal

from agent_runtime.testing import Fault, FaultKind, Proxy, open_proxy

ANSWER = b"answer to "


class LineServer:
    """Says `greeting`, keeps each piece that it receives, and answers with it."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.port = 0
        self.received: list[bytes] = []

    async def serve(self, *, task_status: TaskStatus[AsyncResource]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", family=socket.AF_INET) as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started(listener)
            await listener.serve(self.answer)

    async def answer(self, stream: ByteStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError):
                await self.converse(stream)

    async def converse(self, stream: ByteStream) -> None:
        await stream.send(self.greeting)
        async for piece in stream:
            self.received.append(piece)
            await stream.send(ANSWER + piece)


@contextmanager
def line_server(greeting: bytes = b"") -> Generator[LineServer]:
    server = LineServer(greeting)
    with start_blocking_portal() as portal:
        serving, listener = portal.start_task(server.serve)
        yield server
        portal.call(listener.aclose)  # first, as `open_proxy` does
        serving.cancel()


@pytest.fixture
def server() -> Generator[LineServer]:
    with line_server() as server:
        yield server


@pytest.fixture
def proxy(server: LineServer) -> Generator[Proxy]:
    with open_proxy("127.0.0.1", server.port) as proxy:
        yield proxy


async def exchange(proxy: Proxy, *lines: bytes, patience: float = 10) -> bytes:
    """Everything that comes back on one connection until it ends, or is silent for `patience` seconds."""
    answer = b""
    async with await anyio.connect_tcp(proxy.host, proxy.port) as stream:
        for line in lines:
            await stream.send(line)
            with anyio.move_on_after(patience):
                try:
                    while not answer.endswith(line):
                        answer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return answer + b"|cut"
    return answer


async def test_a_healthy_proxy_passes_everything_on(proxy: Proxy, server: LineServer) -> None:
    assert await exchange(proxy, b"one", b"two") == b"answer to oneanswer to two"
    assert server.received == [b"one", b"two"]
    assert proxy.connections == 1


@pytest.mark.parametrize(
    ("fault", "answer", "received"),
    [
        (Fault(kind=FaultKind.CUT_BEFORE_FORWARD), b"|cut", []),
        (Fault(kind=FaultKind.CUT_AFTER_FORWARD), b"|cut", [b"one"]),
        (Fault(kind=FaultKind.CUT_IN_ANSWER, at=3), b"ans|cut", [b"one"]),
        (Fault(kind=FaultKind.TRUNCATE), b"|cut", [b"one"]),
        (Fault(kind=FaultKind.TRUNCATE, at=4), b"answ|cut", [b"one"]),
        (Fault(kind=FaultKind.TRUNCATE, at=99), b"answer to one", [b"one"]),
        (Fault(kind=FaultKind.BLACKHOLE), b"", []),
        (Fault(kind=FaultKind.TRICKLE), b"answer to one", [b"one"]),
        (Fault(kind=FaultKind.DELAY, seconds=0.01), b"answer to one", [b"one"]),
    ],
    ids=str,
)
async def test_a_fault_does_what_it_says(
    proxy: Proxy, server: LineServer, fault: Fault, answer: bytes, received: list[bytes]
) -> None:
    proxy.fault = fault
    assert await exchange(proxy, b"one", patience=10 if answer else 0.1) == answer
    assert server.received == received


@pytest.mark.parametrize(
    "kind",
    [FaultKind.CUT_BEFORE_FORWARD, FaultKind.CUT_AFTER_FORWARD, FaultKind.CUT_IN_ANSWER, FaultKind.TRUNCATE],
)
async def test_a_fault_that_strikes_once_is_over_with_the_first_connection(proxy: Proxy, kind: FaultKind) -> None:
    proxy.fault = Fault(kind=kind, once=True)
    assert await exchange(proxy, b"one") == b"|cut"
    assert await exchange(proxy, b"two") == b"answer to two"


async def test_a_fault_strikes_an_open_connection_and_its_answers_count_from_the_connection_s_start(
    proxy: Proxy, server: LineServer
) -> None:
    async with await anyio.connect_tcp(proxy.host, proxy.port) as stream:
        for kind, expected in ((FaultKind.NONE, b"answer to one"), (FaultKind.TRUNCATE, b"an")):
            proxy.fault = Fault(kind=kind, at=len(ANSWER) + 5)
            await stream.send(b"one")
            assert await stream.receive() == expected
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_a_black_hole_swallows_what_the_server_says_of_its_own_accord() -> None:
    with line_server(greeting=b"hello") as server:
        with open_proxy("127.0.0.1", server.port) as proxy:
            async with await anyio.connect_tcp(proxy.host, proxy.port) as stream:
                assert await stream.receive() == b"hello"
            proxy.fault = Fault(kind=FaultKind.BLACKHOLE)
            assert await exchange(proxy, b"one", patience=0.1) == b""


async def test_delay_and_trickle_take_their_time(proxy: Proxy) -> None:
    for fault in (Fault(kind=FaultKind.DELAY, seconds=0.03), Fault(kind=FaultKind.TRICKLE, seconds=0.01)):
        proxy.fault = fault
        started = anyio.current_time()
        await exchange(proxy, b"x")
        assert anyio.current_time() - started >= 0.03


async def test_a_client_that_leaves_ends_the_connection_to_the_server(proxy: Proxy, server: LineServer) -> None:
    async with await anyio.connect_tcp(proxy.host, proxy.port) as stream:
        await stream.send(b"bye")
    assert await exchange(proxy, b"one") == b"answer to one"
    assert proxy.connections == 2


async def test_a_server_that_is_gone_ends_the_client_s_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with open_proxy("127.0.0.1", port) as proxy:
        assert await exchange(proxy, b"one") == b"|cut"


def test_the_proxy_needs_no_event_loop_of_the_test(server: LineServer) -> None:
    with open_proxy("127.0.0.1", server.port) as proxy:
        with socket.create_connection((proxy.host, proxy.port)) as stream:
            stream.sendall(b"one")
            assert stream.recv(100) == b"answer to one"


def test_a_client_that_comes_as_the_proxy_ends_is_not_left_open(
    server: LineServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):  # about every second one met the moment
        with socket.socket() as client, open_proxy("127.0.0.1", server.port) as proxy:
            client.connect((proxy.host, proxy.port))
    gc.collect()  # the warning of a socket that was left open
    assert caplog.messages == []
