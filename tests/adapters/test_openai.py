"""The openai client against a real HTTP server: what it sends, what it makes of answers, and of everything but answers."""

import asyncio
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Coroutine, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from openai import AsyncOpenAI
from tests.servers.chat import (
    HANG_UP,
    Answer,
    ChatServer,
    Part,
    Pause,
    chunk,
    frames,
    plain,
    refuse,
    say,
    serve_chat,
    wire,
)
from tests.servers.malformed import malformed

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentRuntimeError,
    CallTimeout,
    ConfigurationError,
    ErrorType,
    FunctionCall,
    LLMClient,
    Message,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    RateLimited,
    ReasoningDelta,
    RequestRejected,
    Secret,
    StreamEvent,
    TextDelta,
    ToolDefinition,
    Usage,
)
from agent_runtime.testing import Fault, FaultKind, LLMClientContract, open_proxy
from agent_runtime_adapters import openai as adapter
from agent_runtime_adapters.openai import OpenAIClient

KEY = "sk-canary-0123456789"
PROMPT = "PRIVATE PROMPT"
PROMPTLY = 2.0  # seconds
SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"

both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAI_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def client(chat_server: ChatServer) -> Any:
    async with OpenAIClient("m1", base_url=chat_server.url, api_key=KEY) as client:
        yield client


def asked(*, stream: bool = True, **changes: Any) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", content=PROMPT),), stream=stream, **changes)


async def ask(client: OpenAIClient, *, stream: bool = True, **changes: Any) -> tuple[ModelResponse, list[StreamEvent]]:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    return await client.complete(asked(stream=stream, emit=emit, **changes)), events


async def failure(client: OpenAIClient, *, stream: bool = True) -> AgentRuntimeError:
    """The error of a call, which holds nothing private and comes at once."""
    started = time.monotonic()
    with pytest.raises(AgentRuntimeError) as caught:
        await ask(client, stream=stream)
    assert time.monotonic() - started < PROMPTLY
    shown = f"{caught.value} {caught.value!r} {caught.value.details}"
    assert not any(word in shown for word in (KEY, PROMPT, "BACKEND"))
    return caught.value


class TestContract(LLMClientContract):
    @pytest.fixture(autouse=True)
    def serve(self, chat_server: ChatServer) -> None:
        self.server = chat_server

    def make(self, behaviour: str) -> LLMClient:
        if behaviour == "silent":
            self.server.answer = wire(Pause())
        return OpenAIClient("m1", base_url="http://127.0.0.1:1/v1" if behaviour == "down" else self.server.url)


# --- what is sent ---


async def test_the_request_on_the_wire(client: OpenAIClient, chat_server: ChatServer) -> None:
    call = FunctionCall(id="c1", name="search", arguments='{"q": 1}')
    request = ModelRequest(
        messages=(
            Message(role="system", content="be brief"),
            Message(role="user", content="hi \ud83d", name="ann"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="found", tool_call_id="c1", name="search"),
        ),
        tools=(ToolDefinition(name="search", description="Searches.", parameters={"type": "object"}),),
        parameters={"model": "m2", "temperature": 0.0, "stop": ["."], "seed": 7, "top_k": 3},
    )
    chat_server.answer = say("ok")
    await client.complete(request)
    [sent] = chat_server.requests
    function = {"name": "search", "arguments": '{"q": 1}'}
    assert sent.path == "/v1/chat/completions"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        "model": "m2",
        "temperature": 0.0,
        "stop": ["."],
        "seed": 7,
        "top_k": 3,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi \ufffd", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": function}],
            },
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "search", "description": "Searches.", "parameters": {"type": "object"}},
            }
        ],
    }


async def test_a_streamed_request_asks_for_usage(client: OpenAIClient, chat_server: ChatServer) -> None:
    await ask(client)
    assert chat_server.requests[0].body["stream"] is True
    assert chat_server.requests[0].body["stream_options"] == {"include_usage": True}
    assert chat_server.requests[0].body["model"] == "m1"


async def test_the_runtime_s_own_fields_are_not_parameters(client: OpenAIClient, chat_server: ChatServer) -> None:
    with pytest.raises(ConfigurationError, match="n, stream"):
        await ask(client, parameters={"stream": False, "n": 2})
    with pytest.raises(ConfigurationError, match="no model"):
        await ask(OpenAIClient(base_url=chat_server.url))
    assert chat_server.requests == []


