"""The built-in agent: messages, model, tools, model, until the model has answered."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import anyio
import msgspec

from agent_runtime.answer_key import client_identity
from agent_runtime.config import AgentConfig
from agent_runtime.context import AgentContext, LLMClient, ModelRequest, TextClient, ToolCall
from agent_runtime.errors import (
    AgentRuntimeError,
    ConfigurationError,
    ConsumerGone,
    LimitExceeded,
    NotFound,
    RunCancelled,
    Suspended,
)
from agent_runtime.lint import LayerKind, Stage
from agent_runtime.model_call import retry_model
from agent_runtime.stream import StreamEvent, TextDelta
from agent_runtime.structured import OutputFormat, Reading
from agent_runtime.tools import Tool, parse_arguments
from agent_runtime.types import AgentResult, FunctionCall, Message, ModelResponse, ServedBy, ToolResult

_ENDS_THE_RUN = (LimitExceeded, ConsumerGone, RunCancelled, ConfigurationError, Suspended)


class LLMAgent:
    """Asks the model, calls the tools that it wants, and asks again, until it wants none.

    The model reads the system prompt, `context.messages` and the task; the result's `messages` are those that came after
    the task. The calls of one answer run at once. An unknown tool, arguments that do not fit, and an error from a tool or
    refused by a tool layer are told to the model; a limit, a wrong configuration, a cancelled run and a consumer that is
    gone end the run, and so does a bug in a layer. A model call is retried as the config says, outside all model layers,
    unless the pipeline has a retry layer. In a session, each answer of the model and each result of a tool is recorded, and
    a run that was cut short goes on from there. Where every answer came from a cache the result is `served_by` "cache".

    With `config.output_type`, the final answer is JSON that fits it: `output` is that JSON, `data` its value. Text is held
    back until then, and emitted as one piece. JSON with a fence or prose around it, a comma too many, or its end cut off is
    repaired (`metadata["output_repairs"]` says how); what does not fit then is told to the model, up to
    `config.output_retries` times.

    Args:
        client: An `LLMClient`, or anything with `async generate(prompt, **params)` that returns text or a
            `ModelResponse`: it gets the task, or the whole conversation as a transcript when there is more, the config's
            parameters, and `tools` when there are any.
        tools: What the model may call; a plain function is made a tool of kind `"effect"`.

    Raises `LimitExceeded` (finish reason `max_steps`) when the model still wants tools after `config.max_steps` or
    `Limits.steps` calls, and `OutputInvalid` when its last answer does not fit the output type.
    """

    resumable = True

    def __init__(
        self,
        config: AgentConfig,
        client: LLMClient | TextClient,
        tools: Sequence[Tool | Callable[..., Any]] = (),
    ) -> None:
        self.config = config
        self.client = client
        self.tools = tuple(_tool(tool) for tool in tools)
        self.name = config.name
        self.stages = frozenset({Stage.MODEL, Stage.TOOL} if tools else {Stage.MODEL})
        self._client = _llm_client(client)
        self._by_name = {tool.name: tool for tool in self.tools}
        if len(self._by_name) < len(self.tools):
            raise ConfigurationError(f"agent {self.name!r} has two tools of one name: {[t.name for t in self.tools]}")
        self.fingerprint = _fingerprint(self.tools)
        self._definitions = tuple(tool.definition for tool in self.tools)
        self._parameters = config.parameters()
        self._format = None if config.output_type is None else OutputFormat(config.output_type)
        self._system = _system(config.system_prompt, self._format)
        self._retry = partial(retry_model, attempts=config.retry_attempts, delay=config.retry_delay)

    async def run(self, context: AgentContext) -> AgentResult:
        """Answer `context`. Cancelled, it has called nothing further; what tools did stays done."""
        asked = (*self._system, *context.messages, Message(role="user", content=context.current_task))
        new: tuple[Message, ...] = ()
        served_by: ServedBy = "cache"
        steps = min(self.config.max_steps, context.run.limits.steps)
        retry = None if LayerKind.RETRY in context.run.handlers.kinds else self._retry
        asking = context if self._format is None else _without_text(context)
        answers = 0
        for step in range(steps):
            response = await asking.call_model(self._request(asked + new, step), self._client, around=retry)
            message = response.message
            new += (message,)
            if not response.cached:
                served_by = "agent"
            if message.tool_calls:
                if step + 1 < steps:
                    new += await self._answers(context, message.tool_calls, step)
                continue
            answers += 1
            result = AgentResult(
                output=message.content,
                messages=new,
                model=response.model,
                finish_reason=response.finish_reason,
                served_by=served_by,
            )
            if self._format is None:
                return result
            reading = self._format.read(message.content)
            if not reading.problems:
                await context.emit(TextDelta(text=reading.text, step=step))
                return _structured(result, reading)
            if answers > self.config.output_retries or step + 1 == steps:
                raise self._format.refusal(reading, message.content, agent=self.name, attempts=answers)
            new += (self._format.reprompt(reading),)
        raise LimitExceeded(
            f"agent {self.name!r} still wanted tools after {steps} model calls (AgentConfig.max_steps, Limits.steps)",
            details={"limit": steps, "finish_reason": "max_steps"},
        )

    def _request(self, messages: tuple[Message, ...], step: int) -> ModelRequest:
        return ModelRequest(
            messages=messages,
            tools=self._definitions,
            parameters=self._parameters,
            output_schema=None if self._format is None else self._format.schema,
            fits=None if self._format is None else self._format.fits,
            step=step,
        )

    async def _answers(self, context: AgentContext, wanted: tuple[FunctionCall, ...], step: int) -> tuple[Message, ...]:
        """What each of the calls gave, in their order."""
        key = f"{context.run.origin}:{step}"
        if len(wanted) == 1:
            return (_message(wanted[0], await self._call(context, wanted[0], f"{key}:0")),)
        results: dict[int, ToolResult] = {}
        failures: list[BaseException] = []
        suspended: list[Suspended] = []

        async def call(index: int) -> None:
            try:
                results[index] = await self._call(context, wanted[index], f"{key}:{index}")
            except Suspended as error:
                suspended.append(error)  # the others go on to their end
            except BaseException as error:  # noqa: BLE001 - raised below, where no group wraps it
                failures.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for index in range(len(wanted)):
                group.start_soon(call, index)
        if failures:
            raise failures[0]
        if suspended:
            raise suspended[0]
        return tuple(_message(wanted[index], results[index]) for index in range(len(wanted)))

    async def _call(self, context: AgentContext, wanted: FunctionCall, key: str) -> ToolResult:
        try:
            tool = self._by_name.get(wanted.name)
            if tool is None:
                known = ", ".join(self._by_name) or "none"
                raise NotFound(f"there is no tool {wanted.name!r}; there are: {known}")
            call = ToolCall(
                id=wanted.id, name=wanted.name, arguments=parse_arguments(wanted.arguments), idempotency_key=key
            )
        except AgentRuntimeError as error:
            return _told(error)
        result = await self._outcome(context, call, tool)
        journal = context.run.journal
        if journal is not None and journal.durable and not context.run.closed:
            await journal.told(journal.known(key, call.name, call.arguments), result)
        return result

    async def _outcome(self, context: AgentContext, call: ToolCall, tool: Tool) -> ToolResult:
        try:
            return await context.call_tool(call, tool)
        except _ENDS_THE_RUN:
            raise
        except AgentRuntimeError as error:
            journal = context.run.journal
            if journal is not None and error is journal.failure:
                raise  # the step could not be recorded
            return _told(error)


def _system(prompt: str | None, output: OutputFormat | None) -> tuple[Message, ...]:
    told = [text for text in (prompt, output and output.instruction) if text]
    return (Message(role="system", content="\n\n".join(told)),) if told else ()


def _without_text(context: AgentContext) -> AgentContext:
    """`context` for calls whose text may turn out to be no answer: it is not emitted, everything else is."""
    emit = context.emit

    async def emit_but_text(event: StreamEvent) -> None:
        if not isinstance(event, TextDelta):
            await emit(event)

    return context.replace(emit=emit_but_text)


def _structured(result: AgentResult, reading: Reading) -> AgentResult:
    metadata = {"output_repairs": list(reading.repairs)} if reading.repairs else {}
    return result.replace(output=reading.text, data=reading.value, metadata=metadata)


def _told(error: AgentRuntimeError) -> ToolResult:
    """An error as the model gets it."""
    told = msgspec.json.encode({"error": str(error), "error_type": error.error_type})
    return ToolResult(content=told.decode(), is_error=True)


def _tool(tool: Any) -> Tool:
    return cast(Tool, tool) if isinstance(tool, Tool) else Tool(tool)


def _fingerprint(tools: Sequence[Tool]) -> str:
    """Changes when a tool is added, removed, or has other parameters or another kind."""
    told = [(tool.name, tool.kind, tool.definition.parameters) for tool in sorted(tools, key=lambda tool: tool.name)]
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()[:32]


def _message(wanted: FunctionCall, result: ToolResult) -> Message:
    return Message(role="tool", content=result.content, tool_call_id=wanted.id, name=wanted.name)


class _Completing:
    """A `TextClient`, as an `LLMClient`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.identity = client_identity(client)
        self.model = getattr(client, "model", None)
        self.provider = getattr(client, "provider", None)

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        parameters = {**request.parameters, "tools": request.tools} if request.tools else request.parameters
        answer = await self._client.generate(_prompt(request.messages), **parameters)
        if isinstance(answer, ModelResponse):
            return answer
        if not isinstance(answer, str):
            raise TypeError(
                f"{type(self._client).__name__}.generate returned {type(answer).__name__}, not str or ModelResponse"
            )
        return ModelResponse.of(answer)


def _prompt(messages: tuple[Message, ...]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _llm_client(client: Any) -> LLMClient:
    method = "complete" if hasattr(client, "complete") else "generate"
    function = getattr(client, method, None)
    if function is None:
        raise ConfigurationError(
            f"{client!r} is no client: it needs `async complete(request)` or `async generate(prompt, **params)`"
        )
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{type(client).__name__}.{method} is not an `async def`")
    return _Completing(client) if method == "generate" else cast(LLMClient, client)
