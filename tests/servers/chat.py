"""A chat-completions server on loopback that answers what a test says, faults included.

It speaks HTTP/1.1 by hand, so that it can stop at any byte, in a thread and on an event loop of its own, so that a test
may run on either loop. An `Answer` turns a request into what goes over the wire: bytes, pauses, and hanging up.
"""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from threading import Semaphore
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import AsyncResource, SocketAttribute, SocketStream, TaskStatus
from anyio.from_thread import start_blocking_portal
from anyio.streams.buffered import BufferedByteReceiveStream

USAGE: Mapping[str, Any] = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@dataclass(frozen=True)
class Pause:
    """Silence; forever unless told."""

    seconds: float = float("inf")


class End(Enum):
    HANG_UP = auto()
    """Close the connection here, whatever is missing."""


HANG_UP = End.HANG_UP
Part: TypeAlias = bytes | Pause | End


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def text(self) -> str:
        """The content of the last message."""
        return str(self.body["messages"][-1]["content"])


Answer: TypeAlias = Callable[[Request], Iterable[Part]]


def echo(request: Request) -> Iterable[Part]:
    """A model that repeats the last message, word by word."""
    return say(*(f"{word} " for word in request.text.split(" ")[:-1]), request.text.split(" ")[-1])(request)


def say(
    *pieces: str,
    reasoning: Sequence[str] = (),
    calls: Sequence[tuple[str, str, str]] = (),
    usage: Mapping[str, Any] | None = USAGE,
    finish: str | None = None,
    first: float = 0.0,
) -> Answer:
    """A model that says `pieces` and calls tools (id, name, arguments); `first` is the time to the first token."""
    finish = finish or ("tool_calls" if calls else "stop")

    def answer(request: Request) -> Iterable[Part]:
        if not request.stream:
            message = {"role": "assistant", "content": "".join(pieces) or None, "tool_calls": _calls(calls)}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return [Pause(first), *plain(200, {"model": "served-1", "choices": [choice], "usage": usage})(request)]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in reasoning]
        deltas += [{"content": piece} for piece in pieces]
        deltas += [{"tool_calls": [fragment]} for fragment in _fragments(calls)]
        chunks = [chunk(delta) for delta in deltas] + [chunk({}, finish=finish)]
        chunks += [] if usage is None else [json.dumps({"model": "served-1", "choices": [], "usage": usage})]
        return frames(Pause(first), *chunks, "[DONE]")(request)

    return answer


def chunk(delta: Mapping[str, Any], *, finish: str | None = None) -> str:
    """One chunk of a stream, as JSON."""
    return json.dumps({"model": "served-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def frames(*parts: str | Part) -> Answer:
    """A stream of server-sent events; text is one event's data, bytes go out as they are."""
    body = [f"data: {part}\n\n".encode() if isinstance(part, str) else part for part in parts]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    sent = [b"%x\r\n%s\r\n" % (len(part), part) if isinstance(part, bytes) else part for part in body]
    return lambda request: [head, *sent, *([] if HANG_UP in parts else [b"0\r\n\r\n"])]


def plain(status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """One response; `body` is sent as JSON, or as it is when it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
    lines += [f"content-length: {len(content)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return lambda request: ["\r\n".join([*lines, "", ""]).encode() + content]


def refuse(status: int, code: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """A refusal in the protocol's form; its message must not reach a user."""
    error = {"message": "BACKEND WORDS", "type": "an_error", "code": code}
    return plain(status, {"error": error}, headers)


def wire(*parts: Part) -> Answer:
    """Exactly these parts."""
    return lambda request: parts


class ChatServer:
    """Answers each request with the next of `script`, and with `answer` when there is none left.

    Attributes:
        requests: What came in.
        connections: How many were accepted.
        hung_up: Clients that left before their answer was complete.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.script: deque[Answer] = deque()
        self.requests: list[Request] = []
        self.connections = 0
        self.hung_up = 0
        self._asked = Semaphore(0)
        self._left = Semaphore(0)
        self.port = 0

    @property
    def url(self) -> str:
        """What a client takes as its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def asked_within(self, seconds: float) -> bool:
        """Whether one more request comes in, waiting at most `seconds` for it."""
        return await anyio.to_thread.run_sync(partial(self._asked.acquire, timeout=seconds))

    async def hung_up_within(self, seconds: float) -> bool:
        """Whether one more client leaves in the middle, waiting at most `seconds` for it."""
        return await anyio.to_thread.run_sync(partial(self._left.acquire, timeout=seconds))

    async def serve(self, *, task_status: TaskStatus[AsyncResource]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            task_status.started(listener)
            await listener.serve(self._connection)

    async def _connection(self, stream: SocketStream) -> None:
        self.connections += 1
        received = BufferedByteReceiveStream(stream)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with stream:
                while await self._exchange(stream, received):
                    pass

    async def _exchange(self, stream: SocketStream, received: BufferedByteReceiveStream) -> bool:
        request = await _read(received)
        self.requests.append(request)
        self._asked.release()
        answer = self.script.popleft() if self.script else self.answer
        complete = False
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, received, group.cancel_scope)
            with suppress(anyio.BrokenResourceError):  # the watch sees it too
                complete = await _send(answer(request), stream)
            group.cancel_scope.cancel()
        return complete

    async def _watch(self, received: BufferedByteReceiveStream, answering: anyio.CancelScope) -> None:
        """Notice a client that leaves; bytes that come meanwhile belong to its next request."""
        try:
            received.feed_data(await received.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.hung_up += 1
            self._left.release()
            answering.cancel()


@contextmanager
def serve_chat(answer: Answer = echo) -> Generator[ChatServer]:
    """Run a server until the block ends."""
    server = ChatServer(answer)
    with start_blocking_portal() as portal:
        serving, listener = portal.start_task(server.serve)
        try:
            yield server
        finally:
            portal.call(listener.aclose)  # first, as `open_proxy` does
            serving.cancel()


async def _read(received: BufferedByteReceiveStream) -> Request:
    head = (await received.receive_until(b"\r\n\r\n", 1 << 16)).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await received.receive_exactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, json.loads(body or b"{}"))


async def _send(parts: Iterable[Part], stream: SocketStream) -> bool:
    """Send all of it; false when the connection is to be closed."""
    for part in parts:
        if isinstance(part, bytes):
            await stream.send(part)
        elif isinstance(part, Pause):
            await anyio.sleep(part.seconds)
        else:
            return False
    return True


def _calls(calls: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]] | None:
    made = [{"id": id, "type": "function", "function": {"name": n, "arguments": a}} for id, n, a in calls]
    return made or None


def _fragments(calls: Sequence[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    """The calls as providers stream them: first id and name of each, then the arguments in turns, few characters each."""
    for index, (id, name, _) in enumerate(calls):
        yield {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
    for at in range(0, max((len(arguments) for _, _, arguments in calls), default=0), 4):
        for index, (_, _, arguments) in enumerate(calls):
            yield {"index": index, "function": {"arguments": arguments[at : at + 4]}}
