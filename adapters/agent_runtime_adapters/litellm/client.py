"""The client: what it sends through litellm, and how long it waits."""

import asyncio
import os
from collections.abc import Awaitable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel

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
from agent_runtime_adapters.litellm.library import Stream, load_library
from agent_runtime_adapters.litellm.provider import Provider
from agent_runtime_adapters.litellm.wire import Answer, last_usage

T = TypeVar("T")

CLOSE = 2.0  # seconds for the connection of a stream to close
PATIENCE = 0.5  # seconds for litellm to notice itself that the timeout has passed
# What a request has its own fields for, what would give more than one answer, and what would ask somebody else.
RESERVED = frozenset(
    {"messages", "tools", "stream", "stream_options", "n", "client", "timeout", "api_key", "api_base", "base_url"}
    | {"custom_llm_provider", "fallbacks", "context_window_fallback_dict"}
)
# Retries are a layer here, and so is the cache. Without the first, litellm asks twice more; without the second, its client.
OFF: Mapping[str, object] = MappingProxyType(
    {"num_retries": 0, "max_retries": 0, "retry_policy": None, "caching": False}
)
# In the words of OpenTelemetry, where litellm has others.
PROVIDER_NAMES = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "xai": "x_ai",
}
# litellm puts a reason to finish on every piece of their streams, or makes one up at the end: nobody can tell one that broke
# off. So they are asked for the whole answer, which cannot be cut without notice.
NOT_STREAMED = frozenset({"gemini", "vertex_ai", "vertex_ai_beta", "petals", "nlp_cloud"})
# They sign the request with what the environment holds, and no secret leaves.
SIGNING = frozenset({"bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai", "vertex_ai_beta"})


