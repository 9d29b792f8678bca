"""Secrets in twelve places, over runs that go well and badly: none is found in what the runtime tells (RELIABILITY S5).

Each place has a canary of its own. What is told is: log records with their tracebacks, `LogRecord`s, events, spans,
metrics, standard output and error, the words and details of failures, and the `repr` of everything that a layer sees. The
session's store holds the conversation and the run's metadata, which is its purpose, and none of the others.
"""

import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import anyio
import msgspec
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from tests.spans import Recorder, told

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    EventBus,
    EventType,
    Message,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Secret,
    SessionManager,
    StateKey,
    StreamEvent,
    SystemEvent,
    TextDelta,
    Tool,
    ToolCall,
    ToolFailed,
    ToolResult,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_adapters.openai import OpenAIClient
from agent_runtime_adapters.sqlite import SQLiteSessionStore
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.single_flight import SingleFlightMiddleware
from agent_runtime_middleware.telemetry import MetricsMiddleware, TracingMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware
from agent_runtime_middleware.validation import ValidationMiddleware

ROUNDS = 12 if os.environ.get("AGENT_RUNTIME_SOAK") == "1" else 1

KEY, RECORD = ApiKeys.generate("ann")
CANARIES = {
    "task": "canary-task-9f1c",
    "system prompt": "canary-system-9f1c",
    "history": "canary-history-9f1c",
    "tool argument": "canary-argument-9f1c",
    "tool result": "canary-result-9f1c",
    "answer": "canary-answer-9f1c",
    "metadata": "canary-metadata-9f1c",
    "credential": KEY.reveal(),
    "exception": "canary-exception-9f1c",
    "client key": "canary-key-9f1c",
    "state": "canary-state-9f1c",
    "cause": "canary-cause-9f1c",
}
# What a session is for, and what a run needs to go on.
KEPT = {"task", "history", "tool argument", "tool result", "answer", "metadata"}
NOTE = StateKey[str]("note")


class Model:
    """A provider with a key, whose library puts it into its errors."""

    def __init__(self, happening: str) -> None:
        self.api_key = CANARIES["client key"]
        self.happening = happening
        self.seen: list[str] = []

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        self.seen += [message.content for message in request.messages]
        if self.happening.startswith("model") and request.step == 1:
            if request.stream:
                await request.emit(TextDelta(text=CANARIES["answer"], step=request.step))
            self._fail()
        if self.happening == "silent model" and request.step == 1:
            await anyio.sleep(60)
        if request.step == 0:
            wanted = (("search", {"q": CANARIES["tool argument"]}), ("search", {"wrong": CANARIES["tool argument"]}))
            return ScriptedReply(tool_calls=wanted).response(1)
        if request.stream:
            await request.emit(TextDelta(text=CANARIES["answer"], step=request.step))
        return ModelResponse.of(CANARIES["answer"], model="m")

    def _fail(self) -> NoReturn:
        address = f"https://provider.example/v1?key={self.api_key}"
        if self.happening == "model has a bug":
            raise KeyError(CANARIES["exception"])
        refused = ConnectionError(f"{CANARIES['exception']} at {address}")
        refused.__cause__ = OSError(CANARIES["cause"])
        raise ProviderUnavailable("the provider is down") from refused


class Looks(BaseMiddleware):
    """Writes down the `repr` of all that a layer sees, and puts a canary into the run's state."""

    def __init__(self, happening: str) -> None:
        self.happening = happening
        self.seen: list[str] = []

    def note(self, *things: object) -> None:
        self.seen += [repr(thing) for thing in things]

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        context.run.state[NOTE] = CANARIES["state"]
        if self.happening == "layer has a bug":
            raise ValueError(CANARIES["exception"]) from OSError(CANARIES["cause"])
        result = await call_next(context)
        self.note(
            context, context.run, context.run.state, context.credential, context.messages, result, result.messages
        )
        return result

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        response = await call_next(request)
        self.note(request, request.messages, request.client, response, response.message, response.message.tool_calls)
        return response

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        result = await call_next(call)
        self.note(call, call.context, call.function, result)
        return result


