"""The litellm client against a real HTTP server: what it sends, and what it makes of answers."""

import json
import subprocess
import sys
from decimal import Decimal
from typing import Any

import anyio
import pytest
from tests.adapters_litellm.calls import KEY, MODEL, PROMPT, ask, asked, both
from tests.servers.chat import ChatServer, Pause, chunk, frames, plain, refuse, say, serve_chat, wire

from agent_runtime import (
    ConfigurationError,
    FunctionCall,
    LLMClient,
    Message,
    ModelRequest,
    ReasoningDelta,
    RequestRejected,
    Secret,
    TextDelta,
    ToolDefinition,
    Usage,
)
from agent_runtime.testing import LLMClientContract
from agent_runtime_adapters.litellm import LiteLLMClient
from agent_runtime_adapters.litellm.library import load_library


class TestContract(LLMClientContract):
    @pytest.fixture(autouse=True)
    def serve(self, chat_server: ChatServer) -> None:
        self.server = chat_server

    def make(self, behaviour: str) -> LLMClient:
        if behaviour == "silent":
            self.server.answer = wire(Pause())
        return LiteLLMClient(MODEL, base_url="http://127.0.0.1:1/v1" if behaviour == "down" else self.server.url)


# --- what is sent ---


async def test_the_request_on_the_wire(client: LiteLLMClient, chat_server: ChatServer) -> None:
    call = FunctionCall(id="c1", name="search", arguments='{"q": 1}')
    request = ModelRequest(
        messages=(
            Message(role="system", content="be brief"),
            Message(role="user", content="hi \ud83d", name="ann"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="found", tool_call_id="c1", name="search"),
        ),
        tools=(ToolDefinition(name="search", description="Searches.", parameters={"type": "object"}),),
        parameters={"model": "openai/m2", "temperature": 0.0, "stop": ["."], "seed": 7},
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
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi \ufffd", "name": "ann"},
            {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "search", "description": "Searches.", "parameters": {"type": "object"}},
            }
        ],
    }


async def test_a_streamed_request_asks_for_usage(client: LiteLLMClient, chat_server: ChatServer) -> None:
    await ask(client)
    assert chat_server.requests[0].body["stream"] is True
    assert chat_server.requests[0].body["stream_options"] == {"include_usage": True}
    assert chat_server.requests[0].body["model"] == "test-model"