class LiteLLMClient:
    """An `LLMClient` over litellm: `model` is its name there, such as `"anthropic/claude-sonnet-4-5"`. Needs asyncio.

    Making the first one imports litellm, which takes seconds: make it when the program starts. litellm's retries, cache,
    look-ups and log lines are off. `timeout` bounds, in seconds, a plain call, and in a stream the wait for each piece;
    `max_bytes` bounds the text of one answer. A request may name another model of the same provider. `options` go with every call,
    such as `api_version`; a `Secret` among them is revealed to litellm only.

    The schema of an agent's output type goes along as `response_format` where litellm knows that the model takes one.

    A key is bound to its endpoint. Where `base_url` is given, no key of the environment is sent: without `api_key` it is
    the word `none`. Where it is not, the provider's variables in the environment count, as litellm documents them.

    litellm keeps the connections, for all its users in one event loop. After `async with`, which may be entered several
    times, those are closed that were opened meanwhile, when the last of these clients has left it in this event loop.

    Raises `ConfigurationError` for a model that litellm has no provider for, and `ImportError` without the extra.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: Secret | str | None = None,
        base_url: str | None = None,
        timeout: float = 60.0,
        max_bytes: int = 64 << 20,
        **options: object,
    ) -> None:
        _refuse_reserved(options)
        self.model = model
        self._library = load_library()
        self._base_url = base_url
        self._provider = self._provider_of(model)
        self.provider = PROVIDER_NAMES.get(self._provider, self._provider)
        self._key = api_key if isinstance(api_key, Secret) or api_key is None else Secret(api_key)
        if base_url is not None:
            _check_endpoint(base_url)
            if self._key is None and self._provider not in SIGNING:
                self._key = Secret("none")
        if self._key is not None and not _fits_header(self._key.reveal()):
            raise ConfigurationError("the API key is empty, or holds what no header can carry: a line end at its end?")
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._options = options

    @property
    def identity(self) -> str:
        """Tells its answers from those of another model or endpoint; holds no secret."""
        if self._base_url is None:
            return f"litellm:{self.model}"
        url = urlsplit(self._base_url)
        return f"litellm:{self.model}@{url.netloc.rpartition('@')[2]}{url.path}"

    def __repr__(self) -> str:
        return f"LiteLLMClient({self.model!r})"

    async def __aenter__(self) -> Self:
        self._library.connections.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(CLOSE, shield=True):
            await self._library.connections.leave()

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """Return the whole answer; where `request.stream` is true, also push it in pieces through `request.emit`.

        Some providers' streams cannot be trusted, as litellm reads them: Gemini's, Vertex AI's. From them it does not stream.

        Raises `RequestRejected`, `RateLimited`, `CallTimeout` or `ProviderUnavailable`, litellm's error as the cause; a
        stream that ends early or makes no sense is `ProviderUnavailable` too. Cancellation ends the upstream call.
        """
        waiting = Waiting(self._timeout)
        body = self._body(request)
        provider = Provider(self._library, self._provider, str(body["model"]))
        answer = Answer(provider, step=request.step, max_bytes=self._max_bytes)
        received = await waiting.for_(self._library.acompletion(**body), provider)
        if "stream" in body:
            await take_stream(answer, received, request.emit, waiting, provider)
        else:
            await waiting.check()
            take_whole(answer, received)
        return answer.response()

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        """What litellm is called with; parameters go out as they are."""
        _refuse_reserved(request.parameters)
        body: dict[str, Any] = {name: _revealed(value) for name, value in self._options.items()}
        body |= {"model": self.model, **request.parameters}
        if body["model"] != self.model and self._provider_of(str(body["model"])) != self._provider:
            raise ConfigurationError(
                f"the request names a model that {self._provider} does not have: make another client"
            )
        body |= {**OFF, "messages": [chat_message(message) for message in request.messages], "timeout": self._timeout}
        body |= {"api_key": _revealed(self._key), "api_base": self._base_url}
        if request.tools:
            body["tools"] = [chat_tool(tool) for tool in request.tools]
        format = None if request.output_schema is None else chat_response_format(request.output_schema)
        if format is not None and self._takes_schema(str(body["model"])):
            body.setdefault("response_format", format)
        if request.stream and self._provider not in NOT_STREAMED:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def _takes_schema(self, model: str) -> bool:
        return self._library.supports_response_schema(model=model, custom_llm_provider=self._provider)

    def _provider_of(self, model: str) -> str:
        try:
            return self._library.get_llm_provider(model=model, api_base=self._base_url)[1]
        except self._library.errors as error:
            raise ConfigurationError(
                f"litellm knows no provider for the model {model!r}: write provider/model"
            ) from error


class Waiting:
    """Waits for litellm in one call, and translates what it raises.

    Not with every provider litellm keeps to a timeout, so there is one around it. And a library may lose a cancellation
    that came as it handled an error, and then answer: that is made up for. Needs asyncio, and says so.
    """

    def __init__(self, timeout: float) -> None:
        self._patience = timeout + PATIENCE
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is None:
            raise ConfigurationError("litellm runs on asyncio only: use it there, or another client on trio")
        self._task = task
        self._cancelled_before = task.cancelling()

    async def for_(self, call: Awaitable[T], provider: Provider) -> T:
        """The result of `call`; the caller checks then, when it holds what is to be closed."""
        failed: Exception | None = None
        with anyio.move_on_after(self._patience):
            try:
                return await call
            except provider.library.errors as error:
                failed = error
        await self.check()
        raise (provider.silent() if failed is None else provider.translated(failed)) from failed

    async def check(self) -> None:
        """End the call if it was cancelled, and nobody has said so."""
        if self._task.cancelling() > self._cancelled_before:
            await anyio.lowlevel.checkpoint()  # a scope says it itself
            raise asyncio.CancelledError


def take_whole(answer: Answer, received: Any) -> None:
    """A whole answer. litellm makes `stop` of a missing reason to finish; but then nothing was cut off, it is JSON."""
    answer.take(received)
    answer.finish("stop", getattr(received, "usage", None))


async def take_stream(answer: Answer, stream: Stream, emit: Emit, waiting: Waiting, provider: Provider) -> None:
    try:
        while (chunk := await waiting.for_(anext(stream, None), provider)) is not None:
            await waiting.check()
            for delta in answer.take(chunk):
                await emit(delta)
        told = stream.received_finish_reason or stream.intermittent_finish_reason
        for delta in answer.finish(told, last_usage(stream.chunks)):
            await emit(delta)
    finally:
        with anyio.move_on_after(CLOSE, shield=True):
            await stream.aclose()


def _refuse_reserved(names: Iterable[str]) -> None:
    if forbidden := RESERVED.union(OFF).intersection(names):
        raise ConfigurationError(
            f"neither parameters nor options, the client sets them: {', '.join(sorted(forbidden))}"
        )


def _revealed(value: object) -> object:
    return value.reveal() if isinstance(value, Secret) else value


def _check_endpoint(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
    except ValueError as error:
        raise ConfigurationError("base_url is not a URL") from error
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ConfigurationError("base_url must start with http:// or https://")
    if "OPENAI_CUSTOM_HEADERS" in os.environ:
        raise ConfigurationError(
            "OPENAI_CUSTOM_HEADERS would go to this base_url too: unset it, and pass extra_headers="
        )


def _fits_header(key: str) -> bool:
    return bool(key) and key.isascii() and key.isprintable()