def search_tool(happening: str) -> Tool:
    @tool(kind="pure")
    async def search(q: str) -> str:
        assert q == CANARIES["tool argument"]
        if happening == "tool has a bug":
            raise RuntimeError(CANARIES["exception"]) from OSError(CANARIES["cause"])
        if happening == "tool fails":
            raise ToolFailed("sold out") from OSError(CANARIES["cause"])
        return CANARIES["tool result"]

    return search


class Watched:
    """One executor with every layer, and all that it tells."""

    def __init__(self, happening: str, sessions: SessionManager | None, client: Any = None) -> None:
        self.records: list[LogRecord] = []
        self.recorder = Recorder()
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.metrics = MetricsMiddleware(self.meters)
        self.bus = EventBus()
        self.looks = Looks(happening)
        self.model = Model(happening)
        self.told: list[str] = []
        config = AgentConfig(
            name="shop", model="m", system_prompt=CANARIES["system prompt"], temperature=0.5, max_steps=5
        )
        self.executor = AgentExecutor(
            config=config,
            llm_client=client or self.model,
            tools=[search_tool(happening)],
            event_bus=self.bus,
            session_manager=sessions,
            middleware=[
                TracingMiddleware(self.recorder.provider),
                self.metrics,
                LoggingMiddleware(self.records.append).named("to a list"),
                LoggingMiddleware(),
                AuthMiddleware(ApiKeys({RECORD.prefix: RECORD})),
                ValidationMiddleware(),
                RateLimitMiddleware([Quota(requests=1_000_000, per=60)]),
                CacheMiddleware(),
                SingleFlightMiddleware(),
                RetryMiddleware(attempts=2, delay=0),
                TimeoutMiddleware(run=5, model=0.2 if happening == "silent model" else 5),
                self.looks,
            ],
        )

    async def hear(self, event: SystemEvent) -> None:
        self.told += [repr(event), msgspec.json.encode(event).decode()]

    async def fail_to_hear(self, event: SystemEvent) -> None:
        raise RuntimeError(CANARIES["exception"])

    async def run(self, form: "Form", context: AgentContext) -> None:
        async with self.executor:
            for handler in (self.hear, self.metrics.count):
                await self.bus.subscribe(EventType.ANY, handler)
            await self.bus.subscribe(EventType.AGENT_STARTED, self.fail_to_hear)
            try:
                await form(self, context)
            except AgentRuntimeError as error:
                self.told += [repr(error), str(error), json.dumps(dict(error.details))]
            except (KeyError, RuntimeError, ValueError) as error:
                assert error.args == (CANARIES["exception"],)  # a bug leaves as it is
            await self.bus.drain()
        self.told += [repr(self.executor), repr(self.executor.runs), repr(self.bus)]

    def note(self, result: AgentResult) -> None:
        self.told += [repr(result), repr(result.to_record()), str(result.error), json.dumps(dict(result.error_details))]
        if isinstance(result.exception, AgentRuntimeError):
            self.told.append(repr(result.exception))

    def all_told(self) -> Iterator[str]:
        yield from self.told
        yield from self.looks.seen
        for record in self.records:
            yield f"{record}{record!r}{record.fields()}"
        for span in self.recorder.spans:
            yield told(span)
        data = self.reader.get_metrics_data()
        assert data is not None
        yield data.to_json()


async def plainly(watched: Watched, context: AgentContext) -> None:
    watched.note(await watched.executor.execute(context))


async def raising(watched: Watched, context: AgentContext) -> None:
    watched.note(await watched.executor.execute(context, raise_on_error=True))


async def streamed(watched: Watched, context: AgentContext) -> None:
    async with watched.executor.stream(context) as stream:
        async for event in stream:
            watched.told.append(repr(event))
    watched.note(stream.result)


async def broken_off(watched: Watched, context: AgentContext) -> None:
    async with watched.executor.stream(context) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break


