"""A model that breaks in mid-stream: never text twice, and a restart only where the consumer can take it."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    BaseMiddleware,
    CallNext,
    CallTimeout,
    DeltaText,
    Envelope,
    Layer,
    Limits,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    RateLimited,
    Reset,
    RunCompleted,
    RunFailed,
    RunTimeout,
    StreamEvent,
    TextDelta,
    ToolFailed,
    decode_event,
    encode_event,
    repair_text,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply, hostile_text, no_leaks
from agent_runtime_middleware.retry import RetryMiddleware

ASKED = AgentContext(user_id="ann", current_task="Tell me.")
PIECES = ("On", "ce ", "upon ", "a time.")
WHOLE = "".join(PIECES)


def config(**changes: Any) -> AgentConfig:
    return AgentConfig(name="teller", **changes)


def by_layer(client: ScriptedLLMClient, *outside: Layer) -> AgentExecutor:
    return AgentExecutor(config=config(), llm_client=client, middleware=[*outside, RetryMiddleware(delay=0)])


def by_config(client: ScriptedLLMClient, *outside: Layer) -> AgentExecutor:
    return AgentExecutor(config=config(retry_delay=0), llm_client=client, middleware=outside)


Build = Callable[..., AgentExecutor]
owners_of_retry = pytest.mark.parametrize("build", [by_layer, by_config])


def breaks_after(count: int) -> ScriptedReply:
    return ScriptedReply(chunks=(*PIECES[:count], ProviderUnavailable("broke")))


def shown(events: Sequence[StreamEvent]) -> str:
    """What a reader has on the screen at the end: deltas, without those that a `Reset` took back."""
    pieces: list[TextDelta] = []
    for event in events:
        if isinstance(event, TextDelta):
            pieces.append(event)
        elif isinstance(event, Reset):
            pieces = [piece for piece in pieces if piece.step < event.step]
    return "".join(piece.text for piece in pieces)


async def streamed(executor: AgentExecutor, *, allow_reset: bool = False) -> tuple[list[StreamEvent], Exception | None]:
    events: list[StreamEvent] = []
    try:
        async with executor.stream(ASKED, allow_reset=allow_reset) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before an error counts too
    except AgentRuntimeError as error:
        return events, error
    return events, None


@owners_of_retry
@pytest.mark.parametrize("broken_at", range(len(PIECES) + 1))
async def test_text_is_never_sent_twice(build: Build, broken_at: int) -> None:
    client = ScriptedLLMClient([breaks_after(broken_at), ScriptedReply(chunks=PIECES)])
    events, error = await streamed(build(client))
    assert not any(isinstance(event, Reset) for event in events)
    if broken_at == 0:
        assert (shown(events), error, client.calls) == (WHOLE, None, 2)
    else:
        assert isinstance(error, ProviderUnavailable) and isinstance(events[-1], RunFailed)
        assert (shown(events), client.calls) == ("".join(PIECES[:broken_at]), 1)


@owners_of_retry
@pytest.mark.parametrize("broken_at", range(len(PIECES) + 1))
async def test_a_consumer_that_takes_a_reset_has_the_plain_answer_in_the_end(build: Build, broken_at: int) -> None:
    def script() -> list[ScriptedReply]:
        return [breaks_after(broken_at), breaks_after(broken_at), ScriptedReply(chunks=PIECES)]

    plain = await build(ScriptedLLMClient(script())).execute(ASKED)
    events, error = await streamed(build(ScriptedLLMClient(script())), allow_reset=True)
    assert (plain.output, plain.attempts, error) == (WHOLE, 3, None)
    last = events[-1]
    assert isinstance(last, RunCompleted) and last.result.output == shown(events) == WHOLE
    resets = [place for place, event in enumerate(events) if isinstance(event, Reset)]
    assert len(resets) == (2 if broken_at else 0)
    for place in resets:  # first the old text is taken back, then the new one comes
        assert isinstance(events[place - 1], TextDelta) and isinstance(events[place + 1], TextDelta)


class HoldBack(BaseMiddleware):
    """Gives a step's text out when the model has said all of it, in one piece; throws it away on a `Reset`."""

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        held: list[str] = []

        async def hold(event: StreamEvent) -> None:
            if isinstance(event, TextDelta):
                held.append(event.text)
                return
            if isinstance(event, Reset):
                held.clear()
            await request.emit(event)

        response = await call_next(request.replace(emit=hold))
        if held:
            await request.emit(TextDelta(text="".join(held), step=request.step))
        return response


