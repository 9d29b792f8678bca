"""LoggingMiddleware: what is in a record, what never is, and what a bad writer can do."""

import io
import logging
from collections.abc import Generator, Iterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ErrorType,
    Layer,
    MemorySessionStore,
    MiddlewarePipeline,
    ModelRequest,
    PermissionDenied,
    Principal,
    ProviderUnavailable,
    Secret,
    SessionManager,
    Stage,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
    reaches,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.cache import CacheMiddleware
from agent_runtime_middleware.logging import LoggerWriter, LoggingMiddleware, LogRecord

CANARY = "canary-4711"
EVIL = 'a\r\nlevel=error\x1b[2Jfake\u2028line\u202egnp.exe\x00\ud800 " = \\'


ASKED = AgentContext(agent_id="a", user_id="u", current_task=f"hi {CANARY}")


class Caller:
    """An agent of one tool call and one model call."""

    stages = ("model", "tool")

    def __init__(self, client: ScriptedLLMClient, tool_result: ToolResult | Exception | None = None) -> None:
        self.client = client
        self.tool_result = tool_result or ToolResult(content=CANARY)

    async def run(self, context: AgentContext) -> str:
        await context.call_tool(ToolCall(id="1", name="search", arguments={"q": CANARY}), self.search)
        return (await context.call_model(ModelRequest(messages=(), step=4), self.client)).text

    async def search(self, call: ToolCall) -> ToolResult:
        if isinstance(self.tool_result, Exception):
            raise self.tool_result
        return self.tool_result


def scripted(reply: ScriptedReply | Exception | None = None) -> ScriptedLLMClient:
    usage = Usage(input_tokens=7, output_tokens=5)
    return ScriptedLLMClient([reply or ScriptedReply(text=f"answer {CANARY}", usage=usage)], repeat=True)


def around(agent: Caller, records: list[LogRecord], *inside: Layer, bodies: bool = False) -> AgentExecutor:
    layer = LoggingMiddleware(records.append, bodies=bodies)
    return AgentExecutor(agent, agent_id="a", middleware=[layer, *inside])


def outcomes(records: list[LogRecord]) -> list[tuple[object, ...]]:
    return [(r.event, r.stage, r.outcome, r.level, r.error_type, r.error) for r in records]


async def test_one_record_per_call_and_run_in_the_order_in_which_they_end() -> None:
    records: list[LogRecord] = []
    asked = ASKED.replace(session_id="s1", tenant_id="t1")
    result = await around(Caller(scripted()), records).execute(asked)
    assert outcomes(records) == [
        ("tool_call", Stage.TOOL, "success", logging.INFO, None, None),
        ("model_call", Stage.MODEL, "success", logging.INFO, None, None),
        ("agent_run", Stage.RUN, "success", logging.INFO, None, None),
    ]
    tool, model, run = records
    for record in records:
        assert (record.run_id, record.agent_id, record.session_id) == (result.run_id, "a", "s1")
        assert (record.user_id, record.tenant_id, record.trace_id) == ("u", "t1", None)
        assert 0 <= record.duration_ms < 10_000
    assert (tool.tool, model.tool, run.tool) == ("search", None, None)
    assert (model.step, model.attempt, model.model) == (4, 1, "scripted")
    assert (model.input_tokens, model.output_tokens) == (7, 5)
    assert (run.attempts, run.input_tokens, run.output_tokens) == (1, 7, 5)


