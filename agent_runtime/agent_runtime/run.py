"""The one mutable cell of a run."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec

from agent_runtime.edge import Edge
from agent_runtime.errors import AgentRuntimeError, ConfigurationError, RuntimeClosed, Suspended
from agent_runtime.events import EventBus
from agent_runtime.journal import Journal
from agent_runtime.limits import Limits
from agent_runtime.payload import check_name
from agent_runtime.state import State
from agent_runtime.types import NO_USAGE, AgentResult, ModelResponse, Principal, Resume, RunStatus, ToolResult, Usage


class Handlers(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """A compiled pipeline: one handler per stage, and what the runtime asks about its layers."""

    run: Callable[[Any], Awaitable[AgentResult]]  # of AgentContext
    model: Callable[[Any], Awaitable[ModelResponse]]  # of ModelRequest
    tool: Callable[[Any], Awaitable[ToolResult]]  # of ToolCall
    kinds: frozenset[str] = frozenset()
    needs_chunks: bool = False


class Run:
    """The run's one mutable cell, seen by every layer at every stage.

    Attributes:
        run_id: Time-ordered and new for each execution.
        status: Where the run stands.
        admitted: True when its input has been checked.
        usage: Live; failed attempts are included.
        state: Typed values that layers share.
        limits: The executor's limits.
        handlers: The compiled pipeline that this run started with.
        closed: True when nothing more may start in this run.
        executions: How often the agent was started.
        answered: Whether it has answered since it was started last.
        retries: Repeated model calls and repeated executions of the agent.
        model_calls: Calls that reached a model client, failed ones included.
        tool_calls: Calls that reached a tool.
        effects: Whether a tool was started that is not `pure`, or whose kind is not known.
        resume: How it goes on with another run; `None` where it is new.
        origin: The run that this one goes on with, directly or not; its own `run_id` where it is new.
        resumed_from: The last run that worked on `origin` before this one.
        suspended: What it waits for; nothing more may start in it then.
        fence: The fencing token of its session's lease, for other systems that it writes to; `None` without one.
        journal: What it has done so far; `None` before the agent calls anything.
        trace_id: Set by a tracing layer.
    """

    __slots__ = (
        "admitted",
        "answered",
        "bus",
        "cancel_requested",
        "closed",
        "edge",
        "effects",
        "executions",
        "failure",
        "fence",
        "handlers",
        "journal",
        "limits",
        "model_calls",
        "origin",
        "principal",
        "resume",
        "resumed_from",
        "retries",
        "run_id",
        "scope",
        "sequence",
        "started",
        "state",
        "status",
        "streaming",
        "suspended",
        "tool_calls",
        "trace_id",
        "usage",
    )

    def __init__(
        self,
        run_id: str,
        *,
        handlers: Handlers,
        limits: Limits,
        bus: EventBus | None,
        edge: Edge,
        scope: anyio.CancelScope,
    ) -> None:
        self.run_id = self.origin = run_id
        self.resume: Resume | None = None
        self.resumed_from: str | None = None
        self.suspended: Suspended | None = None
        self.fence: int | None = None
        self.journal: Journal | None = None
        self.handlers = handlers
        self.limits = limits
        self.bus = bus
        self.edge = edge
        self.scope = scope
        self.streaming = edge.listening or handlers.needs_chunks
        self.status = RunStatus.CREATED
        self.admitted = False
        self.principal: Principal | None = None
        self.usage: Usage = NO_USAGE
        self.state = State()
        self.closed = False
        self.cancel_requested = False
        self.failure: Exception | None = None
        self.executions = 0
        self.answered = False
        self.retries = 0
        self.model_calls = 0
        self.tool_calls = 0
        self.effects = False
        self.sequence = 0
        self.started = time.perf_counter()
        self.trace_id: str | None = None

    def __getattr__(self, name: str) -> object:
        """Only reached on the placeholder of a context that no executor has started."""
        raise ConfigurationError(f"context.run.{name}: this context is not in a run; pass it to an executor first")

    def authenticated(self, principal: Principal) -> None:
        """Say who presented a credential that holds; a second principal in one run is a `ConfigurationError`.

        A subject or tenant that is no name of 1 to 255 printable characters is `InvalidInput`.
        """
        check_name(principal.subject, "principal.subject")
        if principal.tenant is not None:
            check_name(principal.tenant, "principal.tenant")
        if self.principal is not None:
            raise ConfigurationError(f"run {self.run_id!r} has a principal already; use one Auth layer, or principal=")
        self.principal = principal

    def cancel(self) -> None:
        """End the run from inside: it comes back with `RunCancelled`."""
        self.cancel_requested = True
        self.closed = True
        self.scope.cancel()

    def abort(self) -> None:
        """End the run because its consumer is gone."""
        self.closed = True
        self.scope.cancel()

    def refusal(self) -> AgentRuntimeError:
        """Why nothing more may start in this run."""
        return self.edge.gone or RuntimeClosed(f"run {self.run_id!r} has ended; nothing can be called in it any more")

    def spend(self, usage: Usage) -> None:
        """Add to the run's usage."""
        self.usage = self.usage + usage if self.usage is not NO_USAGE else usage

    def elapsed_ms(self) -> float:
        """Milliseconds since the run was made."""
        return (time.perf_counter() - self.started) * 1000.0

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.status!s})"


NO_RUN = Run.__new__(Run)
