"""Tools: typed functions that a model may call."""

import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, TypeAlias, get_args, overload
from weakref import WeakKeyDictionary

import anyio
import msgspec
from anyio.lowlevel import RunVar
from pydantic import ValidationError
from typing_extensions import ParamSpec, TypeVar

from agent_runtime.background import cancel_requested
from agent_runtime.context import ToolCall
from agent_runtime.errors import AgentRuntimeError, ConfigurationError, InvalidInput, ToolFailed
from agent_runtime.run import Handlers, Run
from agent_runtime.text import repair_text
from agent_runtime.tool_schema import ANY_JSON, parameters_of, summary_of
from agent_runtime.types import ToolDefinition, ToolResult

P = ParamSpec("P", default=...)
R = TypeVar("R", default=Any)

ToolKind: TypeAlias = Literal["pure", "idempotent", "effect"]
"""What a second call of a tool with the same arguments does: nothing at all, nothing new, or its effect once more."""

Reconcile: TypeAlias = Callable[[ToolCall], Awaitable[ToolResult | str | None]]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN_PROBLEMS = 10
_arguments = msgspec.json.Decoder(dict[str, Any])


class Tool(Generic[P, R]):
    """A typed function that a model may call: `await tool(call)` validates, runs, and makes text of the result.

    The name, the description and the JSON schema come from the function, its annotations and its docstring (an "Args:"
    section, or `Annotated[..., Field(description=...)]`). A parameter annotated `ToolCall` is given the call, and the model
    does not know of it. `str` is the result as it is, everything else becomes JSON.

    An async function runs in the event loop. A sync one runs in a worker thread, at most `Limits.tool_threads` of one
    executor at a time; it cannot be stopped there, so that a call which is given up leaves its thread behind.

    Args:
        function: A function or bound method whose parameters are all annotated and can be given by name.
        kind: `"pure"` and `"idempotent"` calls may be made again, an `"effect"` never is.
        timeout: Seconds for one call, instead of `Limits.tool`.
        max_output_bytes: The largest result, UTF-8, instead of `Limits.tool_result_bytes`.
        reconcile: Of an `"effect"`: async, given the call, says what became of it when it was started and did not end: its
            result (text, or a `ToolResult`), or `None` when it has not happened. Where it cannot say, it raises an
            `AgentRuntimeError`. Without it, and while the call's thread is at work, the run is suspended, and a person is
            asked.
        name: By default the function's; letters, digits, `_` and `-`, at most 64.
        description: By default the docstring's text before its sections.

    What cannot be called by a model is a `ConfigurationError`.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        kind: ToolKind = "effect",
        timeout: float | None = None,
        max_output_bytes: int | None = None,
        reconcile: Reconcile | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise ConfigurationError(f"{function!r} is no tool: give a function or a bound method")
        self.name = function.__name__ if name is None else name
        _check(self.name, function, kind, timeout, max_output_bytes)
        if reconcile is not None:
            _check_reconcile(self.name, kind, reconcile)
        parameters = parameters_of(function, self.name)
        self.function: Callable[P, R] = function
        self.kind: ToolKind = kind
        self.timeout = timeout
        self.max_output_bytes = max_output_bytes
        self.reconcile = reconcile
        self.definition = ToolDefinition(
            name=self.name,
            description=summary_of(function)[0] if description is None else description,
            parameters=parameters.schema,
        )
        self._validate = parameters.validate
        self._injected = parameters.injected
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(function))  # decorators may hide it
        self._run: Callable[..., Any] = function
        self._running: set[_Job] = set()  # calls in worker threads, or on their way into one
        self._awaited: set[_Job] = set()  # calls in worker threads that somebody waits for

    @property
    def abandoned(self) -> int:
        """How many threads still run for calls that were given up. At `Limits.tool_threads` the next call is refused."""
        return len(self._running - self._awaited)

    async def __call__(self, call: ToolCall, /) -> ToolResult:
        """Run the function with `call.arguments`.

        Raises `InvalidInput` for arguments that do not fit, and `ToolFailed` for a result over the limit and, with the
        error as its cause, for whatever the function raises that is not an `AgentRuntimeError`. Cancelled, an async
        function is cancelled; a sync one goes on, and its result is thrown away.
        """
        try:
            arguments = self._validated(call.arguments)
            if self._injected is not None:
                arguments[self._injected] = call
            value = await (self._run(**arguments) if self._is_async else self._in_thread(call, arguments))
            text, size = _text(value)
        except AgentRuntimeError:
            raise
        except anyio.get_cancelled_exc_class() as error:
            if cancel_requested():
                raise
            raise ToolFailed(f"tool {self.name!r} awaited a task that was cancelled") from error
        except Exception as error:
            raise ToolFailed(f"tool {self.name!r} failed ({type(error).__name__})") from error
        limit = self.max_output_bytes or call.run.limits.tool_result_bytes
        if size > limit:
            raise ToolFailed(
                f"the result of tool {self.name!r} was {size} bytes, the limit is {limit}",
                details={"limit": limit, "actual": size},
            )
        return ToolResult(content=text)

    def is_at_work(self, idempotency_key: str) -> bool:
        """Whether a thread of this process still runs for that call."""
        return any(job.idempotency_key == idempotency_key for job in tuple(self._running))  # threads change the set

    def _validated(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._validate(arguments)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            shown = "; ".join(f"{_place(problem['loc'])}: {problem['msg']}" for problem in problems[:_SHOWN_PROBLEMS])
            more = len(problems) - _SHOWN_PROBLEMS
            raise InvalidInput(
                f"the arguments of tool {self.name!r} do not fit: {shown}" + (f"; and {more} more" if more > 0 else ""),
                details={"field": _place(problems[0]["loc"])},
            ) from error

    async def _in_thread(self, call: ToolCall, arguments: dict[str, Any]) -> Any:
        async with _pool(call.run):
            limit = call.run.limits.tool_threads
            if self.abandoned >= limit:
                raise ToolFailed(
                    f"tool {self.name!r} has {limit} calls that were given up and did not end (Limits.tool_threads)",
                    details={"limit": limit},
                )
            job = _Job(call.idempotency_key)

            def work() -> Any:
                if not job.claim():
                    return None  # given up before it began, and nobody waits
                try:
                    return self._run(**arguments)
                finally:
                    self._running.discard(job)

            self._running.add(job)
            self._awaited.add(job)
            try:
                # The pool's place is free again when the call is given up, on every event loop: hence a limiter per call.
                return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
            finally:
                self._awaited.discard(job)
                if job.claim():  # it has not begun: it never will
                    self._running.discard(job)

    def __repr__(self) -> str:
        return f"Tool({self.name!r}, kind={self.kind!r})"


class _Job:
    """A call in a worker thread."""

    __slots__ = ("_claimed", "idempotency_key")

    def __init__(self, idempotency_key: str) -> None:
        self.idempotency_key = idempotency_key
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Whether who asks is the first: the thread that begins the call, or the caller that gives it up before."""
        return self._claimed.acquire(blocking=False)


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    kind: ToolKind = "effect",
    timeout: float | None = None,
    max_output_bytes: int | None = None,
    reconcile: Reconcile | None = None,
    name: str | None = None,
    description: str | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a `Tool`: `@tool`, or `@tool(kind="pure", timeout=5)`. The options are those of `Tool`."""
    if function is not None:
        return Tool(function)

    def decorate(function: Callable[..., Any]) -> Tool:
        return Tool(function, **options)

    return decorate


def parse_arguments(text: str) -> dict[str, Any]:
    """Decode the JSON object that a model wrote; no text at all is no arguments. Anything else is `InvalidInput`."""
    if not text or text == "{}":
        return {}
    try:
        return _arguments.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"the arguments are not a JSON object: {error}") from error


_pools: RunVar[WeakKeyDictionary[Handlers, anyio.CapacityLimiter]] = RunVar("agent_runtime_tool_pools")


def _pool(run: Run) -> anyio.CapacityLimiter:
    """The places for worker threads of the executor of `run`, in this event loop."""
    pools = _pools.get(None)
    if pools is None:
        pools = WeakKeyDictionary[Handlers, anyio.CapacityLimiter]()
        _pools.set(pools)
    if run.handlers not in pools:
        pools[run.handlers] = anyio.CapacityLimiter(run.limits.tool_threads)
    return pools[run.handlers]


def _check(name: str, function: Any, kind: str, timeout: object, max_output_bytes: object) -> None:
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(f"tool name {name!r}: use letters, digits, _ and -, at most 64; or give name=")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"tool {name!r} is a generator; a tool returns its result")
    if kind not in get_args(ToolKind):
        raise ConfigurationError(f"tool {name!r}: kind is {kind!r}; it must be one of {get_args(ToolKind)}")
    for option, value in (("timeout", timeout), ("max_output_bytes", max_output_bytes)):
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise ConfigurationError(f"tool {name!r}: {option} is {value!r}; it must be a number above zero")


def _check_reconcile(name: str, kind: str, reconcile: Any) -> None:
    if kind != "effect" or not inspect.iscoroutinefunction(reconcile):
        raise ConfigurationError(f'tool {name!r}: reconcile is an async function, and of kind "effect" only')
    try:
        inspect.signature(reconcile).bind(None)
    except TypeError as error:
        raise ConfigurationError(f"tool {name!r}: reconcile is given one argument, the ToolCall: {error}") from error


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "arguments"


def _text(value: Any) -> tuple[str, int]:
    """What the model gets of a result, as valid Unicode, and its size in UTF-8."""
    if not isinstance(value, str):
        data = ANY_JSON.dump_json(value)
        return data.decode(), len(data)
    text = repair_text(value)
    return text, len(text) if text.isascii() else len(text.encode())
