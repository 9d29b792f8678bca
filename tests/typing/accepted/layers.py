"""Every form of layer that the pipeline takes."""

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    MiddlewarePipeline,
    ModelRequest,
    ModelResponse,
    ToolCall,
    ToolResult,
    model_middleware,
    tool_middleware,
    when,
)


class Whole(BaseMiddleware):
    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        result = await call_next(context.replace(current_task=context.current_task.strip()))
        return result.replace(output=result.output.strip())

    async def process_model(
        self, request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]
    ) -> ModelResponse:
        return await call_next(request.replace(attempt=request.attempt + 1))

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        return await call_next(call.replace(arguments={}))


class Plain:
    """No base class: one of the three methods is enough."""

    async def process_tool(self, call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
        return await call_next(call)


async def function(context: AgentContext, call_next: CallNext) -> AgentResult:
    return await call_next(context)


@model_middleware
async def around_the_model(request: ModelRequest, call_next: CallNext[ModelRequest, ModelResponse]) -> ModelResponse:
    return await call_next(request)


@tool_middleware
async def around_a_tool(call: ToolCall, call_next: CallNext[ToolCall, ToolResult]) -> ToolResult:
    return await call_next(call)


def is_long(context: AgentContext) -> bool:
    return len(context.current_task) > 80


async def agent(context: AgentContext) -> str:
    return context.current_task


async def thorough_agent(context: AgentContext) -> AgentResult:
    return AgentResult(output=context.current_task)


inner = MiddlewarePipeline([Plain(), around_a_tool])
layers = [Whole(), function, around_the_model, when(is_long, Plain()), inner]
AgentExecutor(agent, agent_id="echo", middleware=[Whole(), function, around_the_model, when(is_long, Plain()), inner])
AgentExecutor(thorough_agent, agent_id="echo", middleware=[])