async def test_the_user_is_the_principal_as_soon_as_there_is_one() -> None:
    class Admits(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            context.run.authenticated(Principal(subject="alice", tenant="acme"))
            context.run.trace_id = "trace"
            return await call_next(context.replace(user_id="alice", tenant_id="acme"))

    records: list[LogRecord] = []
    await around(Caller(scripted()), records, Admits()).execute(ASKED.replace(user_id="alice"))
    assert {(r.user_id, r.tenant_id, r.trace_id) for r in records} == {("alice", "acme", "trace")}


class Refuses(BaseMiddleware):
    """Raises before the agent."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        raise self.error


async def test_a_failure_that_the_runtime_knows_is_a_warning() -> None:
    records: list[LogRecord] = []
    await around(Caller(scripted()), records, Refuses(PermissionDenied("not you"))).execute(ASKED)
    assert outcomes(records) == [
        ("agent_run", Stage.RUN, "failure", logging.WARNING, ErrorType.AUTHORIZATION, "not you")
    ]


async def test_a_bug_is_an_error_and_its_words_are_not_written() -> None:
    records: list[LogRecord] = []
    with pytest.raises(KeyError):
        await around(Caller(scripted()), records, Refuses(KeyError(CANARY))).execute(ASKED)
    assert outcomes(records) == [
        ("agent_run", Stage.RUN, "failure", logging.ERROR, ErrorType.INTERNAL, "internal error (KeyError)")
    ]


async def test_a_failed_model_call_is_seen_with_its_place() -> None:
    records: list[LogRecord] = []
    await around(Caller(scripted(ProviderUnavailable("down"))), records).execute(ASKED)
    model, run = records[1:]
    failure = ("failure", logging.WARNING, ErrorType.PROVIDER, "down")
    assert outcomes([model, run]) == [("model_call", Stage.MODEL, *failure), ("agent_run", Stage.RUN, *failure)]
    assert (model.step, model.attempt, model.model, model.input_tokens) == (4, 1, None, None)


@pytest.mark.parametrize(
    ("result", "level", "error_type"),
    [
        (ToolResult(content=CANARY, is_error=True), logging.WARNING, ErrorType.TOOL),
        (ValueError(CANARY), logging.ERROR, ErrorType.INTERNAL),
    ],
)
async def test_a_failed_tool_call_is_seen(result: ToolResult | Exception, level: int, error_type: ErrorType) -> None:
    records: list[LogRecord] = []
    try:
        await around(Caller(scripted(), result), records).execute(ASKED)
    except ValueError:
        assert isinstance(result, ValueError)
    tool = records[0]
    assert (tool.outcome, tool.level, tool.error_type, tool.tool) == ("failure", level, error_type, "search")
    assert CANARY not in str(tool)


async def test_a_layer_that_answers_with_a_failure_is_not_logged_as_success() -> None:
    class Answers(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return AgentResult(success=False, error="no room", error_type=ErrorType.LIMIT)

    records: list[LogRecord] = []
    await around(Caller(scripted()), records, Answers()).execute(ASKED)
    assert outcomes(records) == [("agent_run", Stage.RUN, "failure", logging.WARNING, ErrorType.LIMIT, "no room")]


async def test_a_run_whose_consumer_is_gone_says_so_as_its_result_does() -> None:
    records: list[LogRecord] = []
    executor = AgentExecutor(
        config=AgentConfig(name="a"),
        llm_client=ScriptedLLMClient([ScriptedReply(chunks=("a", 60.0, "b"))]),
        middleware=[LoggingMiddleware(records.append)],
    )
    async with executor.stream(ASKED) as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    gone = ("cancelled", logging.WARNING, ErrorType.CONSUMER_GONE, None)
    assert outcomes(records) == [("model_call", Stage.MODEL, *gone), ("agent_run", Stage.RUN, *gone)]


async def test_a_cancelled_run_is_recorded_at_every_stage_that_it_was_in() -> None:
    records: list[LogRecord] = []
    scope = anyio.CancelScope()

    def give_up(request: ModelRequest) -> ScriptedReply:
        scope.cancel()
        return ScriptedReply(delay=60)

    with scope:
        await around(Caller(ScriptedLLMClient([give_up])), records).execute(ASKED)
    cancelled = ("cancelled", logging.WARNING, ErrorType.CANCELLED, None)
    assert outcomes(records[1:]) == [("model_call", Stage.MODEL, *cancelled), ("agent_run", Stage.RUN, *cancelled)]


async def test_a_run_that_its_deadline_ended_is_recorded_as_a_timeout() -> None:
    records: list[LogRecord] = []
    executor = around(Caller(scripted(ScriptedReply(delay=60))), records)
    result = await executor.execute(ASKED.replace(deadline=anyio.current_time() + 0.5))
    assert result.error_type is ErrorType.TIMEOUT
    assert [(r.outcome, r.error_type) for r in records[1:]] == [("cancelled", ErrorType.TIMEOUT)] * 2


def test_a_run_that_is_closed_outside_of_any_event_loop_is_recorded_too() -> None:
    records: list[LogRecord] = []
    seen: list[AgentContext] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context)
        return "done"

    async def waits(context: AgentContext) -> AgentResult:
        await Suspended()
        return AgentResult()

    anyio.run(AgentExecutor(agent, agent_id="a").execute, ASKED)
    run = LoggingMiddleware(records.append).process(seen[0], waits)
    run.send(None)
    run.close()
    assert outcomes(records) == [
        ("agent_run", Stage.RUN, "cancelled", logging.WARNING, ErrorType.CANCELLED, None),
    ]


class Suspended:
    """Something to wait for that needs no event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@pytest.mark.parametrize("fails", [False, True])
async def test_no_task_argument_answer_or_credential_is_written_unless_asked_for(fails: bool) -> None:
    records: list[LogRecord] = []
    reply = RuntimeError(CANARY) if fails else None
    asked = ASKED.replace(credential=Secret(CANARY), metadata={"note": CANARY})
    try:
        await around(Caller(scripted(reply)), records).execute(asked, principal=Principal(subject=asked.user_id))
    except RuntimeError:
        assert fails
    assert len(records) == 3
    assert not any(CANARY in f"{record}{record!r}{record.fields()}" for record in records)


async def test_bodies_are_cut_and_hold_no_credential() -> None:
    records: list[LogRecord] = []
    client = ScriptedLLMClient(["b" * 5_000])
    secret = "secret-0815"
    asked = ASKED.replace(current_task="a" * 5_000).replace(credential=Secret(secret))
    await around(Caller(client), records, bodies=True).execute(asked, principal=Principal(subject=asked.user_id))
    run = records[-1]
    assert (run.task, run.output) == ("a" * 2_000, "b" * 2_000)
    assert not any(secret in f"{record}{record!r}" for record in records)


async def test_a_failed_run_has_its_task_but_no_output() -> None:
    records: list[LogRecord] = []
    layer = Refuses(PermissionDenied("no"))
    await around(Caller(scripted()), records, layer, bodies=True).execute(ASKED.replace(current_task="do it"))
    assert (records[0].task, records[0].output) == ("do it", None)


async def test_a_writer_that_raises_changes_no_result_and_loses_no_record(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write(record: LogRecord) -> None:
        raise OSError(CANARY)

    layer = LoggingMiddleware(write)
    executor = AgentExecutor(Caller(scripted()), agent_id="a", middleware=[layer])
    result = await executor.execute(ASKED)
    assert result.success and layer.lost == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].split()[0] for line in lines] == ["tool_call", "model_call", "agent_run"]
    assert all("OSError" in line and CANARY not in line for line in lines)


