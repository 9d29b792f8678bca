"""The public face of the runtime: what a user builds once and calls many times."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Self, get_args

import anyio
from anyio.lowlevel import current_token

from agent_runtime.agent import LLMAgent
from agent_runtime.background import Background
from agent_runtime.batch import Execute, Item, as_completed, in_order
from agent_runtime.config import AgentConfig
from agent_runtime.consumer import AgentStream, Producer, TextStream
from agent_runtime.context import Agent, AgentContext, AgentFunction, LLMClient, TextClient
from agent_runtime.edge import PLAIN, Channel, Sink
from agent_runtime.errors import ConfigurationError
from agent_runtime.events import EventBus
from agent_runtime.hold import OnBusy, SessionTerms
from agent_runtime.journal import Durability
from agent_runtime.limits import Limits
from agent_runtime.lint import Finding, LayerKind, Stage
from agent_runtime.pipeline import Layer, MiddlewarePipeline
from agent_runtime.run import Run
from agent_runtime.runner import Runner
from agent_runtime.sessions import SessionManager
from agent_runtime.stream import Emit
from agent_runtime.tools import Tool
from agent_runtime.types import AgentResult, Principal, Resume


class AgentExecutor:
    """Runs contexts through `middleware` to `agent`; any number at once, each with its own state.

    Args:
        agent: `async run(context) -> AgentResult | str`, or an async callable of the context. Or give `config`,
            `llm_client` and `tools` for the built-in agent.
        agent_id: The only agent that contexts may ask for. Left out, a context may name any, and the agent's own name is
            filled in where it names none.
        middleware: Layers, the outermost first, or a `MiddlewarePipeline`.
        event_bus: Where the life of runs is told.
        session_manager: Where the conversations of contexts with a `session_id` are kept.
        limits: What a run may take.
        on_busy: When the session of a run is held by another: `"reject"` the run with `SessionConflict`, have it `"wait"`
            its turn until its deadline, or `"allow"` both: each adds its turn when it ends, and nothing is kept of a run
            that is cut short.
        durability: When a step of a run with a session is stored: `"sync"` before the run goes on; `"async"` behind it, so
            that a crash may lose the last steps; `"exit"` when the run stops, so that a crash loses the run. Before an
            `effect` tool starts, all but `"exit"` wait until that is stored.
        strict: Refuse a pipeline in which `lint` finds an error.
        shutdown_grace: Seconds that runs in flight have to end when the executor closes; then they are cancelled.

    What is put together wrongly fails here, with `ConfigurationError`, `TypeError` or `ValueError`. Plain execution works
    as it is. `async with executor:` opens layers with resources, clients and the bus; on exit it drains the runs, closes
    what it opened and nothing else, and afterwards refuses to run. Entries may be nested; the last exit closes.
    """

    def __init__(
        self,
        agent: Agent | AgentFunction | None = None,
        *,
        config: AgentConfig | None = None,
        llm_client: LLMClient | TextClient | None = None,
        tools: Sequence[Tool | Callable[..., Any]] = (),
        agent_id: str | None = None,
        middleware: Iterable[Layer] | MiddlewarePipeline = (),
        event_bus: EventBus | None = None,
        session_manager: SessionManager | None = None,
        limits: Limits | None = None,
        on_busy: OnBusy = "reject",
        durability: Durability = "sync",
        strict: bool = False,
        shutdown_grace: float = 10.0,
    ) -> None:
        self.agent = _agent(agent, config, llm_client, tools)
        self.agent_id = agent_id or _name(self.agent)
        self.pipeline = middleware if isinstance(middleware, MiddlewarePipeline) else MiddlewarePipeline(middleware)
        self.event_bus = event_bus
        self.session_manager = session_manager
        self.limits = limits or Limits()
        self.shutdown_grace = shutdown_grace
        self._strict = strict
        settings = getattr(self.agent, "config", None)
        timeout = settings.timeout if isinstance(settings, AgentConfig) else None
        for option, value, allowed in (
            ("on_busy", on_busy, get_args(OnBusy)),
            ("durability", durability, get_args(Durability)),
        ):
            if value not in allowed:
                raise ConfigurationError(f"{option} is {value!r}; it must be one of {', '.join(allowed)}")
        self._background = Background()
        self._runner = Runner(
            getattr(self.agent, "run", self.agent),
            agent_id=self.agent_id,
            only_agent_id=agent_id is not None,
            pipeline=self.pipeline,
            bus=event_bus,
            terms=None
            if session_manager is None
            else SessionTerms(
                sessions=session_manager,
                limits=self.limits,
                on_busy=on_busy,
                durability=durability,
                resumable=getattr(self.agent, "resumable", False),
                fingerprint=getattr(self.agent, "fingerprint", ""),
            ),
            limits=self.limits,
            check=self._check,
            timeout=timeout or self.limits.run,
            background=lambda: self._background,
        )
        self._lifespan: AsyncExitStack | None = None
        self._entries = 0

    async def execute(
        self,
        context: AgentContext,
        *,
        principal: Principal | None = None,
        emit: Emit | None = None,
        allow_reset: bool = False,
        raise_on_error: bool = False,
        resume: Resume | None = None,
    ) -> AgentResult:
        """Run `context` and return its result.

        A failure that the runtime knows comes back with `success=False`, or is raised with `raise_on_error`. Any other
        exception is a bug and is raised as it is. A cancelled call ends cancelled, after the layers have cleaned up.

        Args:
            principal: Who asks, when the host has authenticated already.
            emit: Takes the run's stream events, one at a time; an `emit` that raises ends the run with `ConsumerGone`.
            allow_reset: Whether `emit` can take a `Reset`, so that text may be produced again after it was delivered.
            raise_on_error: Raise a failure instead of returning it.
            resume: Go on with an unfinished run of the context's session. The whole onion runs again, authorization too,
                and sees the context as it is given here; the agent gets the task, metadata and messages that the run
                began with.
        """
        edge = PLAIN if emit is None else Sink(emit, allow_reset=allow_reset)
        result = await self._runner.run(context, principal, edge, resume)
        return result.unwrap() if raise_on_error else result

    def stream(
        self,
        context: AgentContext,
        *,
        principal: Principal | None = None,
        allow_reset: bool = False,
        resume: Resume | None = None,
    ) -> AgentStream:
        """Run `context` and iterate over its events: `async with executor.stream(context) as stream:`."""
        return AgentStream(self._producer(context, principal, allow_reset=allow_reset, resume=resume))

    def execute_stream(
        self, context: AgentContext, *, principal: Principal | None = None, resume: Resume | None = None
    ) -> TextStream:
        """Run `context` and iterate over its text: `async for text in executor.execute_stream(context):`.

        Outside `async with executor:` it needs asyncio.
        """
        return TextStream(self._producer(context, principal, allow_reset=False, resume=resume), self._background)

    async def execute_batch(
        self, contexts: Iterable[AgentContext], *, max_concurrency: int = 8, principal: Principal | None = None
    ) -> list[AgentResult]:
        """Run all `contexts`, at most `max_concurrency` at once; results in their order, each failing alone."""
        return await in_order(self._plain(principal), contexts, max_concurrency=max_concurrency)

    def batch(
        self, contexts: Iterable[AgentContext], *, max_concurrency: int = 8, principal: Principal | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Item]]:
        """Run all `contexts` and iterate over `(index, result)` as they end: `async with executor.batch(...) as done:`.

        A context is taken when there is room for it, so that a generator may give any number of them.
        """
        return as_completed(self._plain(principal), contexts, max_concurrency=max_concurrency)

    def run_sync(
        self,
        context: AgentContext,
        *,
        principal: Principal | None = None,
        raise_on_error: bool = False,
        resume: Resume | None = None,
    ) -> AgentResult:
        """Run `context` in an event loop and a lifespan of its own; for scripts, refused inside a running loop."""
        if _in_event_loop():
            raise RuntimeError(
                "run_sync() inside a running event loop would block it; use `await executor.execute(...)`"
            )

        async def main() -> AgentResult:
            async with self._opened():
                return await self.execute(context, principal=principal, raise_on_error=raise_on_error, resume=resume)

        try:
            return anyio.run(main)
        finally:
            self._background = Background()  # the old one belongs to the loop that has ended

    @property
    def runs(self) -> Mapping[str, Run]:
        """The runs in flight, by run id."""
        return MappingProxyType(self._runner.runs)

    def cancel(self, run_id: str) -> bool:
        """End a run in flight with `RunCancelled`; false when there is none of that id."""
        run = self._runner.runs.get(run_id)
        if run is None:
            return False
        run.cancel()
        return True

    def lint(self) -> list[Finding]:
        """What is unsafe in this pipeline around this agent."""
        return self.pipeline.lint(_stages(self.agent))

    def explain(self) -> str:
        """The onion as text: the stages that the agent reaches."""
        reached = {Stage.RUN, *_stages(self.agent)}
        return f"agent {self.agent_id}\n{self.pipeline.explain(stage for stage in Stage if stage in reached)}"

    async def aclose(self) -> None:
        """Drain the runs for `shutdown_grace` seconds, cancel the rest, end background work. Again is a no-op."""
        await self._runner.drain(self.shutdown_grace)
        await self._background.aclose()

    async def __aenter__(self) -> Self:
        if self._entries == 0:
            stack = AsyncExitStack()
            await stack.enter_async_context(self._opened())
            self._lifespan = stack
        self._entries += 1
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entries -= 1
        if self._entries == 0 and self._lifespan is not None:
            stack, self._lifespan = self._lifespan, None
            async with stack:
                await self._runner.drain(self.shutdown_grace)

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[None]:
        """Resources open inside, the outermost layer first; each is closed when it was opened here."""
        async with AsyncExitStack() as stack:
            for resource in self._resources():
                await stack.enter_async_context(resource)
            await stack.enter_async_context(self._background)
            self._runner.open = True
            try:
                yield
            finally:
                self._runner.open = False

    def _resources(self) -> list[Any]:
        parts = (self.event_bus, self.session_manager, getattr(self.agent, "client", None), self.agent)
        return [part for part in parts if hasattr(part, "__aenter__")] + self.pipeline.resources()

    def _producer(
        self, context: AgentContext, principal: Principal | None, *, allow_reset: bool, resume: Resume | None
    ) -> Producer:
        async def run(channel: Channel) -> AgentResult:
            return await self._runner.run(context, principal, channel, resume)

        return Producer(run, Channel(self.limits, allow_reset=allow_reset))

    def _plain(self, principal: Principal | None) -> Execute:
        async def execute(context: AgentContext) -> AgentResult:
            return await self._runner.run(context, principal, PLAIN)

        return execute

    def _check(self) -> None:
        """Refuse a pipeline that cannot work, when the executor is built and when a layer was added since."""
        config = getattr(self.agent, "config", None)
        if LayerKind.RETRY in self.pipeline.kinds and isinstance(config, AgentConfig) and config.sets_retry:
            raise ConfigurationError(
                "retries are set twice: by a retry layer and by AgentConfig.retry_attempts or retry_delay; drop one of them"
            )
        errors = [finding for finding in self.lint() if finding.severity == "error"]
        refused = errors if self._strict else [finding for finding in errors if finding.code == "AR010"]
        if refused:
            raise ConfigurationError("the pipeline is refused:\n" + "\n".join(f"- {finding}" for finding in refused))


def reaches(*stages: Stage, resumable: bool = False) -> Callable[[AgentFunction], AgentFunction]:
    """Declare which inner stages an agent function reaches: `@reaches(Stage.MODEL)`.

    `resumable` says that its runs may be resumed: started again from the top, it makes the same calls, with the same
    `ModelRequest.step` and `ToolCall.idempotency_key` (made from `context.run.origin`), up to where it was cut short.
    """

    def mark(function: AgentFunction) -> AgentFunction:
        function.stages = frozenset(stages)  # type: ignore[attr-defined]  # functions take attributes
        function.resumable = resumable  # type: ignore[attr-defined]  # the same
        return function

    return mark


def _agent(
    agent: Any, config: AgentConfig | None, llm_client: LLMClient | TextClient | None, tools: Sequence[Any]
) -> Any:
    if agent is not None:
        if config is not None or llm_client is not None or tools:
            raise ConfigurationError("give an agent, or config=, llm_client= and tools= for the built-in one; not both")
        _check_agent(agent)
        return agent
    if llm_client is None:
        raise ConfigurationError("no agent and no llm_client: the executor has nothing to answer with")
    if config is None:
        raise ConfigurationError("llm_client= needs config=AgentConfig(name=...)")
    return LLMAgent(config, llm_client, tools)


def _check_agent(agent: Any) -> None:
    call = getattr(agent, "run", agent)
    if inspect.isclass(agent):
        raise TypeError(f"{agent.__name__} is a class; give an instance: {agent.__name__}(...)")
    if not callable(call):
        raise TypeError(f"{agent!r} is no agent: it needs `async run(context)`, or must be an async callable")
    if inspect.isasyncgenfunction(call):
        raise TypeError(
            f"agent {_name(agent)!r} is an async generator; an agent returns its answer, and pushes pieces of it "
            "by `await context.emit(TextDelta(text=...))`"
        )


def _stages(agent: Any) -> frozenset[Stage]:
    return frozenset(Stage(stage) for stage in getattr(agent, "stages", ()))


def _name(agent: Any) -> str:
    name = getattr(agent, "name", None) or getattr(agent, "__name__", None)
    return name if isinstance(name, str) else type(agent).__name__


def _in_event_loop() -> bool:
    try:
        current_token()
    except RuntimeError:
        return False
    return True
