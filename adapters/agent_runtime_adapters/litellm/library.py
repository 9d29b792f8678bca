"""litellm itself: loaded late, because that takes seconds and 160 MB, and made quiet."""

import importlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from agent_runtime_adapters.litellm.connections import Connections

# The tables that come with the library; otherwise it asks a host for them, in part at the first call.
LOCAL = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS")
LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")


class Stream(Protocol):
    """litellm's stream. `received_finish_reason` is the provider's word; the one on a chunk may be litellm's own."""

    received_finish_reason: str | None
    intermittent_finish_reason: str | None
    chunks: list[object]

    async def __anext__(self) -> object: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Library:
    """What is used of litellm, and the exceptions that come out of it."""

    connections: Connections
    acompletion: Callable[..., Awaitable[Any]]
    get_llm_provider: Callable[..., tuple[str, str, str | None, str | None]]
    supports_response_schema: Callable[..., bool]
    cost_per_token: Callable[..., tuple[float, float]]
    errors: tuple[type[Exception], ...]
    timeouts: tuple[type[Exception], ...]
    is_refusal: Callable[[BaseException], bool]
    not_priced: tuple[type[Exception], ...]


@cache
def load_library() -> Library:
    """Import litellm, without its look-ups, prints and log lines. `ImportError` names the extra.

    `LITELLM_LOCAL_…` stay set, because they are read again at the first call of some providers; what the program has set
    itself stays as it is.
    """
    for name in LOCAL:
        os.environ.setdefault(name, "True")
    try:
        litellm = _without_dotenv("litellm")
        openai, httpx = importlib.import_module("openai"), importlib.import_module("httpx")
    except ImportError as error:
        raise ImportError(
            "LiteLLMClient needs the litellm library: pip install 'onion-agent-runtime[litellm]'"
        ) from error
    _quieten(litellm)
    return Library(
        connections=Connections(litellm.in_memory_llm_clients_cache.cache_dict),
        acompletion=litellm.acompletion,
        get_llm_provider=litellm.get_llm_provider,
        supports_response_schema=litellm.supports_response_schema,
        cost_per_token=litellm.cost_per_token,
        errors=(openai.OpenAIError, httpx.HTTPError, httpx.StreamError, litellm.BudgetExceededError),
        timeouts=(openai.APITimeoutError, httpx.TimeoutException, TimeoutError),
        is_refusal=lambda error: (
            type(error) is openai.UnprocessableEntityError or isinstance(error, httpx.HTTPStatusError)
        ),
        not_priced=(litellm.exceptions.ModelNotMappedError, openai.OpenAIError, ValueError),
    )


def _without_dotenv(module: str) -> Any:
    """Import `module`; in its mode DEV, the default, litellm puts the `.env` of the working directory into `os.environ`."""
    chosen = os.environ.get("LITELLM_MODE")
    os.environ["LITELLM_MODE"] = chosen or "PRODUCTION"
    try:
        return importlib.import_module(module)
    finally:
        if chosen is None:
            del os.environ["LITELLM_MODE"]


def _quieten(litellm: Any) -> None:
    litellm.suppress_debug_info = True  # advice on stdout after each error
    litellm.disable_hf_tokenizer_download = True  # to count tokens that a provider did not
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # a model may say the same 100 times
    if "LITELLM_LOG" not in os.environ:
        for name in LOGGERS:  # each has a handler of its own for stderr, and quotes providers
            logging.getLogger(name).setLevel(logging.CRITICAL)
