"""The life of one run: how it starts, how it passes through the onion, and the few ways in which it can end."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import anyio
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled

from agent_runtime.background import Background
from agent_runtime.context import AgentContext, AgentFunction
from agent_runtime.edge import Edge
from agent_runtime.ending import LAST_WORDS, completed, cut_short, failure_of, status_of, tell_end
from agent_runtime.entry import admit
from agent_runtime.errors import (
    AgentFailed,
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    PermissionDenied,
    RunCancelled,
    RuntimeClosed,
    is_suspension,
    sole_error,
)
from agent_runtime.events import EventBus, EventType
from agent_runtime.hold import Hold, SessionTerms
from agent_runtime.ids import new_id
from agent_runtime.limits import Limits
from agent_runtime.lint import LayerKind
from agent_runtime.model_call import complete
from agent_runtime.pipeline import MiddlewarePipeline
from agent_runtime.run import Handlers, Run
from agent_runtime.stream import RunStarted, TextDelta
from agent_runtime.text import repair_text
from agent_runtime.tool_call import invoke
from agent_runtime.types import NO_USAGE, AgentResult, Message, Principal, Resume, RunStatus

_NOTHING = AgentResult(success=False)


class Runner:
    """Takes contexts through one pipeline to one agent. All that changes during a run is in its `Run`."""

    def __init__(
        self,
        answer: AgentFunction,
        *,
        agent_id: str,
        only_agent_id: bool,
        pipeline: MiddlewarePipeline,
        bus: EventBus | None,
        terms: SessionTerms | None,
        limits: Limits,
        check: Callable[[], None],
        timeout: float,
        background: Callable[[], Background],
    ) -> None:
        self.runs: dict[str, Run] = {}
        self._holds: dict[str, Hold] = {}
        self.closed = False
        self.open = False
        self._answer = answer
        self._agent_id = agent_id
        self._only_agent_id = only_agent_id
        self._pipeline = pipeline
        self._bus = bus
        self._terms = terms
        self._limits = limits
        self._check = check
        self._timeout = timeout
        self._background = background
        self._idle: anyio.Event | None = None
        self._resources: list[object] = []
        self.compile()

    def compile(self) -> None:
        """Bind the pipeline's layers around the three innermost handlers; runs in flight keep what they started with."""
        self._check()
        resources = self._pipeline.resources()
        if self.open and any(layer not in self._resources for layer in resources):
            raise ConfigurationError(
                "a layer that holds resources was added to an open executor; add it before opening"
            )
        self._resources = resources
        self._version = self._pipeline.version
        self._plain = self._pipeline.compile(self._innermost, complete, invoke)
        self._observed = self._pipeline.compile(self._innermost, complete, invoke, observe=True)

    async def run(
        self, context: AgentContext, principal: Principal | None, edge: Edge, resume: Resume | None = None
    ) -> AgentResult:
        """Run `context`. A failure that the runtime knows comes back as a result, anything else is raised as it is."""
        if not isinstance(context, AgentContext):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code calls
            raise TypeError(f"a run takes an AgentContext(user_id=..., current_task=...), not {type(context).__name__}")
        scope = anyio.CancelScope(deadline=min(anyio.current_time() + self._timeout, context.deadline))
        run = Run(new_id(), handlers=self._handlers(), limits=self._limits, bus=self._bus, edge=edge, scope=scope)
        edge.end_with(run.abort)
        self.runs[run.run_id] = run
        bound: AgentContext = msgspec.structs.replace(
            context,
            agent_id=context.agent_id or self._agent_id,
            run_id=run.run_id,
            run=run,
            deadline=scope.deadline,
            emit=edge.emit,
            may_ask=False,  # until the agent is started
        )
        try:
            result = completed(run, await self._outcome(bound, principal, scope, resume))
        except Exception as error:
            await self._end(bound, RunStatus.FAILED, error, _NOTHING)
            raise
        except BaseException:
            gone = RunCancelled(f"run {run.run_id!r} was cancelled by its caller")
            await self._end(bound, RunStatus.CANCELLED, gone, _NOTHING)
            raise
        else:
            await self._end(bound, status_of(result.exception), result.exception, result)
            return result
        finally:
            del self.runs[run.run_id]
            if self._idle is not None and not self.runs:
                self._idle.set()
                self._idle = None

    async def drain(self, grace: float) -> None:
        """Refuse new runs, give those in flight `grace` seconds, then cancel them and wait until the last has ended."""
        self.closed = True
        try:
            with anyio.move_on_after(grace):
                await self._all_ended()
        finally:
            for run in tuple(self.runs.values()):
                run.cancel()
            with anyio.move_on_after(LAST_WORDS, shield=True):
                await self._all_ended()

    async def _all_ended(self) -> None:
        while self.runs:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    def _handlers(self) -> Handlers:
        if self._pipeline.version != self._version:
            self.compile()
        observed = self._bus is not None and self._bus.wants(EventType.MIDDLEWARE_EXECUTED)
        return self._observed if observed else self._plain

    async def _end(
        self, context: AgentContext, status: RunStatus, error: Exception | None, result: AgentResult
    ) -> None:
        run = context.run
        run.closed = True
        hold = self._holds.pop(run.run_id, None)
        if hold is not None:
            await hold.close(status, error)
        await tell_end(context, status, error, result)

    async def _outcome(
        self,
        context: AgentContext,
        principal: Principal | None,
        scope: anyio.CancelScope,
        resume: Resume | None,
    ) -> AgentResult:
        cancels = _native_cancels()
        result: AgentResult | None = None
        try:
            with scope:
                result = await self._pass(context, principal, resume)
            if context.run.suspended is not None:  # whatever a layer made of it
                result = failure_of(context.run.suspended)
            if result is None or scope.cancel_called:  # a result after the cancellation: something swallowed it
                result = failure_of(cut_short(context))
        except AgentRuntimeError as error:
            result = failure_of(cut_short(context, error) if scope.cancel_called else context.run.suspended or error)
        except Exception as error:
            if context.run.edge.gone is None:
                raise
            result = failure_of(cut_short(context, error))
        if (now := _native_cancels()) != cancels or now is None:
            await checkpoint_if_cancelled()  # the caller's cancellation, if something in the run has swallowed it
        if now is not None and now != cancels:
            raise asyncio.CancelledError  # the same, when it is no scope's
        return result

    async def _pass(self, context: AgentContext, principal: Principal | None, resume: Resume | None) -> AgentResult:
        run = context.run
        run.status = RunStatus.STARTING
        context = self._admitted(context, principal, resume)
        run.admitted = True
        result = await run.handlers.run(context)
        if not isinstance(result, AgentResult):  # pyright: ignore[reportUnnecessaryIsInstance]  # layers are users' code
            raise TypeError(
                f"the outermost layer returned {type(result).__name__}, not AgentResult; "
                "return `await call_next(context)`, or a result of its own"
            )
        if not result.success:
            raise AgentFailed(result.error or "a layer answered with success=False", result=result)
        if not result.output.isascii():
            result = result.replace(output=repair_text(result.output))
        if run.executions == 0:
            await _started(context)
        edge = run.edge
        if edge.listening and not edge.spoke and result.output:
            await context.emit(TextDelta(text=result.output))
        return result

    def _admitted(self, context: AgentContext, principal: Principal | None, resume: Resume | None) -> AgentContext:
        run = context.run
        if self.closed:
            raise RuntimeClosed("the executor is shut down and takes no more runs")
        if self._resources and not self.open:
            raise ConfigurationError("a layer holds resources: run inside `async with executor:`")
        if self._only_agent_id and context.agent_id != self._agent_id:
            raise InvalidInput(
                f"this executor runs agent {self._agent_id!r}, the context asks for {context.agent_id!r}",
                details={"field": "agent_id"},
            )
        if principal is not None:
            run.authenticated(principal)
        if resume is not None:
            self._check_resumable(context, resume)
            run.resume = resume
        changes = admit(context, self._limits, principal, needs_task=resume is None)
        if principal is None and LayerKind.AUTH not in run.handlers.kinds:
            _check_named_by_host(context)
        return context.replace(**changes) if changes else context

    def _check_resumable(self, context: AgentContext, resume: Resume) -> None:
        if not isinstance(resume, Resume):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' code calls
            raise TypeError(f"resume= takes a Resume(...), not {type(resume).__name__}")
        terms = self._terms
        if terms is None or context.session_id is None:
            raise ConfigurationError("resume= takes a session: session_manager= and a context with session_id")
        if not terms.resumable:
            raise ConfigurationError(
                f"agent {self._agent_id!r} does not checkpoint and cannot be resumed; one that calls its models and tools "
                "through the context can be declared so with @reaches(..., resumable=True)"
            )
        if terms.on_busy == "allow":
            raise ConfigurationError('with on_busy="allow" nothing is kept of a run, and none can be resumed')

    async def _innermost(self, context: AgentContext) -> AgentResult:
        run = context.run
        if run.closed or run.scope.cancel_called:
            raise run.refusal()
        if run.suspended is not None:
            raise run.suspended
        try:
            context = _entrusted(context)
            run.executions += 1
            run.answered = False
            if run.executions == 1:
                await _started(context)
            else:
                run.retries += 1
            if self._terms is None or context.session_id is None:
                result = _answered(await _asked(self._answer(context)), run)
            else:
                result = await self._in_session(context, self._terms, context.session_id)
        except Exception as raised:
            run.failure = error = sole_error(raised)
            if error is raised:
                raise
            raise error from error.__cause__
        run.answered = True
        return result

    async def _in_session(self, context: AgentContext, terms: SessionTerms, session_id: str) -> AgentResult:
        """Take the session, run with its history, add the turn; whoever holds it is the only one who does."""
        run = context.run
        hold = self._holds.get(run.run_id)
        if hold is None:
            hold = self._holds[run.run_id] = Hold(terms, context, session_id, run.resume)
        context = await hold.enter(context)
        async with hold.attended(self._background()):
            result = await self._answered_or_suspended(context, hold)
        task = Message(role="user", content=context.current_task)
        new = result.messages or (Message(role="assistant", content=result.output),)
        await hold.finish((task, *new))
        return result

    async def _answered_or_suspended(self, context: AgentContext, hold: Hold) -> AgentResult:
        journal = hold.journal
        try:
            result = _answered(await _asked(self._answer(context)), context.run)
        except Exception as error:
            if not journal.questions or not is_suspension(error):
                raise
            raise await hold.suspend() from error
        journal.ask_about_doubts()
        if journal.questions:  # or the agent asked, and something in it swallowed that
            raise await hold.suspend()
        return result


