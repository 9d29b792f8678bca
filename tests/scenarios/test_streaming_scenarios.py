"""Scenarios 18 and 19: a consumer who leaves early, and a secret that two chunks share."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import anyio
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    EventBus,
    EventType,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    Reset,
    Run,
    RunCompleted,
    RunStatus,
    StreamEvent,
    SystemEvent,
    TextDelta,
    Usage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

SECRET = "sk-live-1234"


def ask() -> AgentContext:
    return AgentContext(user_id="ann", current_task="tell me a story")


class Endless:
    """A model that never stops, or falls silent after some tokens; it tells when its connection was closed."""

    def __init__(self, told: list[str], silent_after: float = float("inf")) -> None:
        self.told = told
        self.silent_after = silent_after
        self.sent = 0

    async def tokens(self) -> AsyncGenerator[str]:
        try:
            while self.sent < self.silent_after:
                self.sent += 1
                yield "more "
            await anyio.sleep_forever()
        finally:
            self.told.append("upstream closed")

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        async with aclosing(self.tokens()) as tokens:
            async for token in tokens:
                await request.emit(TextDelta(text=token, step=request.step))
        raise AssertionError("the model has stopped")


class CleanUp:
    """A layer with work to do after the run, whatever became of it."""

    def __init__(self, told: list[str]) -> None:
        self.told = told
        self.run: Run | None = None

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.run = context.run
        try:
            return await call_next(context)
        finally:
            self.told.append("layer cleaned up")


@pytest.mark.parametrize("silent_after", [3, float("inf")], ids=["silent", "busy"])
async def test_s18_a_consumer_who_leaves_early_ends_the_run_and_pays_for_what_was_made(silent_after: float) -> None:
    told: list[str] = []
    ended: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        ended.append(event)

    client, layer = Endless(told, silent_after), CleanUp(told)
    async with EventBus() as bus:
        for kind in (EventType.AGENT_COMPLETED, EventType.ERROR_OCCURRED, EventType.RUN_CANCELLED):
            await bus.subscribe(kind, note)
        executor = AgentExecutor(
            config=AgentConfig(name="teller"), llm_client=client, middleware=[layer], event_bus=bus
        )
        with anyio.fail_after(5):
            async with executor.stream(ask()) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        break
        assert told == ["upstream closed", "layer cleaned up"]
        assert not executor.runs
        await bus.drain()
    run = layer.run
    assert run is not None and run.status is RunStatus.CANCELLED
    assert run.usage == Usage(requests=1, output_tokens=client.sent)
    assert [(event.event_type, event.run_id) for event in ended] == [(EventType.RUN_CANCELLED, run.run_id)]


async def test_s18_a_text_iterator_that_is_closed_early_ends_its_run_too() -> None:
    told: list[str] = []
    layer = CleanUp(told)
    executor = AgentExecutor(config=AgentConfig(name="teller"), llm_client=Endless(told), middleware=[layer])
    async with executor:
        async with aclosing(executor.execute_stream(ask())) as texts:
            async for text in texts:
                assert text == "more "
                break
    assert told == ["upstream closed", "layer cleaned up"]
    assert layer.run is not None and layer.run.status is RunStatus.CANCELLED


class Redacting:
    """Writes `***` for `SECRET`, in the stream and in the answer; holds back text that may be its beginning."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        held = TextDelta(text="")

        async def emit(event: StreamEvent) -> None:
            nonlocal held
            if isinstance(event, TextDelta):
                clear, kept = redacted(held.text + event.text)
                held = TextDelta(text=kept, step=event.step)
                await pass_on(TextDelta(text=clear, step=event.step))
            elif isinstance(event, Reset):
                held = TextDelta(text="")
                await context.emit(event)
            else:
                await release()
                await context.emit(event)

        async def release() -> None:
            nonlocal held
            harmless, held = held, TextDelta(text="")
            await pass_on(harmless)

        async def pass_on(delta: TextDelta) -> None:
            if delta.text:
                await context.emit(delta)

        result = await call_next(context.replace(emit=emit))
        await release()
        return result.replace(output=result.output.replace(SECRET, "***"))


def redacted(text: str) -> tuple[str, str]:
    """What may be said, and what may be the beginning of the secret."""
    text = text.replace(SECRET, "***")
    kept = next(size for size in range(len(SECRET) - 1, -1, -1) if text.endswith(SECRET[:size]))
    return text[: len(text) - kept], text[len(text) - kept :]


async def streamed(executor: AgentExecutor, *, allow_reset: bool = False) -> tuple[AgentResult, list[StreamEvent]]:
    async with executor.stream(ask(), allow_reset=allow_reset) as stream:
        events = [event async for event in stream]
    return stream.result, events


def texts(events: Sequence[StreamEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


STORY = f"the key is {SECRET}, and sk-live is harmless, as is sk"


@pytest.mark.parametrize(
    "chunks",
    [
        *[(STORY[:cut], STORY[cut:]) for cut in range(len("the key is "), len("the key is ") + len(SECRET) + 1)],
        tuple(STORY),
    ],
    ids=lambda chunks: f"{len(chunks)} chunks, the first of {len(chunks[0])}",
)
async def test_s19_a_secret_split_over_chunks_never_appears_in_the_stream(chunks: tuple[str, ...]) -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=chunks)], repeat=True)
    executor = AgentExecutor(config=AgentConfig(name="teller"), llm_client=client, middleware=[Redacting()])
    result, events = await streamed(executor)
    clear = STORY.replace(SECRET, "***")
    assert "".join(texts(events)) == result.output == clear
    last = events[-1]
    assert isinstance(last, RunCompleted) and last.result.output == clear
    assert (await executor.execute(ask())).output == clear


@pytest.mark.parametrize(
    ("first", "heard"),
    [("sk-live", ["-1234 is a number"]), ("it is sk-live", ["it is ", "-1234 is a number"])],
    ids=["nothing delivered", "delivered and withdrawn"],
)
async def test_s19_what_was_held_back_of_a_withdrawn_attempt_is_discarded(first: str, heard: list[str]) -> None:
    broke = ProviderUnavailable("the provider broke off")
    replies = [ScriptedReply(chunks=(first, broke)), ScriptedReply(chunks=("-1234 is", " a number"))]
    executor = AgentExecutor(
        config=AgentConfig(name="teller", retry_attempts=2, retry_delay=0),
        llm_client=ScriptedLLMClient(replies),
        middleware=[Redacting()],
    )
    result, events = await streamed(executor, allow_reset=True)
    assert result.success and result.output == "-1234 is a number"
    assert texts(events)[: len(heard) - 1] == heard[:-1]
    assert "".join(texts(events)[len(heard) - 1 :]) == heard[-1]
    assert [event for event in events if isinstance(event, Reset)] == [Reset(step=0)] * (len(heard) - 1)
