"""The contract of LLM clients: the scripted client keeps it, and a client that breaks a promise is found."""

from collections.abc import Callable
from typing import Self

import anyio
import pytest

from agent_runtime import LLMClient, ModelRequest, ModelResponse, ProviderUnavailable, TextDelta, ToolStarted
from agent_runtime.testing import LLMClientContract, ScriptedLLMClient, ScriptedReply
from agent_runtime.testing.llm import Behaviour


def echo(request: ModelRequest) -> ScriptedReply:
    text = request.messages[-1].content
    return ScriptedReply(chunks=(text[:3], text[3:]))


class TestScriptedLLMClient(LLMClientContract):
    def make(self, behaviour: Behaviour) -> LLMClient:
        if behaviour == "echo":
            return ScriptedLLMClient([echo], repeat=True, yields=True)
        answer = ScriptedReply(delay=60) if behaviour == "silent" else ProviderUnavailable("the model is down")
        return ScriptedLLMClient([answer], repeat=True)


class Opened(ScriptedLLMClient):
    """A client that answers only while it is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class TestClientWithALifespan(TestScriptedLLMClient):
    def make(self, behaviour: Behaviour) -> LLMClient:
        client = super().make(behaviour)
        assert isinstance(client, ScriptedLLMClient)
        return Opened([echo], repeat=True, yields=True) if behaviour == "echo" else client


class Broken:
    """An echo that breaks one promise; it answers everything, at once."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.last = ""

    async def complete(self, request: ModelRequest) -> ModelResponse:
        text, self.last = request.messages[-1].content, request.messages[-1].content
        await anyio.sleep(0.01)
        if request.stream and self.how == "wrong event":
            await request.emit(ToolStarted(id="1", name="x"))
        if request.stream or self.how == "emits in a plain call":
            await self.speak(request, text)
        return ModelResponse.of(self.last if self.how == "mixes calls" else text)

    async def speak(self, request: ModelRequest, text: str) -> None:
        step = 0 if self.how == "forgets the step" else request.step
        for piece in (text[:2], text[2:]):
            try:
                await request.emit(TextDelta(text=piece.upper() if self.how == "changes text" else piece, step=step))
            except KeyError:
                if self.how != "goes on after emit failed":
                    raise


class BrokenContract(LLMClientContract):
    """Named so that pytest does not collect it; its promises are called one by one."""

    def __init__(self, how: str) -> None:
        self.how = how

    def make(self, behaviour: Behaviour) -> LLMClient:
        return Broken(self.how)


@pytest.mark.parametrize(
    ("how", "promise"),
    [
        ("emits in a plain call", LLMClientContract.test_plain_and_streamed_answers_are_equal),
        ("changes text", LLMClientContract.test_plain_and_streamed_answers_are_equal),
        ("wrong event", LLMClientContract.test_plain_and_streamed_answers_are_equal),
        ("forgets the step", LLMClientContract.test_pieces_carry_the_step_of_their_request),
        ("answers at once", LLMClientContract.test_cancelling_ends_the_call_promptly_and_the_client_can_be_used_again),
        ("answers at once", LLMClientContract.test_an_unreachable_model_is_one_of_our_errors_and_may_be_tried_again),
        ("goes on after emit failed", LLMClientContract.test_an_error_of_emit_leaves_as_the_same_object),
        ("mixes calls", LLMClientContract.test_concurrent_calls_do_not_mix),
    ],
)
async def test_a_broken_promise_is_found(how: str, promise: Callable[[LLMClientContract], object]) -> None:
    with pytest.raises(AssertionError):
        await promise(BrokenContract(how))  # type: ignore[misc]  # an unbound method, given its object here