def _check_named_by_host(context: AgentContext) -> None:
    """Nobody will authenticate: the host must have said whose run it is, and may not expect a credential to be checked."""
    if context.credential is not None:
        raise ConfigurationError("the context presents a credential, and there is no Auth layer to check it")
    if not context.user_id:
        raise InvalidInput(
            "the context has no user_id: set it, pass principal=, or add an Auth layer", details={"field": "user_id"}
        )


def _entrusted(context: AgentContext) -> AgentContext:
    """The context as the agent gets it: whose it is has been settled, and no credential is left in it."""
    principal = context.run.principal
    if principal is not None and (context.user_id, context.tenant_id) != (principal.subject, principal.tenant):
        raise PermissionDenied("a layer changed user_id or tenant_id after the principal was known")
    if not context.user_id:
        raise InvalidInput(
            "no layer said who the user is; is the Auth layer conditional?", details={"field": "user_id"}
        )
    return context if context.credential is None else context.replace(credential=None)


async def _started(context: AgentContext) -> None:
    """Tell the bus and the stream that the run layers let the run in, or that one of them answered."""
    run = context.run
    if run.bus is not None:
        await context.publish(EventType.AGENT_STARTED)
    if run.edge.listening:
        await run.edge.emit(RunStarted(run_id=run.run_id, agent_id=context.agent_id))
    run.status = RunStatus.RUNNING


def _asked(answer: Awaitable[AgentResult | str]) -> Awaitable[AgentResult | str]:
    if not inspect.isawaitable(answer):
        raise TypeError(f"the agent is not async, it returned {type(answer).__name__}; make it an `async def`")
    return answer


def _answered(answer: object, run: Run) -> AgentResult:
    if isinstance(answer, str):
        return AgentResult(output=answer)
    if not isinstance(answer, AgentResult):
        raise TypeError(f"the agent returned {type(answer).__name__}; it must return AgentResult or str")
    if run.model_calls == 0 and answer.usage is not NO_USAGE:
        run.spend(answer.usage)
    if not answer.success:
        raise AgentFailed(answer.error or "the agent failed without saying why", result=answer)
    return answer


def _native_cancels() -> int | None:
    """How often this asyncio task was cancelled, by a scope or by `cancel()`; `None` on trio, which does not say."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.cancelling()