CITY: Mapping[str, Any] = {"type": "string", "title": "City"}
CLOSED: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": CITY, "near": {"type": "array", "items": {"$ref": "#/$defs/Point"}}},
    "required": ["near", "city"],
    "additionalProperties": False,
    "$defs": {
        "Point": {
            "type": "object",
            "properties": {"x": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
}


def with_city(**changes: Any) -> Mapping[str, Any]:
    return {**CLOSED, "properties": {**CLOSED["properties"], "city": {**CITY, **changes}}}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({**CLOSED, "required": ["city"]}, False),
        ({key: value for key, value in CLOSED.items() if key != "additionalProperties"}, False),
        (with_city(default="Paris"), False),
        (with_city(**{"$ref": "#/$defs/Point"}), False),
        ({**CLOSED, "properties": {"city": {}}, "required": ["city"]}, False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, False),
        ({**CLOSED, "properties": {"city": True}, "required": ["city"]}, False),
        ({**CLOSED, "properties": {"city": {"type": ["object", "null"]}}, "required": ["city"]}, False),
    ],
)
async def test_the_schema_of_the_answer_is_sent_where_the_server_is_said_to_know_it(
    chat_server: ChatServer, schema: Mapping[str, Any], strict: bool
) -> None:
    chat_server.answer = say("{}")
    async with OpenAIClient("m1", base_url=chat_server.url, structured_outputs=True) as client:
        await ask(client, output_schema=schema)
    [sent] = chat_server.requests
    expected = {"name": "output", "schema": schema, "strict": strict}
    assert sent.body["response_format"] == {"type": "json_schema", "json_schema": expected}


@pytest.mark.parametrize(
    ("knows", "schema", "parameters"),
    [
        (False, CLOSED, {}),
        (True, None, {}),
        (True, {"type": "array", "items": CITY}, {}),
        (True, CLOSED, {"response_format": {"type": "json_object"}}),
    ],
    ids=["the server does not", "no schema", "no object", "the parameters say otherwise"],
)
async def test_no_schema_is_sent_otherwise(
    chat_server: ChatServer, knows: bool, schema: Mapping[str, Any] | None, parameters: dict[str, Any]
) -> None:
    chat_server.answer = say("{}")
    async with OpenAIClient("m1", base_url=chat_server.url, structured_outputs=knows) as client:
        await ask(client, output_schema=schema, parameters=parameters)
    [sent] = chat_server.requests
    assert sent.body.get("response_format") == parameters.get("response_format")


# --- what comes back ---


