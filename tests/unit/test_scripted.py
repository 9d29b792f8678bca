import anyio
import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    FunctionCall,
    ModelRequest,
    ModelResponse,
    ProviderUnavailable,
    StreamEvent,
    TextDelta,
    Usage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply

CONTEXT = AgentContext(agent_id="scripted", user_id="ann", current_task="hi")
CONFIG = AgentConfig(name="scripted", retry_attempts=1)


async def run(client: ScriptedLLMClient) -> AgentResult:
    return await AgentExecutor(config=CONFIG, llm_client=client).execute(CONTEXT)


async def said(client: ScriptedLLMClient) -> list[str]:
    pieces: list[str] = []

    async def emit(event: StreamEvent) -> None:
        if isinstance(event, TextDelta):
            pieces.append(event.text)

    await AgentExecutor(config=CONFIG, llm_client=client).execute(CONTEXT, emit=emit)
    return pieces


async def test_entries_are_answered_in_order_and_what_was_asked_is_kept() -> None:
    response = ModelResponse.of("three", model="other", usage=Usage(input_tokens=7))
    client = ScriptedLLMClient(["one", ScriptedReply(text="two", model="named"), response])
    results = [await run(client) for _ in range(3)]
    assert [(result.output, result.model) for result in results] == [
        ("one", "scripted"),
        ("two", "named"),
        ("three", "other"),
    ]
    assert results[2].usage == Usage(input_tokens=7, requests=1)
    assert client.calls == 3
    assert [request.messages[-1].content for request in client.requests] == ["hi"] * 3


async def test_a_call_after_the_last_entry_is_a_bug_of_the_test() -> None:
    client = ScriptedLLMClient(["only"])
    await run(client)
    with pytest.raises(AssertionError, match=r"the script has 1 answers and this is call 2; make it longer, or repeat"):
        await run(client)
    with pytest.raises(AssertionError, match="the script has 0 answers"):
        await run(ScriptedLLMClient([], repeat=True))


async def test_a_repeated_script_starts_again() -> None:
    client = ScriptedLLMClient(["one", "two"], repeat=True)
    assert [(await run(client)).output for _ in range(5)] == ["one", "two", "one", "two", "one"]


async def test_a_function_answers_by_the_request() -> None:
    def answer(request: ModelRequest) -> str | ScriptedReply:
        return f"{len(request.messages)} messages"

    assert (await run(ScriptedLLMClient([answer]))).output == "1 messages"


async def test_an_exception_is_raised() -> None:
    down = ProviderUnavailable("down")
    assert (await run(ScriptedLLMClient([down]))).exception is down
    assert (await run(ScriptedLLMClient([lambda request: down]))).exception is down


@pytest.mark.parametrize("yields", [True, False])
async def test_chunks_are_streamed_where_somebody_listens_and_always_returned_whole(yields: bool) -> None:
    client = ScriptedLLMClient([ScriptedReply(chunks=("a", "b", "", "c"))], repeat=True, yields=yields)
    assert (await run(client)).output == "abc"
    assert await said(client) == ["a", "b", "", "c"]
    assert [request.stream for request in client.requests] == [False, True]


async def test_text_is_one_piece_that_the_client_did_not_stream() -> None:
    assert await said(ScriptedLLMClient(["whole"])) == ["whole"]


async def test_an_error_among_the_chunks_is_raised_at_its_place_in_both_modes() -> None:
    reply = ScriptedReply(chunks=("a", "b", ProviderUnavailable("broke off"), "c"))
    client = ScriptedLLMClient([reply], repeat=True)
    assert (await run(client)).error == "broke off"
    assert await said(client) == ["a", "b"]


async def test_delays_and_pauses_take_their_time() -> None:
    started = anyio.current_time()
    result = await run(ScriptedLLMClient([ScriptedReply(delay=0.02, chunks=("a", 0.03, "b"))]))
    assert result.output == "ab" and anyio.current_time() - started >= 0.05


def test_tool_calls_have_ids_of_their_own_and_may_be_malformed() -> None:
    reply = ScriptedReply(tool_calls=(("add", {"a": 1}), FunctionCall(id="x", name="add", arguments="{")))
    response = reply.response(3)
    assert response.message.tool_calls == (
        FunctionCall(id="call_3_0", name="add", arguments='{"a":1}'),
        FunctionCall(id="x", name="add", arguments="{"),
    )
    assert response.finish_reason == "tool_calls"
    assert ScriptedReply(text="x").response(1).finish_reason == "stop"
    assert ScriptedReply(text="x", finish_reason="length").response(1).finish_reason == "length"


def test_a_script_that_says_two_things_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="text or chunks, not both"):
        ScriptedReply(text="a", chunks=("b",))
    with pytest.raises(TypeError, match=r"the script is a list of answers: \['hello'\]"):
        ScriptedLLMClient("hello")
