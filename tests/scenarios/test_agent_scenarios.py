"""Scenarios 1 to 4, 10, 15, 17 and 77: the built-in agent as a user meets it."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    CallNext,
    ConfigurationError,
    ErrorType,
    EventBus,
    EventType,
    Message,
    ModelResponse,
    ProviderUnavailable,
    RunCompleted,
    RunFailed,
    RunStarted,
    StreamEvent,
    SystemEvent,
    TextDelta,
    Usage,
    tool,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

SECRET = "sk-live-1234"


def context(task: str = "tell me a story") -> AgentContext:
    return AgentContext(agent_id="teller", user_id="ann", session_id="s1", current_task=task)


async def test_s01_a_config_a_client_and_a_context_give_an_answer() -> None:
    config = AgentConfig(name="teller", description="Tells stories.")
    client = ScriptedLLMClient(
        [ScriptedReply(text="once upon a time", usage=Usage(input_tokens=5, output_tokens=4, requests=1))]
    )
    result = await AgentExecutor(config=config, llm_client=client).execute(context())
    assert result.success and result.output == "once upon a time"
    assert result.execution_time_ms > 0
    assert result.usage == Usage(input_tokens=5, output_tokens=4, requests=1)


@pytest.mark.parametrize(("field", "value"), [("temperature", 99), ("max_tokens", 0), ("temprature", 0.5)])
def test_s02_a_config_out_of_range_or_misspelled_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        AgentConfig.model_validate({"name": "teller", field: value})


async def test_s02_a_temperature_of_zero_reaches_the_client_as_zero() -> None:
    client = ScriptedLLMClient(["done"])
    await AgentExecutor(config=AgentConfig(name="teller", temperature=0.0), llm_client=client).execute(context())
    temperature = client.requests[0].parameters["temperature"]
    assert type(temperature) is float and temperature == 0.0


def test_s03_an_executor_without_a_client_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="no agent and no llm_client"):
        AgentExecutor(config=AgentConfig(name="teller"))


class Generating:
    """A custom client that implements only `generate`."""

    def __init__(self, answer: str | ModelResponse) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def generate(self, prompt: str, **params: Any) -> str | ModelResponse:
        self.asked.append((prompt, params))
        return self.answer


@pytest.mark.parametrize(
    ("answer", "usage", "finish_reason"),
    [
        ("the end", Usage(requests=1), "stop"),
        (
            ModelResponse.of("the end", usage=Usage(output_tokens=2), finish_reason="length"),
            Usage(output_tokens=2, requests=1),
            "length",
        ),
    ],
)
async def test_s04_a_client_with_only_generate_is_called_with_prompt_and_parameters(
    answer: str | ModelResponse, usage: Usage, finish_reason: str
) -> None:
    client = Generating(answer)
    config = AgentConfig(name="teller", model="small", temperature=0.5, max_tokens=10)
    result = await AgentExecutor(config=config, llm_client=client).execute(context())
    assert client.asked == [("tell me a story", {"model": "small", "temperature": 0.5, "max_tokens": 10})]
    assert (result.output, result.usage, result.finish_reason) == ("the end", usage, finish_reason)


async def test_s10_two_retryable_failures_and_a_success_are_one_success() -> None:
    charged: list[str] = []
    waits: list[float] = []

    async def charge_once(context: AgentContext, call_next: CallNext) -> AgentResult:
        charged.append(context.run_id)
        return await call_next(context)

    async def note(event: SystemEvent) -> None:
        waits.append(event.metadata["delay"])

    down = ProviderUnavailable("overloaded")
    config = AgentConfig(name="teller", retry_attempts=3, retry_delay=0.02)
    client = ScriptedLLMClient([down, down, "the end"])
    started = anyio.current_time()
    async with EventBus() as bus:
        await bus.subscribe(EventType.RETRY, note)
        executor = AgentExecutor(config=config, llm_client=client, middleware=[charge_once], event_bus=bus)
        result = await executor.execute(context())
        took = anyio.current_time() - started
        await bus.drain()
    assert result.success and result.output == "the end"
    assert client.calls == 3 and result.attempts == 3
    assert len(charged) == 1
    assert result.usage.requests == 3
    first, second = waits
    assert 0 <= first <= 0.02 and 0 <= second <= 0.04
    assert first + second <= took < 5


async def test_s10_the_bound_of_the_random_wait_doubles() -> None:
    waits: list[tuple[float, float]] = []

    async def note(event: SystemEvent) -> None:
        pair.append(event.metadata["delay"])

    down = ProviderUnavailable("overloaded")
    config = AgentConfig(name="teller", retry_attempts=3, retry_delay=0.0004)
    client = ScriptedLLMClient([down, down, "the end"], repeat=True)
    async with EventBus() as bus:
        await bus.subscribe(EventType.RETRY, note)
        executor = AgentExecutor(config=config, llm_client=client, event_bus=bus)
        for _ in range(40):
            pair: list[float] = []
            await executor.execute(context())
            await bus.drain()
            waits.append((pair[0], pair[1]))
    assert max(first for first, _ in waits) <= 0.0004 < max(second for _, second in waits) <= 0.0008
    assert len({first for first, _ in waits}) == 40


async def told(executor: AgentExecutor) -> tuple[AgentResult, list[StreamEvent]]:
    async with executor.stream(context()) as stream:
        events = [event async for event in stream]
    return stream.result, events


def texts(events: Sequence[StreamEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


async def test_s15_the_streamed_chunks_join_to_what_the_plain_run_gives() -> None:
    reply = ScriptedReply(chunks=("once ", "upon ", "a time"), usage=Usage(output_tokens=3, requests=1))
    client = ScriptedLLMClient([reply], repeat=True)
    executor = AgentExecutor(config=AgentConfig(name="teller"), llm_client=client)
    plain = await executor.execute(context())
    streamed, events = await told(executor)
    assert texts(events) == ["once ", "upon ", "a time"]
    assert "".join(texts(events)) == plain.output == streamed.output
    assert (streamed.usage, streamed.finish_reason) == (Usage(output_tokens=3, requests=1), "stop")
    last = events[-1]
    assert isinstance(last, RunCompleted) and last.result.usage == streamed.usage
    async with executor:
        assert [text async for text in executor.execute_stream(context())] == texts(events)


async def test_s17_a_client_that_breaks_after_three_chunks_gives_three_chunks_and_a_typed_error() -> None:
    failed: list[SystemEvent] = []

    async def note(event: SystemEvent) -> None:
        failed.append(event)

    cause = ConnectionError(f"reset by peer while sending {SECRET}")
    broke = ProviderUnavailable("the provider broke off")
    broke.__cause__ = cause
    client = ScriptedLLMClient([ScriptedReply(chunks=("one ", "two ", "three ", broke, "never"))], repeat=True)
    events: list[StreamEvent] = []
    async with EventBus() as bus:
        await bus.subscribe(EventType.ERROR_OCCURRED, note)
        executor = AgentExecutor(config=AgentConfig(name="teller"), llm_client=client, event_bus=bus)
        with pytest.raises(ProviderUnavailable) as caught:
            async with executor.stream(context()) as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401 - what arrived before the error is kept
        await bus.drain()
    assert caught.value is broke
    assert texts(events) == ["one ", "two ", "three "]
    assert isinstance(events[0], RunStarted)
    expected = RunFailed(
        run_id=events[0].run_id, error_type=ErrorType.PROVIDER, error="the provider broke off", retryable=True
    )
    assert events[-1] == expected
    assert [event.error_type for event in failed] == [ErrorType.PROVIDER]
    assert SECRET not in repr(events) + repr([event.error_message for event in failed])
    assert client.calls == 1


async def test_s77_tool_failures_are_told_and_independent_tools_run_at_once() -> None:
    released = anyio.Event()

    @tool
    async def breaks() -> str:
        released.set()
        raise ConnectionError(SECRET)

    @tool
    async def waits_for_the_other() -> str:
        await released.wait()
        return "both ran"

    @tool(timeout=0.02)
    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    nothing: dict[str, Any] = {}
    wanted = ("waits_for_the_other", "unknown", "breaks", "slow")
    client = ScriptedLLMClient([ScriptedReply(tool_calls=tuple((name, nothing) for name in wanted)), "I tried"])
    executor = AgentExecutor(
        config=AgentConfig(name="teller"), llm_client=client, tools=[breaks, waits_for_the_other, slow]
    )
    result = await executor.execute(context())
    assert result.success and result.output == "I tried"
    known = "breaks, waits_for_the_other, slow"
    told_to_the_model = {message.name: message.content for message in client.requests[1].messages if message.name}
    assert told_to_the_model == {
        "waits_for_the_other": "both ran",
        "unknown": f'{{"error":"there is no tool \'unknown\'; there are: {known}","error_type":"not_found"}}',
        "breaks": '{"error":"tool \'breaks\' failed (ConnectionError)","error_type":"tool"}',
        "slow": '{"error":"tool \'slow\' took longer than 0.02 s","error_type":"timeout"}',
    }
    assert tuple(told_to_the_model) == wanted


async def test_s77_a_model_that_never_stops_wanting_tools_is_stopped_with_a_reason() -> None:
    ran = 0

    @tool
    async def more() -> str:
        nonlocal ran
        ran += 1
        return "more"

    nothing: dict[str, Any] = {}
    client = ScriptedLLMClient([ScriptedReply(tool_calls=(("more", nothing),))], repeat=True)
    config = AgentConfig(name="teller", max_steps=4)
    result = await AgentExecutor(config=config, llm_client=client, tools=[more]).execute(context())
    assert not result.success and result.error_type == ErrorType.LIMIT
    assert result.error_details == {"limit": 4, "finish_reason": "max_steps"}
    assert (client.calls, ran) == (4, 3)
    assert client.requests[-1].messages[-1] == Message(
        role="tool", content="more", tool_call_id="call_3_0", name="more"
    )
