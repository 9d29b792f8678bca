"""The demo's agent: it answers questions about a folder of Markdown, inside seven layers."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import anyio
from opentelemetry.trace import TracerProvider
from pydantic import Field

from agent_runtime import AgentConfig, AgentExecutor, EventBus, LLMClient, NotFound, Secret, Tool, tool
from agent_runtime_adapters.cli import late
from agent_runtime_adapters.cli.library import Library
from agent_runtime_middleware.auth import ApiKeyRecord, ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.telemetry import TracingMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

PROMPT = (
    "You answer questions about a folder of documents. Search it first, read the passages that fit, and answer from them "
    "only, in a few sentences in plain text. Name the file and line of what you use as file:line. When the documents do "
    "not answer the question, say so."
)
_EXCERPT = 200  # characters

Tell = Callable[..., None]
"""Takes the name of a tool and what it is asked, for whoever watches."""


def assistant(
    client: LLMClient,
    tools: list[Tool],
    *,
    records: Mapping[str, ApiKeyRecord],
    write: Callable[[LogRecord], None],
    event_bus: EventBus | None = None,
    run_timeout: float = 120.0,
    requests: int = 100,
    traces: TracerProvider | None = None,
) -> AgentExecutor:
    """The agent inside seven layers, in the order in which `lint` finds nothing; `requests` in an hour are admitted."""
    return AgentExecutor(
        config=AgentConfig(name="docs", system_prompt=PROMPT, timeout=run_timeout + 1),
        llm_client=client,
        tools=tools,
        middleware=[
            TracingMiddleware(traces),
            LoggingMiddleware(write),
            AuthMiddleware(ApiKeys(records)),
            RateLimitMiddleware([Quota(requests=requests, per=3600)]),
            CacheMiddleware(stage="run"),
            RetryMiddleware(attempts=3),
            TimeoutMiddleware(run=run_timeout, model=60, tool=10),
        ],
        event_bus=event_bus,
        strict=True,
        shutdown_grace=1.0,
    )


def demo_key() -> tuple[Secret, Mapping[str, ApiKeyRecord]]:
    """An API key made for this run, and the records that the Auth layer knows."""
    key, record = ApiKeys.generate("demo")
    return key, {record.prefix: record}


def document_tools(library: Library, tell: Tell) -> list[Tool]:
    """`search` and `read` over `library`."""
    index = late.passage_index()(library.passages)

    @tool(kind="pure")
    async def search(query: str, limit: Annotated[int, Field(ge=1, le=20)] = 5) -> list[dict[str, Any]]:
        """Find the passages that fit a query best.

        Args:
            query: Words to look for.
            limit: How many passages at most.
        """
        tell("search", query)
        return [
            {
                "file": passage.file,
                "line": passage.line,
                "lines": len(passage.text),
                "heading": passage.heading,
                "score": round(score, 2),
                "excerpt": " ".join(" ".join(passage.text).split())[:_EXCERPT],
            }
            for passage, score in index.best(query, limit)
        ]

    @tool(kind="pure")
    async def read(
        file: str, start_line: Annotated[int, Field(ge=1)] = 1, lines: Annotated[int, Field(ge=1, le=400)] = 40
    ) -> str:
        """Read lines of a document.

        Args:
            file: A path inside the folder, as search gives it.
            start_line: The first line, from 1.
            lines: How many lines at most.
        """
        tell("read", f"{file}:{start_line}")
        known = library.files.get(file)
        if known is None:
            # Only what was read from the folder at the start can be read here: no path leads out of it.
            raise NotFound(f"there is no document {file!r} in the folder; use a path that search gives")
        if start_line > len(known):
            raise NotFound(f"{file} has {len(known)} lines")
        return "\n".join(known[start_line - 1 : start_line - 1 + lines])

    return [search, read]


def hanging_search(seconds: float) -> Tool:
    """A `search` that does not answer, as over a broken connection."""

    @tool(kind="pure")
    async def search(query: str) -> str:
        """Find the passages that fit a query best."""
        await anyio.sleep(seconds)
        return "[]"

    return search