async def test_a_writer_that_raises_does_not_hide_the_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(record: LogRecord) -> None:
        raise OSError

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    boom = KeyError("boom")
    layer = LoggingMiddleware(write)
    executor = AgentExecutor(Caller(scripted()), agent_id="a", middleware=[layer, Refuses(boom)])
    with pytest.raises(KeyError) as caught:
        await executor.execute(ASKED)
    assert caught.value is boom and layer.lost == 1


class Picky:
    """A writer that wants errors only."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []

    def wants(self, level: int) -> bool:
        return level >= logging.ERROR

    def __call__(self, record: LogRecord) -> None:
        self.records.append(record)


async def test_a_level_that_the_writer_does_not_want_is_not_built() -> None:
    writer = Picky()
    executor = AgentExecutor(Caller(scripted()), agent_id="a", middleware=[LoggingMiddleware(writer)])
    await executor.execute(ASKED)
    assert writer.records == []
    executor = AgentExecutor(
        Caller(scripted()), agent_id="a", middleware=[LoggingMiddleware(writer), Refuses(KeyError())]
    )
    with pytest.raises(KeyError):
        await executor.execute(ASKED)
    assert [record.event for record in writer.records] == ["agent_run"]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a plain handler on the logger `agent_runtime` writes."""
    logger, stream = logging.getLogger("agent_runtime"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(user_id)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


async def test_by_default_a_run_is_one_line_of_the_standard_logger(stream: io.StringIO) -> None:
    executor = AgentExecutor(Caller(scripted()), agent_id="a", middleware=[LoggingMiddleware()])
    result = await executor.execute(ASKED.replace(user_id="ünal = x"))
    line = stream.getvalue().splitlines()[-1]
    start = "INFO agent_run stage=run outcome=success duration_ms="
    assert line.startswith(start)
    assert line.endswith(
        f' run_id={result.run_id} agent_id=a user_id="ünal = x" attempts=1 input_tokens=7 output_tokens=5 ünal = x'
    )


async def test_no_event_makes_two_lines(stream: io.StringIO) -> None:
    layer = LoggingMiddleware(bodies=True)
    executor = AgentExecutor(Caller(scripted()), agent_id="a", middleware=[layer, Refuses(PermissionDenied(EVIL))])
    await executor.execute(ASKED.replace(current_task=EVIL))
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().rstrip("\n").isprintable()


def record(text: str) -> LogRecord:
    return LogRecord(
        event="agent_run",
        level=logging.INFO,
        stage=Stage.RUN,
        outcome="success",
        duration_ms=1.5,
        run_id="r",
        agent_id=text,
        user_id=text,
        tenant_id=None,
        session_id=None,
        trace_id=None,
    )


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_whatever_a_value_holds_the_text_is_printable_and_no_field_can_be_forged(text: str) -> None:
    line = str(record(text))
    assert line.isprintable()
    plain = str(record("x"))
    assert line.startswith(plain.partition("agent_id=x")[0]) and " user_id=" in line
    assert all(value.isprintable() for value in record(text).fields().values() if isinstance(value, str))


def test_text_that_is_quoted_can_be_read_back() -> None:
    assert str(record('say "hi" \\ bye\n')).endswith(r'user_id="say \"hi\" \\ bye\n"')


def test_a_logger_of_ones_own_and_its_level_are_used(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("mine")
    logger.setLevel(logging.WARNING)
    writer = LoggerWriter(logger)
    assert not writer.wants(logging.INFO) and writer.wants(logging.WARNING)
    with caplog.at_level(logging.INFO, logger="mine"):
        writer(record("a\nb"))
    [written] = caplog.records
    assert (written.name, written.levelno, vars(written)["event"]) == ("mine", logging.INFO, "agent_run")
    assert vars(written)["user_id"] == "a\\nb" and vars(written)["duration_ms"] == 1.5


def test_a_layer_that_refuses_outside_of_it_is_a_finding() -> None:
    layers = [AuthMiddleware(ApiKeys({})), LoggingMiddleware()]
    assert {finding.code for finding in MiddlewarePipeline(layers).lint()} == {"AR008"}
    assert MiddlewarePipeline(reversed(layers)).lint() == []


async def test_a_run_that_waits_for_an_answer_is_no_failure() -> None:
    @reaches(resumable=True)
    async def agent(context: AgentContext) -> str:
        return str(await context.ask("?", key="k"))

    records: list[LogRecord] = []
    executor = AgentExecutor(
        agent, middleware=[LoggingMiddleware(records.append)], session_manager=SessionManager(MemorySessionStore())
    )
    await executor.execute(AgentContext(user_id="ann", session_id="s", current_task="hello"))
    [record] = records
    assert (record.outcome, record.level, record.error_type) == ("suspended", logging.INFO, ErrorType.SUSPENDED)


async def test_a_record_says_who_answered_in_the_agents_place() -> None:
    async def answer_ann(context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context) if context.user_id == "u" else AgentResult(output="closed")

    records: list[LogRecord] = []
    executor = AgentExecutor(
        config=AgentConfig(name="a"),
        llm_client=ScriptedLLMClient(["hi"]),
        middleware=[LoggingMiddleware(records.append), answer_ann, CacheMiddleware()],
    )
    for user in ("u", "u", "ann"):
        await executor.execute(ASKED.replace(user_id=user))
    told = [(record.event, record.served_by, record.cached) for record in records]
    assert told == [
        ("model_call", None, None),
        ("agent_run", None, None),
        ("model_call", None, True),
        ("agent_run", "cache", None),
        ("agent_run", "layer", None),
    ]
    assert "cached=True" in str(records[2]) and records[3].fields()["served_by"] == "cache"