@pytest.mark.parametrize("broken_at", range(len(PIECES) + 1))
async def test_what_a_layer_holds_back_can_be_produced_again(broken_at: int) -> None:
    client = ScriptedLLMClient([breaks_after(broken_at), ScriptedReply(chunks=PIECES)])
    events, error = await streamed(by_layer(client, HoldBack()))
    assert error is None and client.calls == 2
    assert [event for event in events if isinstance(event, TextDelta | Reset)] == [TextDelta(text=WHOLE)]


@owners_of_retry
async def test_a_step_that_broke_takes_back_its_own_text_only(build: Build) -> None:
    @tool
    async def look() -> str:
        return "a frog"

    script = [
        ScriptedReply(chunks=("I look. ",), tool_calls=(("look", {}),)),
        breaks_after(2),
        ScriptedReply(text="A frog."),
    ]
    client = ScriptedLLMClient(script)
    layers = [RetryMiddleware(delay=0)] if build is by_layer else []
    settings = config() if build is by_layer else config(retry_delay=0)
    executor = AgentExecutor(config=settings, llm_client=client, tools=[look], middleware=layers)
    events, error = await streamed(executor, allow_reset=True)
    assert (error, shown(events)) == (None, "I look. A frog.")
    assert [event.step for event in events if isinstance(event, Reset)] == [1]


@pytest.mark.parametrize("allow_reset", [False, True])
async def test_the_receiver_of_execute_is_told_the_same(allow_reset: bool) -> None:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    client = ScriptedLLMClient([breaks_after(2), ScriptedReply(chunks=PIECES)])
    result = await by_layer(client).execute(ASKED, emit=emit, allow_reset=allow_reset)
    assert (result.success, shown(events)) == ((True, WHOLE) if allow_reset else (False, "Once "))


@pytest.mark.parametrize(
    ("reply", "limits", "error", "which"),
    [
        (ScriptedReply(text="late", delay=60), Limits(first_token=0.05), CallTimeout, "first_token"),
        (ScriptedReply(chunks=("a", 60.0)), Limits(idle=0.05), CallTimeout, "idle"),
        (ScriptedReply(chunks=("a", 0.02) * 3_000), Limits(run=0.1), RunTimeout, "run"),
        (ScriptedReply(chunks=(0.02, "a") * 3_000), Limits(run=1.2, idle=1, first_token=1), RunTimeout, "run"),
    ],
)
async def test_silence_and_endless_talk_are_ended_in_time(
    reply: ScriptedReply, limits: Limits, error: type[Exception], which: str
) -> None:
    executor = AgentExecutor(config=config(retry_attempts=1), llm_client=ScriptedLLMClient([reply]), limits=limits)
    async with no_leaks():
        with anyio.fail_after(5), pytest.raises(error) as caught:
            async with executor.stream(ASKED) as stream:
                async for _ in stream:
                    pass
    assert isinstance(caught.value, AgentRuntimeError) and caught.value.details.get("which") == which