async def into_a_sink_that_fails(watched: Watched, context: AgentContext) -> None:
    async def send(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            raise OSError(CANARIES["exception"])

    watched.note(await watched.executor.execute(context, emit=send))


async def cancelled(watched: Watched, context: AgentContext) -> None:
    with anyio.CancelScope() as scope:

        async def send(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                scope.cancel()

        watched.note(await watched.executor.execute(context, emit=send))


async def in_a_batch(watched: Watched, context: AgentContext) -> None:
    for result in await watched.executor.execute_batch([context] * 2):
        watched.note(result)


Form = Callable[[Watched, AgentContext], Awaitable[None]]
FORMS: list[Form] = [plainly, raising, streamed, broken_off, into_a_sink_that_fails, cancelled, in_a_batch]
HAPPENINGS = [
    "nothing",
    "model fails",
    "model has a bug",
    "silent model",
    "tool fails",
    "tool has a bug",
    "layer has a bug",
]
ASKED = AgentContext(
    current_task=CANARIES["task"],
    messages=(Message(role="user", content=CANARIES["history"]),),
    metadata={"note": CANARIES["metadata"]},
    credential=KEY,
)


def leaks(texts: Iterator[str]) -> set[str]:
    """The places whose canary is in one of `texts`."""
    return {place for text in texts for place, canary in CANARIES.items() if canary in text}


def logged(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Log records as a formatter writes them, with tracebacks and all that was attached."""
    for record in caplog.records:
        yield logging.Formatter().format(record)
        yield repr(record.__dict__)


def stored(folder: Path) -> Iterator[str]:
    """All files of a store, as they are."""
    return (file.read_bytes().decode(errors="replace") for file in folder.iterdir())


@pytest.mark.parametrize("happening", HAPPENINGS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_s5_no_canary_is_told(
    form: Form,
    happening: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "sessions.db"
    for n in range(ROUNDS):
        async with SQLiteSessionStore(file) as store:
            watched = Watched(happening, SessionManager(store))
            await watched.run(form, ASKED.replace(session_id=f"s{n}"))
        assert leaks(watched.all_told()) == set()
        if happening != "layer has a bug":
            assert {CANARIES["task"], CANARIES["system prompt"], CANARIES["history"]} <= set(watched.model.seen)
        assert {record.event for record in watched.records} and watched.recorder.spans and watched.told
    assert leaks(logged(caplog)) == set() and caplog.records
    assert leaks(iter(capfd.readouterr())) == set()
    assert leaks(stored(tmp_path)) <= KEPT


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_s5_a_refused_credential_is_not_told(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    forged = f"{KEY.reveal()[:-4]}AAAA"
    watched = Watched("nothing", None)
    with suppress(AgentRuntimeError):
        await watched.run(form, ASKED.replace(credential=Secret(forged)))
    assert watched.model.seen == [] and watched.recorder.spans
    texts = [*watched.all_told(), *logged(caplog)]
    assert leaks(iter(texts)) == set() and not any(forged in text for text in texts)


@pytest.mark.parametrize("form", [plainly, streamed], ids=lambda form: form.__name__)
async def test_s5_the_key_of_a_real_client_whose_server_is_not_there(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = OpenAIClient("m", base_url="http://127.0.0.1:9/v1", api_key=CANARIES["client key"])
    watched = Watched("nothing", None, client=client)
    await watched.run(form, ASKED)
    texts = [*watched.all_told(), *logged(caplog), repr(client)]
    assert leaks(iter(texts)) == set()
    assert any("provider" in text for text in texts)


async def test_a_canary_that_is_told_is_found() -> None:
    watched = Watched("nothing", None)
    watched.executor = AgentExecutor(
        config=AgentConfig(name="shop"),
        llm_client=ScriptedLLMClient([CANARIES["answer"]]),
        middleware=[TracingMiddleware(watched.recorder.provider, content=True), watched.metrics],
        event_bus=watched.bus,
    )
    await watched.run(plainly, AgentContext(user_id="ann", current_task=CANARIES["task"]))
    assert leaks(watched.all_told()) == {"task", "answer"}
