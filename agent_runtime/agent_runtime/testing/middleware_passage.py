"""One run through one layer: what it says, and what is seen of it from both sides of the layer."""

import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any, Final, Literal, TypeAlias

import msgspec
from anyio.lowlevel import checkpoint

from agent_runtime.context import AgentContext, ModelRequest, ToolCall
from agent_runtime.layer import CallNext
from agent_runtime.lint import Stage
from agent_runtime.state import StateKey
from agent_runtime.stream import Emit, ReasoningDelta, TextDelta
from agent_runtime.types import (
    AgentResult,
    FunctionCall,
    Message,
    ModelResponse,
    Principal,
    ToolResult,
    Usage,
)

Place: TypeAlias = Literal["before", "middle", "after"]
"""Where inside a stage something happens: before its first piece of text, among them, or after the last."""

PLACES: Final[tuple[Place, ...]] = ("before", "middle", "after")
Happening: TypeAlias = Callable[[Emit], Awaitable[None]]
"""What happens there; the emit is the stage's."""


class Call:
    """One time that the layer called what is inside it.

    Attributes:
        gave: What came back: a result or the exception; `None` while it is under way.
        struck: Whether it was under way when the run was struck.
        follows: Whether it was made after that.
        late: Whether it was made when its crossing was over.
    """

    def __init__(self, *, follows: bool, late: bool) -> None:
        self.gave: object = None
        self.struck = False
        self.follows = follows
        self.late = late


