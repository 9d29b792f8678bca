"""The litellm client and everything but answers: refusals, broken answers, silence, cancellation, and a bad network."""

import asyncio
import json
import os
import random
import time
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

import anyio
import pytest
from tests.adapters_litellm.calls import KEY, MODEL, PROMPT, PROMPTLY, ask, asked, both, failure
from tests.servers.chat import (
    HANG_UP,
    USAGE,
    Answer,
    ChatServer,
    Part,
    Pause,
    chunk,
    frames,
    plain,
    refuse,
    say,
    wire,
)
from tests.servers.malformed import malformed

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentRuntimeError,
    CallTimeout,
    ErrorType,
    ProviderUnavailable,
    RateLimited,
    ReasoningDelta,
    RequestRejected,
    StreamEvent,
    TextDelta,
)
from agent_runtime.testing import Fault, FaultKind, open_proxy
from agent_runtime_adapters.litellm import LiteLLMClient

SOAK = os.environ.get("AGENT_RUNTIME_SOAK") == "1"
# A request that was cancelled before it was sent leaves litellm's coroutine for it behind.
never_sent = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


# --- refusals ---

REFUSALS: list[tuple[int, str | None, type[AgentRuntimeError], bool, str]] = [
    (400, "context_length_exceeded", RequestRejected, False, "refused the request"),
    (401, "invalid_api_key", RequestRejected, False, "refused the API key"),
    (403, None, RequestRejected, False, "refused the API key"),
    (404, "model_not_found", RequestRejected, False, "does not know the model 'openai/test-model'"),
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
    client: LiteLLMClient,
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


@both
async def test_the_headers_of_a_refusal_say_when_to_come_again(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    headers = {"Retry-After-Ms": "1500", "Retry-After": "7"}
    chat_server.script.extend([refuse(429, headers=headers), refuse(503, headers=headers), refuse(429)])
    assert [(await failure(client, stream=stream)).retry_after for _ in range(3)] == [1.5, 1.5, None]


async def test_an_error_that_the_caller_is_handling_is_not_taken_for_this_one_s(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    chat_server.script.extend([refuse(429, headers={"retry-after": "7"}), wire(HANG_UP)])
    try:
        await ask(client)
    except RateLimited:
        error = await failure(client)
    else:
        raise AssertionError("not refused")
    assert type(error) is ProviderUnavailable
    assert error.retry_after is None


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
    client: LiteLLMClient,
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


# --- answers that are none ---

GOOD = chunk({"content": "par"})
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # only a finish reason tells its end
BROKEN: dict[str, Answer] = {
    "a frame that is not JSON": frames(GOOD, '{"choices": [', "[DONE]"),
    "a frame that is not text": frames(GOOD, b"data: \xff\xfe\xff\n\n", "[DONE]"),
    "no finish reason": frames(GOOD, "[DONE]"),
    "no finish reason, but usage": frames(GOOD, json.dumps({"choices": [], "usage": USAGE}), "[DONE]"),
    "no end": frames(GOOD),
    "no end, until closed": wire(UNTIL_CLOSED, b"data: " + GOOD.encode() + b"\n\n", HANG_UP),
    "nothing": frames(),
    "a call without a name": frames(chunk({"tool_calls": [{"index": 0, "id": "c"}]}, finish="tool_calls"), "[DONE]"),
    "a call without an end": frames(
        chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a'}}]}), "[DONE]"
    ),
    "an error for a finish reason": frames(chunk({"content": "par"}, finish="error"), "[DONE]"),
    "deeper than a parser goes": frames("[" * 100_000),
    "dropped in mid-stream": frames(GOOD, HANG_UP),
    "dropped in a chunk": wire(HEAD, b"40\r\ndata: ", HANG_UP),
    "dropped after the head": wire(HEAD, HANG_UP),
    "dropped in the head": wire(b"HTTP/1.1 200 O", HANG_UP),
    "dropped without an answer": wire(HANG_UP),
    "dropped in an error's body": wire(b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\nBACK", HANG_UP),
    "not HTTP": wire(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", HANG_UP),
    "a body that is not gzip": wire(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nBACK"),
    "a web page": wire(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"),
}


@both
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_answer_is_never_a_normal_end(
    client: LiteLLMClient, chat_server: ChatServer, name: str, stream: bool
) -> None:
    chat_server.script.append(BROKEN[name])
    error = await failure(client, stream=stream)
    assert type(error) is ProviderUnavailable
    assert error.retryable
    assert len(chat_server.requests) == 1
    assert (await ask(client, stream=stream))[0].text == PROMPT  # and the client is as good as before


@both
async def test_a_chunk_size_that_is_none_is_an_error_within_the_deadline(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    """aiohttp, below litellm, sometimes goes on waiting when it comes apart from the head."""
    chat_server.answer = wire(HEAD, b"zz\r\n", HANG_UP)
    client = LiteLLMClient(MODEL, base_url=chat_server.url, timeout=0.2)
    assert type(await failure(client, stream=stream)) in {ProviderUnavailable, CallTimeout}


ANTHROPIC = [
    {"type": "message_start", "message": {"model": "served-1", "usage": {"input_tokens": 11, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "par"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]


async def test_a_stream_in_another_protocol_that_ends_early_is_noticed_too(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    client = LiteLLMClient("anthropic/claude-sonnet-4-5", base_url=chat_server.url, api_key=KEY)
    chat_server.answer = frames(*map(json.dumps, ANTHROPIC))
    response, _ = await ask(client)
    assert (response.text, response.finish_reason) == ("par", "stop")
    chat_server.answer = frames(*map(json.dumps, ANTHROPIC[:4]))
    assert "ended early" in str(await failure(client))


async def test_a_provider_whose_streams_do_not_tell_is_asked_for_the_whole_answer(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    client = LiteLLMClient("gemini/gemini-2.0-flash", base_url=chat_server.url, api_key=KEY)
    candidate = {"content": {"parts": [{"text": "whole"}], "role": "model"}, "finishReason": "STOP"}
    chat_server.answer = plain(200, {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 11}})
    response, events = await ask(client)
    assert (response.text, response.finish_reason, events) == ("whole", "stop", [])
    assert "stream" not in chat_server.requests[0].path
    chat_server.answer = plain(200, json.dumps({"candidates": [candidate]}).encode()[:-9])
    assert type(await failure(client)) is ProviderUnavailable


async def test_an_answer_whose_end_was_said_is_whole_when_the_connection_breaks_after_it(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    chat_server.answer = frames(GOOD, chunk({}, finish="stop"), HANG_UP)
    assert (await ask(client))[0].text == "par"


@both
async def test_a_whole_answer_that_failed_is_no_answer(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    chat_server.answer = say("par", finish="network_error")
    error = await failure(client, stream=stream)
    assert "broke its answer off" in str(error)


@both
async def test_an_answer_larger_than_allowed_is_broken_off(chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = say("x" * 50_000)
    client = LiteLLMClient(MODEL, base_url=chat_server.url, max_bytes=60_000)
    assert len((await ask(client, stream=stream))[0].text) == 50_000
    chat_server.answer = say(*["x" * 1_000] * 70)
    error = await failure(client, stream=stream)
    assert type(error) is ProviderUnavailable
    assert "60000 bytes" in str(error)


SILENCE: dict[str, Answer] = {
    "before the head": wire(Pause()),
    "before the first token": say("hi", first=60),
    "in mid-stream": frames(GOOD, Pause()),
}


@both
@pytest.mark.parametrize("name", SILENCE)
async def test_silence_is_a_call_timeout(chat_server: ChatServer, name: str, stream: bool) -> None:
    chat_server.answer = SILENCE[name]
    error = await failure(LiteLLMClient(MODEL, base_url=chat_server.url, timeout=0.1), stream=stream)
    assert type(error) is CallTimeout
    assert error.__cause__ is not None
    assert await chat_server.hung_up_within(PROMPTLY)
    assert len(chat_server.requests) == 1


async def test_a_slow_first_token_within_the_timeout_is_an_answer(chat_server: ChatServer) -> None:
    chat_server.answer = say("hi", first=0.1)
    assert (await ask(LiteLLMClient(MODEL, base_url=chat_server.url, timeout=5)))[0].text == "hi"


async def test_malformed_frames_give_an_answer_or_our_error(client: LiteLLMClient, chat_server: ChatServer) -> None:
    rng = random.Random(20_261)
    refused = 0
    for _ in range(3_000 if SOAK else 200):
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
    assert refused > 60
    assert (await ask(client))[0].text == PROMPT


# --- cancellation ---


@both
async def test_cancelling_ends_the_upstream_call(client: LiteLLMClient, chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = frames(GOOD, Pause())
    async with anyio.create_task_group() as group:
        group.start_soon(partial(ask, client, stream=stream))
        assert await chat_server.asked_within(PROMPTLY)
        group.cancel_scope.cancel()
    assert group.cancel_scope.cancelled_caught
    assert await chat_server.hung_up_within(PROMPTLY)


async def test_an_emit_that_raises_ends_the_upstream_call(client: LiteLLMClient, chat_server: ChatServer) -> None:
    async def emit(event: StreamEvent) -> None:
        raise TimeoutError("of the sink, not of the provider")

    chat_server.answer = frames(GOOD, Pause())
    with pytest.raises(TimeoutError, match="of the sink"):
        await client.complete(asked(emit=emit))
    assert await chat_server.hung_up_within(PROMPTLY)


@never_sent
async def test_bursts_of_cancelled_requests_leave_the_client_healthy(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    chat_server.answer = frames(GOOD, Pause(0.004), chunk({"content": "tial"}, finish="stop"), "[DONE]")
    for number in range(60):
        with anyio.move_on_after(0.004 * (number % 16)):
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(ask, client)
    with anyio.fail_after(10):
        assert (await ask(client))[0].text == "partial"
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


@never_sent
@pytest.mark.parametrize("broken", [False, True], ids=["answered", "refused"])
@both
async def test_a_native_cancel_at_any_await_is_never_swallowed(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool, broken: bool
) -> None:
    if broken:
        chat_server.answer = refuse(500)
    else:
        chat_server.answer = frames(GOOD, Pause(0.002), chunk({}, finish="stop"), "[DONE]") if stream else say("hi")
    outcomes: list[str] = []
    while outcomes[-1:] != ["done"]:
        call = client.complete(asked(stream=stream))
        try:
            outcomes.append(await run_cancelled(call, len(outcomes) + 1))
        except ProviderUnavailable:
            outcomes.append("done")
    assert outcomes[:-1] == ["cancelled"] * (len(outcomes) - 1)
    assert len(outcomes) > 3


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
        hasty = LiteLLMClient(MODEL, base_url=url, api_key=KEY, timeout=0.2)
        client = LiteLLMClient(MODEL, base_url=url, api_key=KEY)
        for fault in FAULTS:
            proxy.fault = fault
            silent = fault.kind is FaultKind.BLACKHOLE
            error = await failure(hasty if silent else client, stream=stream)
            assert type(error) is (CallTimeout if silent else ProviderUnavailable), fault
        for fault in (Fault(kind=FaultKind.DELAY, seconds=0.02), Fault(kind=FaultKind.TRICKLE), Fault()):
            proxy.fault = fault
            assert (await ask(client, stream=stream))[0].text == PROMPT


RETRYABLE: dict[str, Answer] = {
    "refused with 429": refuse(429),
    "refused with 500": refuse(500),
    "dropped": wire(HANG_UP),
    "silent": wire(Pause()),
}
# Each has another client inside litellm; the last of them does not keep to a timeout.
PROVIDERS = ["openai/test-model", "groq/test-model", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.0-flash"]


@both
@pytest.mark.parametrize("model", PROVIDERS)
async def test_no_provider_is_asked_twice_or_waited_for_too_long(
    client: LiteLLMClient, chat_server: ChatServer, model: str, stream: bool
) -> None:
    client = LiteLLMClient(model, base_url=chat_server.url, api_key=KEY, timeout=0.2)
    for name, answer in RETRYABLE.items():
        asked_before = len(chat_server.requests)
        chat_server.answer = answer
        error = await failure(client, stream=stream)
        assert error.retryable
        assert type(error) is (
            CallTimeout if name == "silent" else RateLimited if "429" in name else ProviderUnavailable
        ), name
        assert len(chat_server.requests) == asked_before + 1, name


async def run_against(server: ChatServer, *answers: Answer, stream: bool) -> tuple[ErrorType | None, int, float]:
    """What a run ends with, how often the provider was asked, and how long it took."""
    server.script.extend(answers)
    asked_before = len(server.requests)
    config = AgentConfig(name="a", model=MODEL, retry_attempts=3, retry_delay=0.01)
    context = AgentContext(agent_id="a", user_id="u", current_task="hi")

    async def emit(event: StreamEvent) -> None: ...

    client = LiteLLMClient(MODEL, base_url=server.url)
    executor = AgentExecutor(config=config, llm_client=client, agent_id="a")
    started = time.monotonic()
    async with executor:
        result = await (executor.execute(context, emit=emit) if stream else executor.execute(context))
    return result.error_type, len(server.requests) - asked_before, time.monotonic() - started


@both
async def test_a_run_retries_as_it_is_told_and_nobody_else_does(chat_server: ChatServer, stream: bool) -> None:
    for status in (400, 401):
        error_type, calls, _ = await run_against(chat_server, refuse(status), stream=stream)
        assert (error_type, calls) == (ErrorType.REJECTED, 1)
    limited = refuse(429, headers={"retry-after": "0.3"})
    error_type, calls, seconds = await run_against(chat_server, limited, stream=stream)
    assert (error_type, calls) == (None, 2)
    assert seconds >= 0.3
    broken = [refuse(500)] * 3
    error_type, calls, _ = await run_against(chat_server, *broken, stream=stream)
    assert (error_type, calls) == (ErrorType.PROVIDER, 3)
