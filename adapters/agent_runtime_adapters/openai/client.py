"""The client: where it connects, what it sends, and the bytes that come back."""

import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import anyio
import httpx2
from openai import AsyncOpenAI, Omit, OpenAIError, omit

from agent_runtime import (
    ConfigurationError,
    Emit,
    ModelRequest,
    ModelResponse,
    Secret,
    chat_message,
    chat_response_format,
    chat_tool,
)
from agent_runtime_adapters.openai.output import is_strict
from agent_runtime_adapters.openai.provider import BROKEN, Provider
from agent_runtime_adapters.openai.wire import Answer, Events

DRAIN = 0.1  # seconds for the end of the body after [DONE], so that the connection can be used again
CLOSE = 2.0  # seconds for the connections to close
# What a request has its own fields for, and what would give more than one answer.
RESERVED = frozenset({"messages", "tools", "stream", "stream_options", "n"})


class OpenAIClient:
    """An `LLMClient` over the official library, for any server that speaks chat completions. Runs on asyncio and trio.

    `model` is asked unless the request names one. `timeout` bounds, in seconds, connecting and each silence on the wire;
    `max_bytes` bounds one answer. The library's retries and redirects are off.

    A key is bound to its endpoint. Where `base_url` is given nothing comes from the environment: without `api_key` no key
    is sent. Where it is not, endpoint and key are `OPENAI_BASE_URL` and `OPENAI_API_KEY`, or what `api_key` says.

    An open `client` is used as it is, only without retries, and never closed here; it must be over httpx2. Otherwise one
    is opened at the first use and closed by `aclose()` or the last exit of `async with`, which may be entered several
    times; then it may be used again, on another event loop too.

    `structured_outputs` also sends the schema of an agent's output type as `response_format`, unless the parameters hold one;
    many servers and older models refuse that. Without it the model reads the schema in its messages only.
    """

    provider = "openai"  # by its protocol, whoever it is behind the endpoint

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: Secret | str | None = None,
        client: AsyncOpenAI | None = None,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 64 << 20,
        structured_outputs: bool = False,
    ) -> None:
        if client is not None and (base_url is not None or api_key is not None):
            raise ConfigurationError("an open client brings its own base_url and api_key: pass these, or client=")
        self.model = model
        self.structured_outputs = structured_outputs
        self._base_url = base_url
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._headers: dict[str, str | Omit] = {name.lower(): value for name, value in (headers or {}).items()}
        self._headers["accept-encoding"] = "identity"
        self._given = None if client is None else client.with_options(max_retries=0)
        self._own: AsyncOpenAI | None = None
        self._entries = 0
        self._key = api_key if isinstance(api_key, Secret) or api_key is None else Secret(api_key)
        if client is None:
            self._bind()

    @property
    def identity(self) -> str:
        """Endpoint and model: what tells this client's answers from another's. No key, no user and no query of the URL."""
        url = self._given.base_url if self._given is not None else self._base_url
        endpoint = httpx2.URL(str(url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"))
        return f"{endpoint.netloc.decode('ascii')}{endpoint.path.rstrip('/')} {self.model or ''}"

    def _bind(self) -> None:
        """Decide which key goes to which endpoint, before anything is opened."""
        if self._base_url is None:
            self._key = self._key or Secret(os.environ.get("OPENAI_API_KEY", ""))
            if not self._key.reveal():
                raise ConfigurationError("no API key: pass api_key= or set OPENAI_API_KEY, or name another base_url")
        else:
            _check_endpoint(self._base_url)
        if self._key is None:
            self._headers.setdefault("authorization", omit)
        elif not _fits_header(self._key.reveal()):
            raise ConfigurationError("the API key is empty, or holds what no header can carry: a line end at its end?")

    def _connected(self) -> AsyncOpenAI:
        if self._given is not None:
            return self._given
        if self._own is None:
            self._own = self._open()
        return self._own

    def _open(self) -> AsyncOpenAI:
        timeout = httpx2.Timeout(self._timeout, connect=min(self._timeout, 10.0))
        limits = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100)
        client = AsyncOpenAI(
            base_url=self._base_url,
            api_key="none" if self._key is None else self._key.reveal(),  # the library insists; `omit` takes it out
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False),
        )
        if self._base_url is not None:
            client.organization = client.project = client.admin_api_key = None
        return client

    async def __aenter__(self) -> Self:
        self._connected()
        self._entries += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entries -= 1
        if not self._entries:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that this object opened; a client that was handed in stays open."""
        client, self._own = self._own, None
        if client is not None:
            with anyio.move_on_after(CLOSE, shield=True):
                await client.close()

    def __repr__(self) -> str:
        return f"OpenAIClient({self.model!r})"

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """Return the whole answer; where `request.stream` is true, also push it in pieces through `request.emit`.

        Raises `RequestRejected`, `RateLimited`, `CallTimeout` or `ProviderUnavailable`, the library's error as the cause;
        an answer that ends early or makes no sense is `ProviderUnavailable` too. Cancellation ends the upstream call.
        """
        body = self._body(request)
        client = self._connected()
        provider = Provider(client.base_url.netloc.decode("ascii"), str(body["model"]))
        sending = client.chat.completions.with_streaming_response.create(
            model=body["model"], messages=(), extra_body=body, extra_headers=self._headers
        )
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(sending)
            except (OpenAIError, *BROKEN) as error:
                raise provider.translated(error) from error
            received = Received(provider, response.http_response, self._max_bytes)
            stack.push_async_callback(received.finish)
            answer = Answer(provider, step=request.step)
            await (take_stream if request.stream else take_whole)(answer, received, request.emit)
            return answer.response()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """The request as JSON; parameters go out as they are."""
        if forbidden := RESERVED.intersection(request.parameters):
            raise ConfigurationError(f"not model parameters, the runtime sets them: {', '.join(sorted(forbidden))}")
        model = request.parameters.get("model") or self.model
        if not model:
            raise ConfigurationError("no model: name one in OpenAIClient(model) or in AgentConfig(model=)")
        messages = [chat_message(message) for message in request.messages]
        body: dict[str, Any] = {**request.parameters, "model": model, "messages": messages}
        if request.tools:
            body["tools"] = [chat_tool(tool) for tool in request.tools]
        if self.structured_outputs and request.output_schema is not None:
            format = chat_response_format(request.output_schema, strict=is_strict(request.output_schema))
            if format is not None:
                body.setdefault("response_format", format)
        if request.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def _check_endpoint(base_url: str) -> None:
    try:
        scheme = httpx2.URL(base_url).scheme
    except httpx2.InvalidURL as error:
        raise ConfigurationError("base_url is not a URL") from error
    if scheme not in {"http", "https"}:
        raise ConfigurationError("base_url must start with http:// or https://")
    if "OPENAI_CUSTOM_HEADERS" in os.environ:
        raise ConfigurationError("OPENAI_CUSTOM_HEADERS would go to this base_url too: unset it, and pass headers=")


def _fits_header(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable()


async def take_whole(answer: "Answer", received: "Received", emit: Emit) -> None:
    pieces: list[bytes] = []
    while piece := await received.read():
        pieces.append(piece)
    answer.take(b"".join(pieces))
    answer.end()


async def take_stream(answer: "Answer", received: "Received", emit: Emit) -> None:
    events = Events()
    while not answer.done and (piece := await received.read()):
        for data in events.feed(piece):
            for delta in answer.take(data):
                await emit(delta)
    await received.drain()
    for delta in answer.end():
        await emit(delta)


class Received:
    """The bytes of one answer as they come, at most `limit` of them."""

    def __init__(self, provider: Provider, response: httpx2.Response, limit: int) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise provider.malformed()  # it was not asked for, and may be a bomb
        self._provider = provider
        self._response = response
        self._pieces = response.aiter_raw()
        self._limit = limit
        self._left = limit

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        try:
            piece = await anext(self._pieces, b"")
        except BROKEN as error:
            raise self._provider.translated(error) from error
        self._left -= len(piece)
        if self._left < 0:
            raise self._provider.too_large(self._limit)
        return piece

    async def drain(self) -> None:
        """Read to the end, if that is near: only then can the connection be used again."""
        with anyio.move_on_after(DRAIN), suppress(*BROKEN):
            async for _ in self._pieces:
                pass

    async def finish(self) -> None:
        """End the call upstream.

        One of httpx2's generators is not closed with the others (`AsyncResponseStream`); resumed on a closed connection
        it ends too, and nothing is left for the garbage collector.
        """
        with anyio.move_on_after(CLOSE, shield=True), suppress(*BROKEN, httpx2.StreamError):
            await self._response.aclose()
            async for _ in self._pieces:
                pass
