"""A: what one run costs that waits for nothing."""

import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    FunctionCall,
    Message,
    ModelRequest,
    ModelResponse,
    ToolCall,
    ToolResult,
    tool,
)
from benchmarks import bare, onion
from benchmarks.harness import Case, Measure, Sides, calls, per_call

OUTPUT = "hi"
MANY = 50  # layers between which A3 takes the difference: ten would drown in the noise of a run


async def agent(context: AgentContext) -> str:
    return OUTPUT


async def bare_agent(context: bare.Context) -> str:
    return OUTPUT


def executed(layers: int) -> AgentExecutor:
    return AgentExecutor(agent, middleware=onion.layers(onion.Passing(), layers))


def hand_written(layers: int) -> Callable[[], Awaitable[bare.Answer]]:
    handler = bare.onion(bare_agent, layers)
    context = bare.context()

    async def execute() -> bare.Answer:
        return bare.Answer(output=await handler(context))

    return execute


async def checked(layers: int) -> Sides:
    """A run inside that many layers, on both sides, after both answered and called every layer."""
    executor = executed(layers)
    await onion.assert_called(executor, onion.Passing.process, OUTPUT)
    limit = hand_written(layers)
    assert (await limit()).output == OUTPUT
    assert await calls(bare.passing, limit) == layers
    context = onion.context()
    return Sides(limit=per_call(limit), ours=per_call(lambda: executor.execute(context)))


@asynccontextmanager
async def plain_run() -> AsyncGenerator[Sides]:
    yield await checked(0)


@asynccontextmanager
async def ten_layers() -> AsyncGenerator[Sides]:
    yield await checked(10)


@asynccontextmanager
async def one_more_layer() -> AsyncGenerator[Sides]:
    none, many = await checked(0), await checked(MANY)
    yield Sides(limit=difference(none.limit, many.limit), ours=difference(none.ours, many.ours))


def difference(none: Measure, many: Measure) -> Measure:
    """The cost of one layer: what `MANY` add, measured by turns."""

    async def measured(number: int) -> float:
        parts = max(number // 8, 1)
        turns = [await many(parts) - await none(parts) for _ in range(min(number, 8))]
        return statistics.median(turns) / MANY

    return measured


class PassingTools(BaseMiddleware):
    """A layer that does nothing around each tool call."""

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        return await call_next(call)


@tool(kind="pure")
async def add(a: int, b: int = 2) -> str:
    """Add two numbers."""
    return str(a + b)


WANTED = ModelResponse(
    message=Message(role="assistant", tool_calls=(FunctionCall(id="1", name="add", arguments='{"a":1}'),)),
    finish_reason="tool_calls",
)


class AddingClient:
    """A model that wants `add` called once and answers with what it gave."""

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        last = request.messages[-1]
        return ModelResponse.of(last.content) if last.role == "tool" else WANTED


class Sum(msgspec.Struct, frozen=True):
    a: int
    b: int = 2


async def bare_add(arguments: Sum) -> str:
    return str(arguments.a + arguments.b)


async def passing_tool(arguments: Sum, call_next: Callable[[Sum], Awaitable[str]]) -> str:
    return await call_next(arguments)


def bound_tool(call_next: Callable[[Sum], Awaitable[str]]) -> Callable[[Sum], Awaitable[str]]:
    return lambda arguments: passing_tool(arguments, call_next)


async def bare_model(messages: tuple[Message, ...]) -> ModelResponse:
    last = messages[-1]
    return ModelResponse.of(last.content) if last.role == "tool" else WANTED


def bare_tool_agent() -> bare.Handler:
    """Messages, model, tool, model, as somebody would write it who needs only this."""
    decode = msgspec.json.Decoder(Sum).decode
    call = bound_tool(bound_tool(bound_tool(bare_add)))

    async def run(context: bare.Context) -> str:
        messages: tuple[Message, ...] = (Message(role="user", content=context.current_task),)
        while True:
            response = await bare_model(messages)
            messages += (response.message,)
            wanted = response.message.tool_calls
            if not wanted:
                return response.message.content
            for item in wanted:
                content = await call(decode(item.arguments))
                messages += (Message(role="tool", content=content, tool_call_id=item.id, name=item.name),)

    return run


@asynccontextmanager
async def tool_round_trip() -> AsyncGenerator[Sides]:
    executor = AgentExecutor(
        config=AgentConfig(name="agent"),
        llm_client=AddingClient(),
        tools=[add],
        middleware=[*onion.layers(onion.Passing(), 10), *onion.layers(PassingTools(), 3)],
    )
    context = onion.context()

    async def ours() -> AgentResult:
        return await executor.execute(context)

    result = await ours()
    assert (result.output, len(result.messages)) == ("3", 3), result
    assert await calls(onion.Passing.process, ours) == 10
    assert await calls(PassingTools.process_tool, ours) == 3
    handler = bare.onion(bare_tool_agent(), 10)
    bare_context = bare.context()

    async def limit() -> bare.Answer:
        return bare.Answer(output=await handler(bare_context))

    assert (await limit()).output == "3"
    assert await calls(bare.passing, limit) == 10
    assert await calls(passing_tool, limit) == 3
    yield Sides(limit=per_call(limit), ours=per_call(ours))


CASES = (
    Case("A1", "µs", plain_run),
    Case("A2", "µs", ten_layers),
    Case("A3", "µs", one_more_layer),
    Case("A4", "µs", tool_round_trip),
)