async def test_silence_before_the_first_token_is_worth_another_try() -> None:
    client = ScriptedLLMClient([ScriptedReply(text="late", delay=60), ScriptedReply(chunks=PIECES)])
    executor = AgentExecutor(config=config(retry_delay=0), llm_client=client, limits=Limits(first_token=0.5))
    events, error = await streamed(executor)
    assert (shown(events), error, client.calls) == (WHOLE, None, 2)


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class SetsTenant(BaseMiddleware):
    """Puts the user into a context variable, and takes it out in the same task, however the run ends."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        token = tenant.set(context.user_id)
        try:
            return await call_next(context)
        finally:
            self.seen.append((context.user_id, tenant.get()))
            tenant.reset(token)


@pytest.mark.parametrize("leaves_after", [1, 3, 100])
async def test_what_a_layer_sets_for_its_run_is_seen_there_and_not_by_the_consumer(leaves_after: int) -> None:
    layer = SetsTenant()
    script = [ScriptedReply(chunks=PIECES)]

    async def consume(user: str) -> None:
        client = ScriptedLLMClient(script, yields=True)
        executor = AgentExecutor(config=config(), llm_client=client, middleware=[layer], limits=Limits(stream_events=1))
        async with executor.stream(AgentContext(user_id=user, current_task="hi")) as stream:
            taken = 0
            async for _ in stream:
                assert tenant.get() == "nobody"
                await checkpoint()
                taken += 1
                if taken == leaves_after:
                    break
        assert tenant.get() == "nobody"

    async with anyio.create_task_group() as group:
        for user in ("ann", "bob"):
            group.start_soon(consume, user)
    assert sorted(layer.seen) == [("ann", "ann"), ("bob", "bob")]


class Splitting:
    """Sends a text in UTF-16 units, as some providers do, and repairs it at the borders."""

    def __init__(self, text: str) -> None:
        data = text.encode("utf-16-le", "surrogatepass")
        self.units = [chr(data[place] | data[place + 1] << 8) for place in range(0, len(data), 2)]

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        repair = DeltaText()
        for piece in (*map(repair.feed, self.units), repair.flush()):
            if piece and request.stream:
                await request.emit(TextDelta(text=piece, step=request.step))
        return ModelResponse.of(repair_text("".join(self.units)))


@given(text=hostile_text())
async def test_a_text_split_at_every_unit_leaves_whole_and_can_be_encoded(text: str) -> None:
    events, error = await streamed(AgentExecutor(config=config(), llm_client=Splitting(text)))
    last = events[-1]
    assert error is None and isinstance(last, RunCompleted)
    assert shown(events) == last.result.output == repair_text(text)
    for seq, event in enumerate(events, start=1):
        envelope = Envelope(run_id="r", seq=seq, event=event)
        assert decode_event(encode_event(envelope)) == envelope


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("passes_events_on", [True, False])
async def test_a_consumer_that_leaves_ends_the_runs_inside_the_run_and_their_tools(
    depth: int, passes_events_on: bool
) -> None:
    ticks, cleaned = 0, list[str]()
    ticking = anyio.Event()

    @tool
    async def tick() -> str:
        nonlocal ticks
        try:
            while True:
                ticks += 1
                ticking.set()
                await checkpoint()
        finally:
            cleaned.append("tool")

    async def layer(context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            return await call_next(context)
        finally:
            cleaned.append("layer")

    client = ScriptedLLMClient([ScriptedReply(chunks=("I tick.",), tool_calls=(("tick", {}),))])
    executor = AgentExecutor(config=config(), llm_client=client, tools=[tick], middleware=[layer])
    executors = [executor]
    for _ in range(depth):
        executor = AgentExecutor(_asks(executor, passes_events_on), middleware=[layer])
        executors.append(executor)
    async with no_leaks():
        async with executor.stream(ASKED) as stream:
            await anext(stream)
            with anyio.fail_after(5):
                await ticking.wait()
        after = ticks
        assert all(inside.runs == {} for inside in executors)
    assert ticks == after
    assert cleaned == ["tool", *["layer"] * (depth + 1)]


def _asks(executor: AgentExecutor, passes_events_on: bool) -> Callable[[AgentContext], Any]:
    async def ask(context: AgentContext) -> AgentResult:
        child = context.child("", context.current_task)
        return await executor.execute(child, emit=context.emit if passes_events_on else None)

    return ask


class Loud(BaseMiddleware):
    """Changes pieces and the answer in the same way."""

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        async def emit(event: StreamEvent) -> None:
            loud = TextDelta(text=event.text.upper(), step=event.step) if isinstance(event, TextDelta) else event
            await request.emit(loud)

        response = await call_next(request.replace(emit=emit))
        content = response.message.content.upper()
        return response.replace(message=msgspec.structs.replace(response.message, content=content))


class Answers(BaseMiddleware):
    """Answers the model calls of one step itself."""

    def __init__(self, step: int) -> None:
        self.step = step

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return ModelResponse.of("From memory.") if request.step == self.step else await call_next(request)


class Refuses(BaseMiddleware):
    """Answers the run itself, or refuses it."""

    def __init__(self, answer: AgentResult | AgentRuntimeError) -> None:
        self.answer = answer

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        if isinstance(self.answer, AgentRuntimeError):
            raise self.answer
        return self.answer


@tool
async def works() -> str:
    await checkpoint()
    return "it worked"


@tool
async def breaks() -> str:
    await checkpoint()
    raise ToolFailed("it broke")


def breaks_off(chunks: tuple[str, ...], failure: Exception) -> ScriptedReply:
    return ScriptedReply(chunks=(*chunks, failure))


def wants(chunks: tuple[str, ...], names: list[str]) -> ScriptedReply:
    return ScriptedReply(chunks=chunks, tool_calls=tuple((name, {}) for name in names))


texts = st.lists(st.text(min_size=1, max_size=5), max_size=4).map(tuple)
failures = st.sampled_from(
    [ProviderUnavailable("down"), RateLimited("slow down", retry_after=0.0), ProviderUnavailable("no", retryable=False)]
)
replies = (
    st.builds(ScriptedReply, chunks=texts)
    | st.builds(ScriptedReply, text=st.text(max_size=5))
    | st.builds(wants, texts, st.lists(st.sampled_from(["works", "breaks", "unknown"]), min_size=1, max_size=3))
    | st.builds(breaks_off, texts, failures)
)
layer_sets = st.lists(
    st.sampled_from([Loud(), HoldBack(), Answers(0), Answers(1)])
    | st.sampled_from([Refuses(AgentResult(output="from a layer")), Refuses(ProviderUnavailable("closed today"))]),
    max_size=3,
    unique_by=type,
)


@given(script=st.lists(replies, max_size=6), layers=layer_sets, retry_at=st.integers(0, 3))
async def test_plain_and_streamed_runs_are_the_same_run(
    script: list[ScriptedReply], layers: list[BaseMiddleware], retry_at: int
) -> None:
    def executor() -> AgentExecutor:
        onion: list[Layer] = [*layers]
        onion.insert(retry_at, RetryMiddleware(delay=0))
        client = ScriptedLLMClient([*script, ScriptedReply(chunks=("the ", "end"))])
        return AgentExecutor(config=config(max_steps=4), llm_client=client, tools=[works, breaks], middleware=onion)

    plain = await executor().execute(ASKED)
    events: list[StreamEvent] = []
    streaming = executor().stream(ASKED, allow_reset=True)
    async with streaming as stream:
        try:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before an error counts too
        except AgentRuntimeError as error:
            assert type(error) is type(plain.exception)
    assert fields(streaming.result) == fields(plain)
    last = events[-1]
    if plain.success:
        assert isinstance(last, RunCompleted) and last.result == streaming.result.to_record()
        steps = [event.step for event in events if isinstance(event, TextDelta)]
        final = [event for event in events if getattr(event, "step", None) == max(steps, default=0)]
        assert not plain.output or shown(final) == plain.output
    else:
        assert isinstance(last, RunFailed)
        assert (last.error_type, last.error) == (plain.error_type, plain.error)


def fields(result: AgentResult) -> dict[str, Any]:
    """What must not depend on who listens: all but the run's id and time, and the price of pieces that broke off."""
    names = set(result.__struct_fields__) - {"run_id", "execution_time_ms", "exception", "usage"}
    return {name: getattr(result, name) for name in names} | {"requests": result.usage.requests}
