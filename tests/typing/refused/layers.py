"""What is no layer, or a layer of another stage."""

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    model_middleware,
)


class OneArgument:
    async def process(self, context: AgentContext) -> AgentResult:
        return AgentResult(output=context.current_task)


class AnswersText:
    async def process(self, context: AgentContext, call_next: CallNext) -> str:
        return (await call_next(context)).output


class Synchronous:
    def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        return AgentResult(output=context.current_task)


class Overrides(BaseMiddleware):
    async def process(self, context: AgentContext) -> AgentResult:  # E: override
        return AgentResult(output=context.current_task)


class Sends(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context.current_task)  # E: arg-type
        return call_next(context)  # E: return-value

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await call_next(request.context)  # E: arg-type


async def agent(context: AgentContext) -> str:
    return context.current_task


async def number(context: AgentContext) -> int:
    return len(context.current_task)


@model_middleware  # E: arg-type
async def around_the_run(context: AgentContext, call_next: CallNext) -> AgentResult:
    return await call_next(context)


AgentExecutor(agent, agent_id="echo", middleware=[OneArgument()])  # E: list-item
AgentExecutor(agent, agent_id="echo", middleware=[AnswersText()])  # E: list-item
AgentExecutor(agent, agent_id="echo", middleware=[Synchronous()])  # E: list-item
AgentExecutor(agent, agent_id="echo", middleware=["logging"])  # E: list-item
AgentExecutor(agent, agent_id="echo", middleware=[BaseMiddleware])  # E: list-item
AgentExecutor(number, agent_id="echo", middleware=[])  # E: arg-type
MiddlewarePipeline([]).add(object())  # E: arg-type
