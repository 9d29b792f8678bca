"""The layers and contexts that several groups put around our side."""

from collections.abc import Callable

from agent_runtime import AgentContext, AgentExecutor, AgentResult, BaseMiddleware, CallNext, StreamEvent, TextDelta
from benchmarks.harness import calls


class Passing(BaseMiddleware):
    """A layer that does nothing."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return await call_next(context)


class Touching(Passing):
    """A layer that looks at every chunk."""

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        emit = context.emit
        characters = 0

        async def look(event: StreamEvent) -> None:
            nonlocal characters
            if type(event) is TextDelta:
                characters += len(event.text)
            await emit(event)

        return await call_next(context.replace(emit=look))


def layers(layer: BaseMiddleware, count: int) -> list[BaseMiddleware]:
    return [layer.named(f"{layer.name} {number}") for number in range(count)]


def context() -> AgentContext:
    return AgentContext(agent_id="agent", user_id="u", current_task="t")


async def assert_called(executor: AgentExecutor, process: Callable[..., object], output: str) -> None:
    """Run once: the answer is right, and each layer, whose code is `process`, was called once."""
    assert (await executor.execute(context())).output == output
    called = await calls(process, lambda: executor.execute(context()))
    assert called == len(executor.pipeline), f"{called} of {len(executor.pipeline)} layers were called"
