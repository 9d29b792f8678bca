"""The one place of the command line that imports late: what few commands need, and what takes long to import."""

import importlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agent_runtime_adapters.cli.exits import CommandFailed

if TYPE_CHECKING:
    from agent_runtime_adapters.cli.endpoint import Endpoint
    from agent_runtime_adapters.cli.search import PassageIndex
    from agent_runtime_adapters.cli.spans import Spans
    from agent_runtime_adapters.openai import OpenAIClient


def passage_index() -> "type[PassageIndex]":
    """The search; `CommandFailed` when its library is missing."""
    found: type[PassageIndex] = _late("agent_runtime_adapters.cli.search", extra="cli").PassageIndex
    return found


def openai_client() -> "type[OpenAIClient]":
    """The client for a real model; `CommandFailed` when its library is missing."""
    found: type[OpenAIClient] = _late("agent_runtime_adapters.openai", extra="openai").OpenAIClient
    return found


def endpoint() -> "type[Endpoint]":
    """The question whether a model's endpoint answers; `CommandFailed` when its library is missing."""
    found: type[Endpoint] = _late("agent_runtime_adapters.cli.endpoint", extra="openai").Endpoint
    return found


def spans() -> "type[Spans]":
    """The memory of spans; `CommandFailed` when its library is missing."""
    found: type[Spans] = _late("agent_runtime_adapters.cli.spans", extra="otel").Spans
    return found


def line_editing() -> None:
    """Have `input` edit its line and know the ones before, where this Python can."""
    with suppress(ImportError):
        importlib.import_module("readline")


def _late(module: str, *, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise CommandFailed(
            f"the library {cause.name or module!r} is missing", hint=f"pip install 'onion-agent-runtime[{extra}]'"
        ) from error
