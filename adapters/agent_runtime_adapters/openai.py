"""Any model behind an OpenAI-compatible chat-completions endpoint. Needs the `openai` extra."""

import json
import math
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Annotated, Any, Self

import anyio
import msgspec

from agent_runtime import (
    AgentRuntimeError,
    CallTimeout,
    ConfigurationError,
    DeltaText,
    Emit,
    FunctionCall,
    Message,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    RateLimited,
    ReasoningDelta,
    RequestRejected,
    Secret,
    TextDelta,
    ToolDefinition,
    Usage,
    repair_text,
)

try:
    import httpx2
    from openai import APIStatusError, APITimeoutError, AsyncOpenAI, Omit, OpenAIError, omit
except ImportError as error:
    raise ImportError("OpenAIClient needs the openai library: pip install 'onion-agent-runtime[openai]'") from error

MAX_RETRY_AFTER = 86_400.0  # seconds; a daily quota is the longest window that providers name
DRAIN = 0.1  # seconds for the end of the body after [DONE], so that the connection can be used again
CLOSE = 2.0  # seconds for the connections to close

# What a request has its own fields for, and what would give more than one answer.
RESERVED = frozenset({"messages", "tools", "stream", "stream_options", "n"})
# The codes that are passed on, with the status that they go with; any other word of a provider stays in the cause.
CODES = {
    "content_filter": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "unsupported_parameter": 400,
    "unsupported_value": 400,
}
STATUSES = CODES | {str(status): status for status in range(400, 600)}
# What breaks below the protocol; httpx2 lets the last two through, and the library catches them too.
BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)


class OpenAIClient:
    """An `LLMClient` over the official library, for any server that speaks chat completions. Runs on asyncio and trio.

    `model` is asked unless the request names one. `timeout` bounds, in seconds, connecting and each silence on the wire;
    `max_bytes` bounds one answer. The library's retries and redirects are off.

    A key is bound to its endpoint. Where `base_url` is given nothing comes from the environment: without `api_key` no key
    is sent. Where it is not, endpoint and key are `OPENAI_BASE_URL` and `OPENAI_API_KEY`, or what `api_key` says.

    An open `client` is used as it is, only without retries, and never closed here; it must be over httpx2. Otherwise one
    is opened at the first use and closed by `aclose()` or the last exit of `async with`, which may be entered several
    times; then it may be used again, on another event loop too.
    """

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
    ) -> None:
        if client is not None and (base_url is not None or api_key is not None):
            raise ConfigurationError("an open client brings its own base_url and api_key: pass these, or client=")
        self.model = model
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
        provider = _Provider(client.base_url.netloc.decode("ascii"), str(body["model"]))
        sending = client.chat.completions.with_streaming_response.create(
            model=body["model"], messages=(), extra_body=body, extra_headers=self._headers
        )
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(sending)
            except (OpenAIError, *BROKEN) as error:
                raise provider.translated(error) from error
            received = _Received(provider, response.http_response, self._max_bytes)
            stack.push_async_callback(received.finish)
            answer = _Answer(provider, request.step)
            await (_take_stream if request.stream else _take_whole)(answer, received, request.emit)
            return answer.response()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """The request as JSON; parameters go out as they are."""
        if forbidden := RESERVED.intersection(request.parameters):
            raise ConfigurationError(f"not model parameters, the runtime sets them: {', '.join(sorted(forbidden))}")
        model = request.parameters.get("model") or self.model
        if not model:
            raise ConfigurationError("no model: name one in OpenAIClient(model) or in AgentConfig(model=)")
        messages = [_message(message) for message in request.messages]
        body: dict[str, Any] = {**request.parameters, "model": model, "messages": messages}
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
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


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": repair_text(message.content)}
    if message.tool_calls:
        wire["content"] = wire["content"] or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    elif message.name is not None:
        wire["name"] = message.name
    return wire


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


async def _take_whole(answer: "_Answer", received: "_Received", emit: Emit) -> None:
    pieces: list[bytes] = []
    while piece := await received.read():
        pieces.append(piece)
    answer.take(b"".join(pieces))
    answer.end()