@both
async def test_text_reasoning_usage_and_model(client: OpenAIClient, chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = say("Hel", "lo", reasoning=["let me", " see"])
    response, events = await ask(client, stream=stream, step=3)
    assert response.text == "Hello"
    assert response.finish_reason == "stop"
    assert response.model == "served-1"
    assert response.usage == Usage(input_tokens=11, output_tokens=7, cached_tokens=5, reasoning_tokens=3, requests=1)
    thought = [ReasoningDelta(text=text, step=3) for text in ("let me", " see")]
    assert events == ([*thought, TextDelta(text="Hel", step=3), TextDelta(text="lo", step=3)] if stream else [])


@both
async def test_parallel_tool_calls_arrive_whole(client: OpenAIClient, chat_server: ChatServer, stream: bool) -> None:
    calls = [
        ("c1", "search", '{"query": "ünï"}'),
        ("c2", "read", '{"path": "a/b.md", "lines": [1, 2]}'),
        ("c3", "now", ""),
    ]
    chat_server.answer = say("I look.", calls=calls)
    response, _ = await ask(client, stream=stream)
    assert response.text == "I look."
    assert response.finish_reason == "tool_calls"
    assert response.message.tool_calls == tuple(
        FunctionCall(id=id, name=name, arguments=arguments or "{}") for id, name, arguments in calls
    )


@both
@pytest.mark.parametrize("finish", ["length", "content_filter", "something_new"])
async def test_a_finish_reason_passes_through(
    client: OpenAIClient, chat_server: ChatServer, finish: str, stream: bool
) -> None:
    chat_server.answer = say("part", finish=finish, usage=None)
    response, _ = await ask(client, stream=stream)
    assert response.finish_reason == finish
    assert response.usage == Usage(requests=1)


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
async def test_events_in_every_form_that_the_standard_allows(
    client: OpenAIClient, chat_server: ChatServer, ending: bytes
) -> None:
    whole = json.dumps({"choices": [{"delta": {"content": "a😀b"}, "finish_reason": "stop"}]}, indent=1).encode()
    lines = [b": keep-alive", b"event: message", b"id: 1", *(b"data:" + line for line in whole.split(b"\n")), b"", b""]
    stream = ending.join(lines)
    for size in (1, 7, len(stream)):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        chat_server.script.append(frames(*pieces, ending, "[DONE]"))
        assert (await ask(client))[0].text == "a😀b"


async def test_a_byte_order_mark_costs_no_text(client: OpenAIClient, chat_server: ChatServer) -> None:
    chat_server.answer = frames(
        b"\xef\xbb\xbf", chunk({"content": "a"}), chunk({"content": "b"}, finish="stop"), "[DONE]"
    )
    response, _ = await ask(client, stream=True)
    assert response.text == "ab"


async def test_an_emoji_cut_in_two_is_joined_and_a_lone_half_is_replaced(
    client: OpenAIClient, chat_server: ChatServer
) -> None:
    deltas: list[dict[str, Any]] = [
        {"content": "a\ud83d"},
        {"content": "\ude00b"},
        {"reasoning": "\ud83d"},
        {"content": "c\ud83d"},
    ]
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": "\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    deltas += [{"tool_calls": [call]}, {"tool_calls": [rest]}]
    chat_server.answer = frames(*(chunk(delta) for delta in deltas), chunk({}, finish="stop"), "[DONE]")
    response, events = await ask(client)
    assert response.text == "a😀bc\ufffd"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == response.text
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == ["\ufffd"]
    assert response.message.tool_calls[0].arguments == '{"a": "😀"}'


async def test_a_connection_is_used_again(client: OpenAIClient, chat_server: ChatServer) -> None:
    for stream in (False, True, True, False):
        await ask(client, stream=stream)
    assert chat_server.connections == 1


# --- errors ---

REFUSALS: list[tuple[int, str | None, type[AgentRuntimeError], bool, str]] = [
    (400, "context_length_exceeded", RequestRejected, False, "refused the request"),
    (401, "invalid_api_key", RequestRejected, False, "refused the API key"),
    (403, None, RequestRejected, False, "refused the API key"),
    (404, "model_not_found", RequestRejected, False, "the provider does not know the model 'm1'"),
    (408, None, ProviderUnavailable, True, "unavailable"),
    (409, None, ProviderUnavailable, True, "unavailable"),
    (413, None, RequestRejected, False, "refused the request"),
    (422, "BACKEND", RequestRejected, False, "refused the request"),
    (429, "rate_limit_exceeded", RateLimited, True, "limits the rate"),
    (429, "insufficient_quota", RateLimited, False, "no quota"),
    (500, None, ProviderUnavailable, True, "unavailable"),
    (503, None, ProviderUnavailable, True, "unavailable"),
    (307, None, RequestRejected, False, "redirects"),
]


@both
@pytest.mark.parametrize(("status", "code", "kind", "retryable", "says"), REFUSALS)
async def test_a_status_is_our_error_and_is_not_retried(
    client: OpenAIClient,
    chat_server: ChatServer,
    status: int,
    code: str | None,
    kind: type[AgentRuntimeError],
    retryable: bool,
    says: str,
    stream: bool,
) -> None:
    chat_server.answer = refuse(status, code)
    error = await failure(client, stream=stream)
    assert type(error) is kind
    assert error.retryable is retryable
    assert says in str(error)
    assert error.details["status"] == status
    assert error.details.get("code") == (code if code != "BACKEND" else None)
    assert error.__cause__ is not None
    assert len(chat_server.requests) == 1


async def test_the_headers_of_a_refusal_say_when_to_come_again(client: OpenAIClient, chat_server: ChatServer) -> None:
    headers = {"Retry-After-Ms": "1500", "Retry-After": "7"}
    chat_server.script.extend([refuse(429, headers=headers), refuse(503, headers=headers), refuse(429)])
    assert [(await failure(client)).retry_after for _ in range(3)] == [1.5, 1.5, None]


@pytest.mark.parametrize(
    ("reported", "kind", "retryable"),
    [
        ({"message": "BACKEND", "type": "server_error", "code": None}, ProviderUnavailable, True),
        ({"message": "BACKEND", "type": "BadRequestError", "code": 400}, RequestRejected, False),
        ({"message": "BACKEND", "code": "429"}, RateLimited, True),
        ({"message": "BACKEND", "code": "insufficient_quota"}, RateLimited, False),
        ({"message": "BACKEND", "code": 200}, ProviderUnavailable, True),
        ("BACKEND", ProviderUnavailable, True),
    ],
)
@both
async def test_an_error_in_the_place_of_an_answer(
    client: OpenAIClient,
    chat_server: ChatServer,
    reported: object,
    kind: type[AgentRuntimeError],
    retryable: bool,
    stream: bool,
) -> None:
    body = {"error": reported}
    chat_server.answer = frames(chunk({"content": "par"}), json.dumps(body), "[DONE]") if stream else plain(200, body)
    error = await failure(client, stream=stream)
    assert type(error) is kind
    assert error.retryable is retryable


GOOD = chunk({"content": "par"})
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BROKEN: dict[str, Answer] = {
    "a frame that is not JSON": frames(GOOD, '{"choices": [', "[DONE]"),
    "a frame that is not text": frames(GOOD, b"data: \xff\xfe\xff\n\n", "[DONE]"),
    "no finish reason": frames(GOOD, "[DONE]"),
    "no end": frames(GOOD),
    "nothing": frames(),
    "an unfinished event": frames(b"data: " + chunk({"content": "a"}, finish="stop").encode()),
    "a call without a name": frames(chunk({"tool_calls": [{"index": 0, "id": "c"}]}, finish="tool_calls"), "[DONE]"),
    "a call without an id": frames(chunk({"tool_calls": [{"function": {"name": "f"}}]}, finish="stop"), "[DONE]"),
    "deeper than a parser goes": frames("[" * 100_000),
    "a number of 5,000 digits": frames('{"usage": {"prompt_tokens": ' + "9" * 5_000 + "}}"),
    "a number beyond 64 bits": frames(json.dumps({"usage": {"prompt_tokens": 2**70}})),
    "dropped in mid-stream": frames(GOOD, HANG_UP),
    "dropped in a chunk": wire(HEAD, b"40\r\ndata: ", HANG_UP),
    "dropped after the head": wire(HEAD, HANG_UP),
    "dropped in the head": wire(b"HTTP/1.1 200 O", HANG_UP),
    "dropped without an answer": wire(HANG_UP),
    "dropped in an error's body": wire(b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\nBACK", HANG_UP),
    "not HTTP": wire(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", HANG_UP),
    "a chunk size that is none": wire(HEAD, b"zz\r\n", HANG_UP),
    "a body that is not gzip": wire(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nBACK"),
    "a web page": wire(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"),
}


@both
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_never_a_normal_end(
    client: OpenAIClient, chat_server: ChatServer, name: str, stream: bool
) -> None:
    chat_server.script.append(BROKEN[name])
    error = await failure(client, stream=stream)
    assert type(error) is ProviderUnavailable
    assert error.retryable
    assert (await ask(client, stream=stream))[0].text == PROMPT  # and the client is as good as before


@both
async def test_an_answer_larger_than_allowed_is_broken_off(chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = say("x" * 50_000)
    async with OpenAIClient("m1", base_url=chat_server.url, max_bytes=60_000) as client:
        assert len((await ask(client, stream=stream))[0].text) == 50_000
        chat_server.answer = say("x" * 70_000)
        error = await failure(client, stream=stream)
    assert type(error) is ProviderUnavailable
    assert "60000 bytes" in str(error)


async def test_a_line_without_end_is_broken_off(chat_server: ChatServer) -> None:
    chat_server.answer = frames(*[b"x" * 65_536] * 200, Pause())
    async with OpenAIClient("m1", base_url=chat_server.url, max_bytes=4 << 20) as client:
        assert type(await failure(client)) is ProviderUnavailable
    assert await chat_server.hung_up_within(PROMPTLY)


SILENCE: dict[str, Answer] = {
    "before the head": wire(Pause()),
    "before the first token": say("hi", first=60),
    "in mid-stream": frames(GOOD, Pause()),
}


@pytest.mark.parametrize("name", SILENCE)
async def test_silence_is_a_call_timeout(chat_server: ChatServer, name: str) -> None:
    chat_server.answer = SILENCE[name]
    async with OpenAIClient("m1", base_url=chat_server.url, timeout=0.1) as client:
        error = await failure(client)
    assert type(error) is CallTimeout
    assert error.__cause__ is not None
    assert await chat_server.hung_up_within(PROMPTLY)


async def test_a_slow_first_token_within_the_timeout_is_an_answer(chat_server: ChatServer) -> None:
    chat_server.answer = say("hi", first=0.1)
    async with OpenAIClient("m1", base_url=chat_server.url, timeout=5) as client:
        assert (await ask(client))[0].text == "hi"


async def test_a_server_that_stays_after_the_end_mark_does_not_hold_the_answer(
    client: OpenAIClient, chat_server: ChatServer
) -> None:
    chat_server.answer = frames(chunk({"content": "hi"}, finish="stop"), "[DONE]", "ignored", Pause())
    started = time.monotonic()
    assert (await ask(client))[0].text == "hi"
    assert time.monotonic() - started < PROMPTLY
    assert await chat_server.hung_up_within(PROMPTLY)


async def test_malformed_frames_give_an_answer_or_our_error(client: OpenAIClient, chat_server: ChatServer) -> None:
    rng = random.Random(20_261)
    refused = 0
    for _ in range(10_000 if SOAK else 300):
        frame = malformed(rng)
        whole = frame.replace(b'"delta"', b'"message"')
        streamed: list[str | Part] = [b"data: " + frame + b"\n\n", "[DONE]"]
        stream = rng.random() < 0.7
        chat_server.script.append(frames(*streamed) if stream else plain(rng.choice([200, 200, 400, 429]), whole))
        try:
            response, events = await ask(client, stream=stream)
        except AgentRuntimeError as error:
            refused += 1
            assert "BACKEND" not in str(error)
        else:
            json.dumps([response.text, response.model, response.finish_reason], ensure_ascii=False).encode()
            assert all(isinstance(event, TextDelta | ReasoningDelta) for event in events)
    assert refused > 100
    assert (await ask(client))[0].text == PROMPT


# --- cancellation ---


@both
async def test_cancelling_ends_the_upstream_call(client: OpenAIClient, chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = frames(GOOD, Pause())
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, client, stream=stream))
        assert await chat_server.asked_within(PROMPTLY)
        group.cancel_scope.cancel()
    assert group.cancel_scope.cancelled_caught
    assert await chat_server.hung_up_within(PROMPTLY)


async def test_an_emit_that_raises_ends_the_upstream_call(client: OpenAIClient, chat_server: ChatServer) -> None:
    async def emit(event: StreamEvent) -> None:
        raise httpx2.ReadError("of the sink, not of the provider")

    chat_server.answer = frames(GOOD, Pause())
    with pytest.raises(httpx2.ReadError, match="of the sink"):
        await client.complete(asked(emit=emit))
    assert await chat_server.hung_up_within(PROMPTLY)


async def test_bursts_of_cancelled_requests_leave_the_client_healthy(chat_server: ChatServer) -> None:
    chat_server.answer = frames(GOOD, Pause(0.004), chunk({"content": "tial"}, finish="stop"), "[DONE]")
    http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=4), timeout=5)
    async with AsyncOpenAI(base_url=chat_server.url, api_key=KEY, http_client=http) as library:
        client = OpenAIClient("m1", client=library)
        for number in range(60):
            with anyio.move_on_after(0.001 * (number % 16)):
                async with anyio.create_task_group() as group:
                    for _ in range(12):
                        group.start_soon(ask, client)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ask, client)


class CancelAt:
    """Awaits `coroutine`, and natively cancels its task at suspension `k`."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], k: int) -> None:
        self._coroutine = coroutine
        self._k = k
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, object]:
        value: object = None
        error: BaseException | None = None
        while True:
            try:
                waiting = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            value = error = None
            self.suspensions += 1
            if self.suspensions == self._k:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value = yield waiting
            except BaseException as raised:  # noqa: BLE001 - handed to the coroutine
                error = raised


async def run_cancelled(coroutine: Coroutine[Any, Any, object], k: int) -> str:
    """How a call ended whose task was natively cancelled at suspension `k`."""
    driver = CancelAt(coroutine, k)

    async def body() -> object:
        return await driver

    task = asyncio.create_task(body())
    await asyncio.wait([task])
    if task.cancelled():
        return "cancelled"
    return "swallowed" if driver.suspensions >= k else "done"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@both
async def test_a_native_cancel_at_any_await_is_never_swallowed(
    client: OpenAIClient, chat_server: ChatServer, stream: bool
) -> None:
    chat_server.answer = (
        frames(GOOD, Pause(0.002), chunk({}, finish="stop"), "[DONE]") if stream else say("hi", first=0.002)
    )
    outcomes: list[str] = []
    while "done" not in outcomes:
        outcomes.append(await run_cancelled(client.complete(asked(stream=stream)), len(outcomes) + 1))
    assert outcomes[:-1] == ["cancelled"] * (len(outcomes) - 1)
    assert len(outcomes) > 3


# --- clients, keys and endpoints ---


async def test_the_last_exit_closes_and_the_client_can_be_used_again(chat_server: ChatServer) -> None:
    client = OpenAIClient("m1", base_url=chat_server.url)
    async with client:
        async with client:
            await ask(client)
        await ask(client)
    assert chat_server.connections == 1
    async with client:
        await ask(client)
    assert chat_server.connections == 2
    await ask(client)
    await client.aclose()
    await client.aclose()
    assert chat_server.connections == 3


async def test_its_identity_is_endpoint_and_model_and_nothing_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    password = "sk-in-the-url"
    url = f"https://ann:{password}@models.example:8443/v1/?token=sk-in-the-query"
    assert OpenAIClient("m1", base_url=url, api_key=KEY).identity == "models.example:8443/v1 m1"
    assert OpenAIClient(base_url=url).identity == "models.example:8443/v1 "
    async with AsyncOpenAI(base_url="http://models.example/v2/", api_key=KEY) as library:
        assert OpenAIClient("m1", client=library).identity == "models.example/v2 m1"
    assert OpenAIClient("m1", api_key=KEY).identity == "api.openai.com/v1 m1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/openai")
    assert OpenAIClient("m1", api_key=KEY).identity == "gateway.example/openai m1"


def test_one_client_serves_one_event_loop_after_another(chat_server: ChatServer) -> None:
    client = OpenAIClient("m1", base_url=chat_server.url)

    async def once() -> str:
        async with client:
            return (await ask(client))[0].text

    assert [anyio.run(once, backend=backend) for backend in ("asyncio", "trio", "asyncio")] == [PROMPT] * 3


async def test_an_open_client_is_used_without_retries_and_never_closed(chat_server: ChatServer) -> None:
    async with AsyncOpenAI(base_url=chat_server.url, api_key=KEY, max_retries=5) as library:
        async with OpenAIClient("m1", client=library) as client:
            await ask(client)
            chat_server.answer = refuse(500)
            await failure(client)
        assert len(chat_server.requests) == 2
        assert not library.is_closed()
    with pytest.raises(ConfigurationError, match="client="):
        OpenAIClient("m1", client=library, base_url=chat_server.url)
    with pytest.raises(ConfigurationError, match="client="):
        OpenAIClient("m1", client=library, api_key=KEY)


async def test_nothing_of_the_environment_goes_to_an_endpoint_that_was_named(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"{KEY}-{name}")
    async with OpenAIClient("m1", base_url=chat_server.url) as client:
        await ask(client)
    async with OpenAIClient("m1", base_url=chat_server.url, api_key=Secret("mine")) as client:
        await ask(client)
    without, with_key = (request.headers for request in chat_server.requests)
    assert "authorization" not in without
    assert with_key["authorization"] == "Bearer mine"
    assert KEY not in f"{without} {with_key}"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer x")
    with pytest.raises(ConfigurationError, match="OPENAI_CUSTOM_HEADERS"):
        OpenAIClient("m1", base_url=chat_server.url)


async def test_the_environment_s_key_goes_to_the_environment_s_endpoint(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIClient("m1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with OpenAIClient("m1", headers={"X-Team": "docs"}) as client:
        await ask(client)
    async with OpenAIClient("m1", api_key="mine") as client:
        await ask(client)
    first, second = (request.headers for request in chat_server.requests)
    assert (first["authorization"], first["x-team"]) == (f"Bearer {KEY}", "docs")
    assert second["authorization"] == "Bearer mine"


async def test_a_header_may_stand_for_the_key(chat_server: ChatServer) -> None:
    async with OpenAIClient("m1", base_url=chat_server.url, headers={"Authorization": "Custom abc"}) as client:
        await ask(client)
    assert chat_server.requests[0].headers["authorization"] == "Custom abc"


async def test_a_key_does_not_follow_a_redirect(client: OpenAIClient, chat_server: ChatServer) -> None:
    with serve_chat() as elsewhere:
        chat_server.answer = refuse(307, headers={"location": f"{elsewhere.url}/chat/completions"})
        assert type(await failure(client)) is RequestRejected
        assert elsewhere.requests == []


@pytest.mark.parametrize("base_url", ["ftp://host/v1", "host:80", "", "http://[::1"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        OpenAIClient("m1", base_url=base_url)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nx: y", f"{KEY}é", ""])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAIClient("m1", base_url="http://127.0.0.1:1/v1", api_key=key)
    assert KEY not in str(caught.value)


def test_the_key_is_not_in_the_repr(chat_server: ChatServer) -> None:
    client = OpenAIClient("m1", base_url=chat_server.url, api_key=KEY, headers={"x": KEY})
    assert repr(client) == "OpenAIClient('m1')"
    assert KEY not in str(vars(client)["_key"])


@pytest.mark.parametrize("missing", ["openai", "httpx2"])
def test_without_the_library_the_import_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for part in ("client", "provider", "wire"):
        monkeypatch.delitem(sys.modules, f"{adapter.__name__}.{part}")
    spec = importlib.util.spec_from_file_location("openai_adapter_again", Path(str(adapter.__file__)))
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"pip install 'onion-agent-runtime\[openai\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# --- a network between, and a runtime around ---

FAULTS = [
    Fault(kind=FaultKind.CUT_BEFORE_FORWARD),
    Fault(kind=FaultKind.CUT_AFTER_FORWARD),
    Fault(kind=FaultKind.BLACKHOLE),
    *(Fault(kind=FaultKind.TRUNCATE, at=at) for at in (0, 1, 12, 60, 120, 200, 280)),
]


@both
async def test_every_fault_of_the_network_is_a_typed_error_within_the_deadline(
    chat_server: ChatServer, stream: bool
) -> None:
    with open_proxy("127.0.0.1", chat_server.port) as proxy:
        url = f"http://{proxy.host}:{proxy.port}/v1"
        hasty = OpenAIClient("m1", base_url=url, api_key=KEY, timeout=0.2)
        async with OpenAIClient("m1", base_url=url, api_key=KEY) as client, hasty:
            for fault in FAULTS:
                proxy.fault = fault
                silent = fault.kind is FaultKind.BLACKHOLE
                error = await failure(hasty if silent else client, stream=stream)
                assert type(error) is (CallTimeout if silent else ProviderUnavailable), fault
            for fault in (Fault(kind=FaultKind.DELAY, seconds=0.02), Fault(kind=FaultKind.TRICKLE), Fault()):
                proxy.fault = fault
                assert (await ask(client, stream=stream))[0].text == PROMPT


async def run_against(server: ChatServer, *answers: Answer, stream: bool) -> tuple[ErrorType | None, int, float]:
    """What a run ends with, how often the provider was asked, and how long it took."""
    server.script.extend(answers)
    asked_before = len(server.requests)
    config = AgentConfig(name="a", model="m1", retry_attempts=3, retry_delay=0.01)
    context = AgentContext(agent_id="a", user_id="u", current_task="hi")
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    executor = AgentExecutor(config=config, llm_client=OpenAIClient(base_url=server.url), agent_id="a")
    started = time.monotonic()
    async with executor:
        result = await (executor.execute(context, emit=emit) if stream else executor.execute(context))
    return result.error_type, len(server.requests) - asked_before, time.monotonic() - started


@both
async def test_s75_a_refusal_is_final_and_retry_after_is_honoured(chat_server: ChatServer, stream: bool) -> None:
    for status in (400, 401):
        error_type, calls, _ = await run_against(chat_server, refuse(status), stream=stream)
        assert (error_type, calls) == (ErrorType.REJECTED, 1)
    error_type, calls, _ = await run_against(chat_server, refuse(429, "insufficient_quota"), stream=stream)
    assert (error_type, calls) == (ErrorType.RATE_LIMIT, 1)
    limited = refuse(429, headers={"retry-after": "0.3"})
    error_type, calls, seconds = await run_against(chat_server, limited, stream=stream)
    assert (error_type, calls) == (None, 2)
    assert seconds >= 0.3
