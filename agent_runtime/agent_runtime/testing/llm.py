"""What every LLM client promises."""

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Literal

import anyio

from agent_runtime.context import LLMClient, ModelRequest
from agent_runtime.errors import AgentRuntimeError, ErrorKind
from agent_runtime.stream import ReasoningDelta, StreamEvent, TextDelta
from agent_runtime.types import Message, ModelResponse

Behaviour = Literal["echo", "silent", "down"]
TEXTS = (
    "hello",
    "two words, and a third",
    "line\nbreak\ttab",
    'quotes " and \\',
    "ünïcödé 漢字 😀👩‍🚀 e\u0301",
    "x" * 50_000,
)
PROMPTLY = 2.0  # seconds


class LLMClientContract:
    """Subclass it with a name that starts with `Test`, implement `make`, and pytest runs the promises below.

    A client that is an async context manager is entered around each. Needs anyio's pytest plugin with
    `anyio_mode = "auto"`.
    """

    @abstractmethod
    def make(self, behaviour: Behaviour, /) -> LLMClient:
        """A client of a model that answers with the text of the last message (`echo`), never answers (`silent`), or
        cannot be reached (`down`)."""

    async def test_plain_and_streamed_answers_are_equal(self) -> None:
        async with _opened(self.make("echo")) as client:
            for text in TEXTS:
                plain, none = await _ask(client, text, stream=False)
                streamed, deltas = await _ask(client, text, stream=True)
                assert plain.text == streamed.text == text
                assert plain.message.role == streamed.message.role == "assistant"
                assert plain.finish_reason == streamed.finish_reason
                assert none == []
                # A client that does not stream emits nothing; the model stage does it then.
                assert "".join(delta.text for delta in deltas) in {text, ""}

    async def test_pieces_carry_the_step_of_their_request(self) -> None:
        async with _opened(self.make("echo")) as client:
            _, deltas = await _ask(client, "one two three", stream=True, step=7)
        assert {delta.step for delta in deltas} <= {7}

    async def test_cancelling_ends_the_call_promptly_and_the_client_can_be_used_again(self) -> None:
        async with _opened(self.make("silent")) as client:
            for stream in (False, True, False, True):
                started = anyio.current_time()
                with anyio.move_on_after(0.05) as scope:
                    await _ask(client, "hello", stream=stream)
                assert scope.cancelled_caught
                assert anyio.current_time() - started < PROMPTLY

    async def test_an_unreachable_model_is_one_of_our_errors_and_may_be_tried_again(self) -> None:
        async with _opened(self.make("down")) as client:
            for stream in (False, True):
                try:
                    await _ask(client, "PRIVATE", stream=stream)
                except AgentRuntimeError as error:
                    assert error.kind is ErrorKind.UNAVAILABLE
                    assert error.retryable
                    assert "PRIVATE" not in str(error)
                else:
                    raise AssertionError("an answer without a model")

    async def test_an_error_of_emit_leaves_as_the_same_object(self) -> None:
        boom = KeyError("not yours")
        seen: list[StreamEvent] = []

        async def emit(event: StreamEvent) -> None:
            seen.append(event)
            raise boom

        async with _opened(self.make("echo")) as client:
            try:
                await client.complete(_request("one two three", stream=True).replace(emit=emit))
            except KeyError as error:
                assert error is boom
            assert len(seen) <= 1, "it went on after emit had failed, or hid the error"
            assert (await _ask(client, "again", stream=True))[0].text == "again"

    async def test_concurrent_calls_do_not_mix(self) -> None:
        answers: dict[str, tuple[str, str]] = {}

        async def one(client: LLMClient, text: str) -> None:
            response, deltas = await _ask(client, text, stream=True)
            answers[text] = response.text, "".join(delta.text for delta in deltas) or response.text

        async with _opened(self.make("echo")) as client, anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, client, f"call {number} has its own words")
        assert len(answers) == 20
        assert all(given == (text, text) for text, given in answers.items())


def _request(text: str, *, stream: bool, step: int = 0) -> ModelRequest:
    return ModelRequest(messages=(Message(role="user", content=text),), stream=stream, step=step)


async def _ask(
    client: LLMClient, text: str, *, stream: bool, step: int = 0
) -> tuple[ModelResponse, list[TextDelta | ReasoningDelta]]:
    """The response, and the pieces that were emitted."""
    pieces: list[TextDelta | ReasoningDelta] = []

    async def emit(event: StreamEvent) -> None:
        assert isinstance(event, TextDelta | ReasoningDelta), f"a client emits pieces of its answer, not {event!r}"
        pieces.append(event)

    return await client.complete(_request(text, stream=stream, step=step).replace(emit=emit)), pieces


@asynccontextmanager
async def _opened(client: LLMClient) -> AsyncGenerator[LLMClient]:
    async with AsyncExitStack() as stack:
        if isinstance(client, AbstractAsyncContextManager):
            await stack.enter_async_context(client)
        yield client