async def test_what_the_client_sets_is_neither_a_parameter_nor_an_option(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    with pytest.raises(ConfigurationError, match="api_base, n, num_retries, stream"):
        await ask(client, parameters={"stream": False, "n": 2, "num_retries": 3, "api_base": "http://elsewhere"})
    with pytest.raises(ConfigurationError, match="fallbacks"):
        LiteLLMClient(MODEL, fallbacks=["openai/other"])
    assert chat_server.requests == []


async def test_options_go_with_every_call_and_a_secret_among_them_is_revealed(chat_server: ChatServer) -> None:
    client = LiteLLMClient(MODEL, base_url=chat_server.url, seed=7, service_tier=Secret("flex"))
    await ask(client)
    assert chat_server.requests[0].body["seed"] == 7
    assert chat_server.requests[0].body["service_tier"] == "flex"


async def test_a_schema_goes_to_a_model_that_is_known_to_take_one(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    known = LiteLLMClient("openai/gpt-4o", base_url=chat_server.url, api_key=KEY)
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for asking in (known, client):
        await ask(asking, output_schema=schema)
    await ask(known, output_schema={"type": "string"})
    formats = [request.body.get("response_format") for request in chat_server.requests]
    assert formats == [{"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}, None, None]


@both
async def test_a_parameter_that_the_provider_does_not_take_is_refused_before_anything_is_sent(
    chat_server: ChatServer, stream: bool
) -> None:
    cohere = LiteLLMClient("cohere_chat/command-r", base_url=chat_server.url, api_key=KEY)
    with pytest.raises(RequestRejected, match="litellm does not ask cohere_chat") as caught:
        await ask(cohere, stream=stream, parameters={"logit_bias": {"1": 2}})
    assert caught.value.__cause__ is not None
    assert chat_server.requests == []


# --- what comes back ---


@both
async def test_text_reasoning_usage_and_model(client: LiteLLMClient, chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = say("Hel", "lo", reasoning=["let me", " see"])
    response, events = await ask(client, stream=stream, step=3)
    assert response.text == "Hello"
    assert response.finish_reason == "stop"
    assert response.model == "served-1"
    assert response.usage == Usage(input_tokens=11, output_tokens=7, cached_tokens=5, reasoning_tokens=3, requests=1)
    thought = [ReasoningDelta(text=text, step=3) for text in ("let me", " see")]
    assert events == ([*thought, TextDelta(text="Hel", step=3), TextDelta(text="lo", step=3)] if stream else [])


@both
async def test_parallel_tool_calls_arrive_whole(client: LiteLLMClient, chat_server: ChatServer, stream: bool) -> None:
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
    client: LiteLLMClient, chat_server: ChatServer, finish: str, stream: bool
) -> None:
    chat_server.answer = say("part", finish=finish)
    response, _ = await ask(client, stream=stream)
    assert response.finish_reason == finish


@both
async def test_tokens_that_the_provider_did_not_count_are_not_invented(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    chat_server.answer = say("part", usage=None)
    response, _ = await ask(client, stream=stream)
    assert response.usage == Usage(requests=1)


@both
async def test_a_model_in_litellm_s_price_list_has_a_cost(chat_server: ChatServer, stream: bool) -> None:
    chat_server.answer = say("ok", usage={"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100})
    client = LiteLLMClient("openai/gpt-4o", base_url=chat_server.url)
    response, _ = await ask(client, stream=stream)
    input_price, output_price = load_library().cost_per_token(
        model="gpt-4o", custom_llm_provider="openai", prompt_tokens=1_000, completion_tokens=100
    )
    assert response.usage.cost == Decimal(str(input_price)) + Decimal(str(output_price)) > 0


@both
async def test_an_answer_may_say_the_same_a_hundred_times(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    chat_server.answer = say(*["again "] * 150)
    assert (await ask(client, stream=stream))[0].text == "again " * 150


async def test_an_emoji_cut_in_two_is_joined_and_a_lone_half_is_replaced(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    deltas: list[dict[str, Any]] = [{"content": "a\ud83d"}, {"content": "\ude00b"}, {"content": "c\ud83d"}]
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": "\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    deltas += [{"tool_calls": [call]}, {"tool_calls": [rest]}]
    chat_server.answer = frames(*(chunk(delta) for delta in deltas), chunk({}, finish="stop"), "[DONE]")
    response, events = await ask(client)
    assert response.text == "a😀bc\ufffd"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == response.text
    assert response.message.tool_calls[0].arguments == '{"a": "😀"}'


async def test_a_connection_is_used_again(client: LiteLLMClient, chat_server: ChatServer) -> None:
    for _ in range(3):
        await ask(client, stream=False)
    assert chat_server.connections == 1


async def test_a_whole_answer_without_a_reason_to_finish_is_taken(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    chat_server.answer = plain(200, {"choices": [{"message": {"role": "assistant", "content": "hi"}}]})
    response, _ = await ask(client, stream=False)
    assert (response.text, response.finish_reason) == ("hi", "stop")


# --- keys and endpoints ---


async def test_no_key_of_the_environment_goes_to_an_endpoint_that_was_named(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    await ask(LiteLLMClient(MODEL, base_url=chat_server.url))
    await ask(LiteLLMClient(MODEL, base_url=chat_server.url, api_key=Secret("mine")))
    without, with_key = (request.headers for request in chat_server.requests)
    assert without["authorization"] == "Bearer none"
    assert with_key["authorization"] == "Bearer mine"
    assert KEY not in f"{without} {with_key}"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer x")
    with pytest.raises(ConfigurationError, match="OPENAI_CUSTOM_HEADERS"):
        LiteLLMClient(MODEL, base_url=chat_server.url)


async def test_the_environment_s_key_goes_to_the_environment_s_endpoint(
    chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", chat_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    await ask(LiteLLMClient(MODEL))
    assert chat_server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@both
async def test_a_key_does_not_follow_a_redirect_to_another_host(
    client: LiteLLMClient, chat_server: ChatServer, stream: bool
) -> None:
    with serve_chat() as elsewhere:
        chat_server.answer = refuse(307, headers={"location": f"{elsewhere.url}/chat/completions"})
        await ask(client, stream=stream)
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None]


async def test_a_request_cannot_take_the_key_to_another_provider(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    with pytest.raises(ConfigurationError, match="make another client"):
        await ask(client, parameters={"model": "anthropic/claude-sonnet-4-5"})
    with pytest.raises(ConfigurationError, match="knows no provider for the model 'nobody'"):
        await ask(client, parameters={"model": "nobody"})
    assert chat_server.requests == []


@pytest.mark.parametrize("base_url", ["ftp://host/v1", "host:80", "", "http://[::1"])
def test_a_base_url_that_is_none_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        LiteLLMClient(MODEL, base_url=base_url)


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}\r\nx: y", f"{KEY}é", ""])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LiteLLMClient(MODEL, api_key=key)
    assert KEY not in str(caught.value)


def test_an_unknown_provider_is_refused_when_the_client_is_made(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="write provider/model"):
        LiteLLMClient("nobody")
    assert capfd.readouterr() == ("", "")


def test_identity_tells_models_and_endpoints_apart_and_holds_no_secret() -> None:
    assert LiteLLMClient(MODEL, api_key=KEY).identity == f"litellm:{MODEL}"
    named = LiteLLMClient(MODEL, base_url="https://ann:{}@host:8080/v1?key={}".format("pw", KEY), api_key=KEY)
    assert named.identity == f"litellm:{MODEL}@host:8080/v1"
    assert (named.model, named.provider) == (MODEL, "openai")
    assert LiteLLMClient("gemini/gemini-2.0-flash").provider == "gcp.gemini"
    assert repr(named) == f"LiteLLMClient('{MODEL}')"
    assert KEY not in str(vars(named)["_key"])


# --- connections ---


async def test_the_last_of_the_clients_to_leave_closes_what_was_opened_meanwhile(chat_server: ChatServer) -> None:
    first = LiteLLMClient(MODEL, base_url=chat_server.url)
    second = LiteLLMClient(MODEL, base_url=chat_server.url, api_key=KEY)
    async with first:
        async with second, first:
            await ask(second, stream=False)
        await ask(second, stream=False)
        assert chat_server.connections == 1
    async with first:
        await ask(second, stream=False)
    assert chat_server.connections == 2


# --- the library ---

QUIET = """
import os, socket, sys, threading
from pathlib import Path

def refuse(*args, **kwargs):
    raise SystemExit(f"asks the network: {args}")

socket.getaddrinfo = socket.socket.connect = refuse
import agent_runtime_adapters.litellm as adapter
loaded = "litellm" in sys.modules
Path(".env").write_text("CANARY=1")
client = adapter.LiteLLMClient("openai/gpt-4o", api_key="sk-canary")
Path(".env").unlink()
print(loaded, threading.active_count(), os.environ.get("CANARY"), os.environ.get("LITELLM_MODE"))
"""


def test_the_library_is_imported_by_the_first_client_without_network_prints_threads_or_env_files(
    tmp_path: Any,
) -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False 1 None None\n", "")


def test_without_the_library_the_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(ImportError, match=r"pip install 'onion-agent-runtime\[litellm\]'"):
        LiteLLMClient(MODEL)


def test_on_trio_it_says_that_it_needs_asyncio(chat_server: ChatServer) -> None:
    client = LiteLLMClient(MODEL, base_url=chat_server.url)
    with pytest.raises(ConfigurationError, match="asyncio only"):
        anyio.run(client.complete, asked(), backend="trio")
    assert chat_server.requests == []


def test_one_client_serves_one_event_loop_after_another(chat_server: ChatServer) -> None:
    client = LiteLLMClient(MODEL, base_url=chat_server.url)

    async def once() -> str:
        async with client:
            return (await ask(client))[0].text

    assert [anyio.run(once) for _ in range(3)] == [PROMPT] * 3


async def test_an_answer_in_json_is_made_of_text_that_can_be_encoded(
    client: LiteLLMClient, chat_server: ChatServer
) -> None:
    chat_server.answer = say("c\ud83d", finish="\ud83d")
    response, _ = await ask(client, stream=False)
    json.dumps([response.text, response.finish_reason], ensure_ascii=False).encode()
