"""A language model that answers what the test says."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import msgspec

from agent_runtime.context import ModelRequest
from agent_runtime.stream import TextDelta
from agent_runtime.types import NO_USAGE, FunctionCall, Message, ModelResponse, Usage, Value

_KEPT_REQUESTS = 1_000


class ScriptedReply(Value, frozen=True, kw_only=True):
    """One answer of a scripted model. Give `text`, or `chunks`, or neither.

    Attributes:
        text: The answer, in one piece that is not streamed.
        chunks: The answer in the pieces in which it is streamed. Between them, a number is a pause in seconds, and an
            exception is raised there; both happen in a plain run too.
        tool_calls: Tools that the model wants: `(name, arguments)`, or a `FunctionCall` whose arguments may be malformed.
        usage: What the call costs.
        finish_reason: By default `"tool_calls"` or `"stop"`.
        model: The model's name.
        delay: Seconds before anything happens.
    """

    text: str = ""
    chunks: tuple[str | float | Exception, ...] = ()
    tool_calls: tuple[tuple[str, Mapping[str, Any]] | FunctionCall, ...] = ()
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    model: str = "scripted"
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.text and self.chunks:
            raise ValueError("a ScriptedReply has text or chunks, not both")

    def response(self, call: int) -> ModelResponse:
        """The whole answer; ids of tool calls are made from `call`, so that they are unique in a conversation."""
        text = self.text + "".join(piece for piece in self.chunks if isinstance(piece, str))
        wanted = tuple(_wanted(item, f"call_{call}_{index}") for index, item in enumerate(self.tool_calls))
        return ModelResponse(
            message=Message(role="assistant", content=text, tool_calls=wanted),
            usage=self.usage,
            finish_reason=self.finish_reason or ("tool_calls" if wanted else "stop"),
            model=self.model,
        )


Answer: TypeAlias = str | ScriptedReply | ModelResponse | Exception
Entry: TypeAlias = Answer | Callable[[ModelRequest], Answer]


class ScriptedLLMClient:
    """An `LLMClient` that gives the entries of `script` in order, one for each call.

    An entry is text, a `ScriptedReply`, a whole `ModelResponse`, an exception to raise, or a function of the request that
    gives one of these. A call after the last entry is an `AssertionError`; with `repeat` the script starts again. Chunks
    are emitted only where `request.stream` is true, and with `yields` the event loop gets a turn before each.

    Attributes:
        calls: How often the model was asked.
        requests: What it was asked, the last 1,000.
    """

    def __init__(self, script: Iterable[Entry], *, repeat: bool = False, yields: bool = False) -> None:
        if isinstance(script, str):
            raise TypeError(f"the script is a list of answers: [{script!r}]")
        self.calls = 0
        self.requests: deque[ModelRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._script = tuple(script)
        self._repeat = repeat
        self._yields = yields

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """Answer with the next entry."""
        self.requests.append(request)
        self.calls += 1
        answer = self._next(request)
        if isinstance(answer, str):
            return ModelResponse.of(answer, model="scripted")
        if isinstance(answer, ModelResponse):
            return answer
        if not isinstance(answer, ScriptedReply):
            raise answer
        response = answer.response(self.calls)
        if answer.delay:
            await anyio.sleep(answer.delay)
        for piece in answer.chunks:
            await self._play(piece, request)
        return response

    def _next(self, request: ModelRequest) -> Answer:
        place = self.calls - 1
        if self._repeat and self._script:
            place %= len(self._script)
        if place >= len(self._script):
            raise AssertionError(
                f"the script has {len(self._script)} answers and this is call {self.calls}; make it longer, or repeat=True"
            )
        entry = self._script[place]
        if isinstance(entry, str | ScriptedReply | ModelResponse | Exception):
            return entry
        return entry(request)

    async def _play(self, piece: str | float | Exception, request: ModelRequest) -> None:
        if isinstance(piece, str):
            if self._yields:
                await anyio.lowlevel.checkpoint()
            if request.stream:
                await request.emit(TextDelta(text=piece, step=request.step))
        elif isinstance(piece, int | float):
            await anyio.sleep(piece)
        else:
            raise piece


def _wanted(item: tuple[str, Mapping[str, Any]] | FunctionCall, call_id: str) -> FunctionCall:
    if isinstance(item, FunctionCall):
        return item
    name, arguments = item
    return FunctionCall(id=call_id, name=name, arguments=msgspec.json.encode(arguments).decode())