async def _take_stream(answer: "_Answer", received: "_Received", emit: Emit) -> None:
    events = _Events()
    while not answer.done and (piece := await received.read()):
        for data in events.feed(piece):
            for delta in answer.take(data):
                await emit(delta)
    await received.drain()
    for delta in answer.end():
        await emit(delta)


class _Provider:
    """Who is asked for which model; says in our words what it did wrong."""

    def __init__(self, host: str, model: str) -> None:
        self.host = host
        self.model = model

    def translated(self, error: Exception) -> AgentRuntimeError:
        """Our error for one of the library or its transport."""
        if isinstance(error, APIStatusError):
            return self.refusal(error.status_code, (error.code, error.type), error.response.headers)
        if isinstance(error, (APITimeoutError, httpx2.TimeoutException)):
            return CallTimeout(f"the provider at {self.host} was silent for longer than the client's timeout")
        return ProviderUnavailable(f"the provider at {self.host} cannot be reached, or the connection broke")

    def refusal(
        self, status: int, words: tuple[object, ...] = (), headers: Mapping[str, str] | None = None
    ) -> AgentRuntimeError:
        """Our error for an HTTP status; `words` are the provider's own codes, of which only known ones are passed on."""
        code = next((word for word in words if isinstance(word, str) and word in CODES), None)
        details = {"status": status} if code is None else {"status": status, "code": code}
        wait = None if headers is None else _retry_after(headers)
        if status == 429:
            spent = code == "insufficient_quota"
            message = f"the provider at {self.host} {'has no quota left for this key' if spent else 'limits the rate'}"
            return RateLimited(f"{message} (HTTP 429)", details=details, retryable=not spent, retry_after=wait)
        if status in {408, 409} or status >= 500:
            message = f"the provider at {self.host} is unavailable (HTTP {status})"
            return ProviderUnavailable(message, details=details, retry_after=wait)
        return RequestRejected(f"{self._reason(status)} (HTTP {status})", details=details)

    def _reason(self, status: int) -> str:
        if status in {401, 403}:
            return f"the provider at {self.host} refused the API key: check api_key, or OPENAI_API_KEY"
        if status == 404:
            return (
                f"the provider does not know the model {self.model!r}, or {self.host} has another path in its base_url"
            )
        if status < 400:
            return f"the provider at {self.host} redirects, which is not followed: correct base_url"
        return f"the provider at {self.host} refused the request"

    def malformed(self) -> ProviderUnavailable:
        """For an answer that is not one."""
        return ProviderUnavailable(f"the provider at {self.host} sent an answer that makes no sense")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, from 0 to `MAX_RETRY_AFTER`; `None` where the provider does not say, or says nonsense."""
    for name, read in (("retry-after-ms", _milliseconds), ("retry-after", float), ("retry-after", _until)):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            seconds = read(headers[name])
            if not math.isnan(seconds):
                return min(max(seconds, 0.0), MAX_RETRY_AFTER)
    return None


def _milliseconds(text: str) -> float:
    return float(text) / 1000.0


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


class _Received:
    """The bytes of one answer as they come, at most `limit` of them."""

    def __init__(self, provider: _Provider, response: httpx2.Response, limit: int) -> None:
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
            raise ProviderUnavailable(f"the answer of {self._provider.host} is larger than {self._limit} bytes")
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


class _Events:
    """Cuts a stream into the data of its server-sent events (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._rest: list[
            bytes
        ] = []  # of a line whose end has not come: joined once, so that a long one costs its length
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that `piece` completes."""
        if b"\n" not in piece and b"\r" not in piece:
            self._rest.append(piece)
            return
        lines = b"".join([*self._rest, piece]).splitlines(keepends=True)
        # A carriage return may be half of a line end.
        self._rest = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            name, _, value = line.rstrip(b"\r\n").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not name and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Detail(msgspec.Struct):
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Detail | None = None
    completion_tokens_details: _Detail | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolPart(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    """What a choice adds: a piece of a stream, or the whole message. Providers have two names for reasoning."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolPart] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: _Error | str | None = None


class _PartialCall:
    """A tool call on its way."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def finished(self) -> FunctionCall:
        arguments = repair_text("".join(self.arguments))
        return FunctionCall(id=repair_text(self.id), name=repair_text(self.name), arguments=arguments or "{}")


class _Answer:
    """Puts an answer together from its chunks; a whole answer is one chunk. `done` after the stream's end mark."""

    def __init__(self, provider: _Provider, step: int) -> None:
        self.done = False
        self._provider = provider
        self._step = step
        self._text: list[str] = []
        self._text_delta = DeltaText()
        self._reasoning_delta = DeltaText()
        self._calls: list[_PartialCall] = []
        self._open_calls: dict[int | None, _PartialCall] = {}
        self._usage = _Usage()
        self._model: str | None = None
        self._finish = ""

    def take(self, data: bytes) -> list[TextDelta | ReasoningDelta]:
        """What the chunk `data` adds for a reader; raises when it is not a chunk, or the provider's error."""
        if self.done or data == b"[DONE]":
            self.done = True
            return []
        try:
            # `json`, because msgspec refuses the lone surrogates of an emoji that was cut in two.
            chunk = msgspec.convert(json.loads(data), _Chunk)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise self._provider.malformed() from error
        if chunk.error is not None:
            raise self._reported(chunk.error)
        self._usage = chunk.usage or self._usage
        self._model = chunk.model or self._model
        return [delta for choice in chunk.choices or () if choice.index == 0 for delta in self._chosen(choice)]

    def _reported(self, error: _Error | str) -> AgentRuntimeError:
        """For an error in the place of a chunk; vLLM and OpenRouter give the HTTP status that it would have had."""
        words = (error.code, error.type) if isinstance(error, _Error) else ()
        status = next((STATUSES[str(word)] for word in words if str(word) in STATUSES), None)
        if status is not None:
            return self._provider.refusal(status, words)
        return ProviderUnavailable(f"the provider at {self._provider.host} sent an error in the place of an answer")

    def _chosen(self, choice: _Choice) -> Iterator[TextDelta | ReasoningDelta]:
        self._finish = choice.finish_reason or self._finish
        delta = choice.delta or choice.message or _Delta()
        for part in delta.tool_calls or ():
            self._take_call(part)
        yield from self._reasoned(self._reasoning_delta.feed(delta.reasoning_content or delta.reasoning or ""))
        yield from self._said(self._text_delta.feed(delta.content or delta.refusal or ""))

    def _said(self, text: str) -> Iterator[TextDelta]:
        if text:
            self._text.append(text)
            yield TextDelta(text=text, step=self._step)

    def _reasoned(self, text: str) -> Iterator[ReasoningDelta]:
        if text:
            yield ReasoningDelta(text=text, step=self._step)

    def _take_call(self, part: _ToolPart) -> None:
        """Add a fragment to its call. Another id begins another call: not every provider counts the index."""
        call = self._open_calls.get(part.index)
        if call is None or (part.id and call.id and part.id != call.id):
            call = self._open_calls[part.index] = _PartialCall()
            self._calls.append(call)
        function = part.function or _Function()
        call.id = call.id or part.id or ""
        call.name = call.name or function.name or ""
        call.arguments.append(function.arguments or "")

    def end(self) -> list[TextDelta | ReasoningDelta]:
        """What was held back. Raises when the answer broke off: without a finish reason it is not an answer."""
        if not self._finish:
            raise ProviderUnavailable(f"the stream of {self._provider.host} ended early")
        if not all(call.id and call.name for call in self._calls):
            raise self._provider.malformed()
        return [*self._reasoned(self._reasoning_delta.flush()), *self._said(self._text_delta.flush())]

    def response(self) -> ModelResponse:
        """The whole, once it has ended."""
        calls = tuple(call.finished() for call in self._calls)
        return ModelResponse(
            message=Message(role="assistant", content="".join(self._text), tool_calls=calls),
            usage=_usage(self._usage),
            finish_reason=repair_text(self._finish),
            model=repair_text(self._model or self._provider.model),
        )


def _usage(usage: _Usage) -> Usage:
    read = usage.prompt_tokens_details or _Detail()
    written = usage.completion_tokens_details or _Detail()
    return Usage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=read.cached_tokens or 0,
        reasoning_tokens=written.reasoning_tokens or 0,
        requests=1,
    )