class Crossing:
    """One call at one stage, as it is seen from outside of the layer.

    Attributes:
        calls: What the layer made of it inside.
        left: What left the layer: a result or the exception; `None` while it is under way.
        struck: Whether it was under way when the run was struck.
        behind: Whether a call was under way when it was over.
        changed: Which of the things that the layer was given it has changed in place.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.calls: list[Call] = []
        self.left: object = None
        self.struck = False
        self.behind = False
        self.changed = ""


class Passage:
    """One run: it says in pieces that it looks, calls a tool, and says in pieces what that has found.

    Args:
        context: What is asked.
        at: Where `happens` happens.
    """

    def __init__(
        self, context: AgentContext, *, at: tuple[Stage, Place] | None = None, happens: Happening | None = None
    ) -> None:
        self.number = next(_numbers)
        self.context = msgspec.structs.replace(context, created_ns=self.number)  # by which the run is known again
        self.principal = None
        if context.credential is None and context.user_id:
            self.principal = Principal(subject=context.user_id, tenant=context.tenant_id)
        self.answer = f"{context.user_id} asked: {context.current_task} There is a frog."
        self.crossings: list[Crossing] = []
        self.seen_by_the_agent: tuple[object, ...] = ()
        self._at = at
        self._happens = happens
        self._was_struck = False
        self._next: dict[Stage, CallNext[Any, Any]] = {}

    def strike(self) -> None:
        """Note what is under way: in this moment the run is cancelled, or its consumer goes away."""
        self._was_struck = True
        for crossing in self.crossings:
            crossing.struck = crossing.left is None
            for call in crossing.calls:
                call.struck = call.gave is None

    async def cross(
        self, stage: Stage, handler: Callable[[Any], Awaitable[Any]], value: Any, call_next: CallNext[Any, Any]
    ) -> Any:
        """Pass `value` to the layer, and note what leaves it."""
        crossing = Crossing(stage)
        self.crossings.append(crossing)
        self._next[stage] = call_next
        before = _content(value)
        try:
            crossing.left = await handler(value)
        except BaseException as error:
            crossing.left = error
            raise
        finally:
            crossing.behind = any(call.gave is None for call in crossing.calls)
            after = _content(value)
            crossing.changed = ", ".join(name for name in before if before[name] != after[name])
        return crossing.left

    async def enter(self, stage: Stage, value: Any) -> Any:
        """Pass on what the layer has called with, and note what it is given for it."""
        crossing = next(crossing for crossing in reversed(self.crossings) if crossing.stage is stage)
        call = Call(follows=self._was_struck, late=crossing.left is not None)
        crossing.calls.append(call)
        try:
            call.gave = await self._next[stage](value)
        except BaseException as error:
            call.gave = error
            raise
        return call.gave

    async def run(self, context: AgentContext) -> AgentResult:
        """The agent."""
        self.seen_by_the_agent = (context.user_id, context.current_task)
        await self._reach(Stage.RUN, "before", context.emit)
        await context.emit(ReasoningDelta(text="First I look."))
        asked = (Message(role="user", content=context.current_task),)
        wish = await context.call_model(ModelRequest(messages=asked, parameters=_parameters(), step=0), self)
        await self._reach(Stage.RUN, "middle", context.emit)
        call = ToolCall(id="call_0", name="look", arguments={"where": ["pond"]})
        found = await context.call_tool(call.replace(function=LOOK), LOOK)
        told = (wish.message, Message(role="tool", content=found.content, tool_call_id="call_0", name="look"))
        request = ModelRequest(messages=asked + told, parameters=_parameters(), step=1)
        response = await context.call_model(request, self)
        await self._reach(Stage.RUN, "after", context.emit)
        return AgentResult(
            output=response.text,
            data={"found": found.content},
            messages=(*told, response.message),
            model=response.model,
            finish_reason=response.finish_reason,
        )

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """The model: it wants a tool first, and then answers."""
        first = request.step == 0
        text = "I look." if first else self.answer
        wanted = (FunctionCall(id="call_0", name="look", arguments='{"where":["pond"]}'),) if first else ()
        if not first:
            await self._reach(Stage.MODEL, "before", request.emit)
        for number, piece in enumerate(_pieces(text)):
            await checkpoint()
            if request.stream:
                await request.emit(TextDelta(text=piece, step=request.step))
            if number == 0 and not first:
                await self._reach(Stage.MODEL, "middle", request.emit)
        if not first:
            await self._reach(Stage.MODEL, "after", request.emit)
        return ModelResponse(
            message=Message(role="assistant", content=text, tool_calls=wanted),
            usage=Usage(input_tokens=7, output_tokens=3, requests=1),
            finish_reason="tool_calls" if wanted else "stop",
            model="scripted",
        )

    async def look(self, call: ToolCall) -> ToolResult:
        """The tool."""
        await self._reach(Stage.TOOL, "before", call.context.emit)
        await checkpoint()
        await call.context.emit(ReasoningDelta(text="It is deep."))
        await self._reach(Stage.TOOL, "middle", call.context.emit)
        await checkpoint()
        await self._reach(Stage.TOOL, "after", call.context.emit)
        return ToolResult(content=f"a frog in the {call.arguments['where'][0]} of {self.context.user_id}")

    async def _reach(self, stage: Stage, place: Place, emit: Emit) -> None:
        await checkpoint()
        if self._happens is not None and self._at == (stage, place):
            await self._happens(emit)


_numbers = count(time.time_ns())

PASSAGE: Final = StateKey[Passage]("passage of a contract")


class _Look:
    """The tool, which has no effect and may be asked again."""

    kind = "pure"

    async def __call__(self, call: ToolCall, /) -> ToolResult:
        return await call.run.state[PASSAGE].look(call)


LOOK: Final = _Look()


def _parameters() -> dict[str, Any]:
    return {"model": "scripted", "stop": ["---"]}


def _pieces(text: str) -> Iterator[str]:
    """Words, each with the space behind it."""
    words = text.split(" ")
    return (f"{word} " if place < len(words) - 1 else word for place, word in enumerate(words))


def _content(value: AgentContext | ModelRequest | ToolCall) -> dict[str, bytes]:
    """What could be changed in place of what a layer is given, as it is now."""
    context = value if isinstance(value, AgentContext) else value.context
    held: dict[str, object] = {"context.metadata": dict(context.metadata), "context.messages": context.messages}
    if isinstance(value, ModelRequest):
        held |= {"request.parameters": dict(value.parameters), "request.messages": value.messages}
    elif isinstance(value, ToolCall):
        held |= {"call.arguments": dict(value.arguments)}
    return {name: msgspec.json.encode(part, enc_hook=list) for name, part in held.items()}
