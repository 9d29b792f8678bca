"""Every error that the runtime raises on purpose, and the one way in which a library's errors become ours.

AgentRuntimeError                 `kind` says who can do something about it, `error_type` says what happened
├── Denied                        the caller may not
│   ├── AuthenticationFailed      no credential, or one that does not hold
│   └── PermissionDenied          a known caller without the right (also a PermissionError)
├── Invalid                       the input is wrong; the same input fails again (also a ValueError)
│   ├── InvalidInput              a task, message, metadata or tool argument
│   ├── ConfigurationError        the pipeline, the executor or the deployment is put together wrongly
│   ├── RequestRejected           the model provider refused the request
│   ├── NotFound                  no such thing, or not this owner's (also a LookupError)
│   ├── ToolFailed                a tool refuses or fails; its message is written for the model
│   └── OutputInvalid             the model's answer does not fit the agent's output type
├── Conflict                      somebody else was there first
│   └── SessionConflict           the session changed, or another run holds it
├── Unavailable                   try later
│   ├── RunTimeout                the run passed its deadline (also a TimeoutError)
│   ├── CallTimeout               one model call, tool or store operation took too long (also a TimeoutError)
│   ├── ProviderUnavailable       the model provider is down, overloaded or broke off
│   ├── StoreUnavailable          a store cannot be reached or does not answer
│   ├── CorruptRecord             a stored record is damaged, or of a newer version
│   └── RuntimeClosed             the executor or bus is shut down
├── Exhausted                     a limit is reached
│   ├── RateLimited               too many requests or tokens in a time window
│   └── LimitExceeded             too many, too large or too deep
├── Unknown                       nobody can say whether it happened
│   └── OutcomeUnknown            a write was sent and no answer came
├── AgentFailed                   the agent itself answered with `success=False`
├── RunCancelled                  `executor.cancel(run_id)` ended the run
├── Suspended                     the run waits for answers, and goes on with `resume=`
└── ConsumerGone                  the receiver of the stream went away
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar, cast

from agent_runtime.text import repair_text


class ErrorKind(StrEnum):
    """The families of failure: who can do something about it."""

    DENIED = "denied"
    INVALID = "invalid"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"
    ENDED = "ended"


class ErrorType(StrEnum):
    """The one vocabulary of `AgentResult.error_type` and of events; values are stable."""

    AUTHENTICATION = "authentication"
    AUTHORIZATION = "authorization"
    VALIDATION = "validation"
    CONFIGURATION = "configuration"
    REJECTED = "rejected"
    NOT_FOUND = "not_found"
    TOOL = "tool"
    OUTPUT = "output"
    CONFLICT = "conflict"
    TIMEOUT = "timeout"
    PROVIDER = "provider"
    STORE = "store"
    CLOSED = "closed"
    RATE_LIMIT = "rate_limit"
    LIMIT = "limit"
    OUTCOME_UNKNOWN = "outcome_unknown"
    AGENT = "agent"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    CONSUMER_GONE = "consumer_gone"
    INTERNAL = "internal"


class AgentRuntimeError(Exception):
    """Base of every error the runtime raises on purpose. Its text is safe to show: no prompt, key or backend's words.

    `details` holds JSON values (limit, remaining, reset, field …), `retry_after` is in seconds, relative to now.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.UNKNOWN
    error_type: ClassVar[ErrorType] = ErrorType.INTERNAL
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.details: Mapping[str, Any] = details or {}
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable


class Denied(AgentRuntimeError):
    """The caller may not."""

    kind = ErrorKind.DENIED
    error_type = ErrorType.AUTHORIZATION


class AuthenticationFailed(Denied):
    """No credential was presented, or one that does not hold."""

    error_type = ErrorType.AUTHENTICATION


class PermissionDenied(Denied, PermissionError):
    """A known caller asks for something it has no right to."""


class Invalid(AgentRuntimeError, ValueError):
    """The input is wrong; the same input fails again."""

    kind = ErrorKind.INVALID
    error_type = ErrorType.VALIDATION


class InvalidInput(Invalid):
    """A task, message, metadata value or tool argument is refused."""


class ConfigurationError(Invalid):
    """The pipeline, the executor or the deployment is put together wrongly."""

    error_type = ErrorType.CONFIGURATION


class RequestRejected(Invalid):
    """The model provider refused the request; the same request fails again."""

    error_type = ErrorType.REJECTED


class NotFound(Invalid, LookupError):
    """No such thing, or it belongs to somebody else: the two are answered alike."""

    error_type = ErrorType.NOT_FOUND


class ToolFailed(Invalid):
    """A tool refuses or fails. Raise it in a tool to tell the model why: its message is sent to the model."""

    error_type = ErrorType.TOOL


class OutputInvalid(Invalid):
    """The model's answer does not fit the agent's output type, also after it was asked again.

    `text` is its last answer, for code; `details` holds the places of the `problems` and how many `attempts` there were.
    """

    error_type = ErrorType.OUTPUT

    def __init__(self, message: str, *, text: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, details=details)
        self.text = text


class Conflict(AgentRuntimeError):
    """Somebody else was there first."""

    kind = ErrorKind.CONFLICT
    error_type = ErrorType.CONFLICT


class SessionConflict(Conflict):
    """The session changed since it was read, or another run holds it."""


class Unavailable(AgentRuntimeError):
    """Something that the run needs cannot be had now."""

    kind = ErrorKind.UNAVAILABLE
    error_type = ErrorType.PROVIDER
    retryable = True


class RunTimeout(Unavailable, TimeoutError):
    """The run passed its deadline."""

    error_type = ErrorType.TIMEOUT
    retryable = False


class CallTimeout(Unavailable, TimeoutError):
    """One model call, tool or store operation took longer than it was given."""

    error_type = ErrorType.TIMEOUT


class ProviderUnavailable(Unavailable):
    """The model provider cannot be reached, is overloaded, or broke off in the middle of an answer."""


class StoreUnavailable(Unavailable):
    """A store cannot be reached or does not answer. Never used for "not found"."""

    error_type = ErrorType.STORE


class CorruptRecord(Unavailable):
    """A stored record is damaged, or was written by a newer version. It is neither skipped nor guessed at."""

    error_type = ErrorType.STORE
    retryable = False


class RuntimeClosed(Unavailable):
    """The executor or the bus has been shut down and takes no more work."""

    error_type = ErrorType.CLOSED
    retryable = False


class Exhausted(AgentRuntimeError):
    """A limit is reached."""

    kind = ErrorKind.EXHAUSTED
    error_type = ErrorType.LIMIT


class RateLimited(Exhausted):
    """Too many requests or tokens in a time window; `retry_after` says when to come back."""

    error_type = ErrorType.RATE_LIMIT
    retryable = True


class LimitExceeded(Exhausted):
    """Too many, too large or too deep; `details` holds the limit and what was found."""


class Unknown(AgentRuntimeError):
    """Nobody can say whether it happened."""

    error_type = ErrorType.OUTCOME_UNKNOWN


class OutcomeUnknown(Unknown):
    """A write was sent and no answer came back; read before deciding, or repeat it with the same operation id."""


class AgentFailed(AgentRuntimeError):
    """The agent answered with `success=False`; its answer is `result`."""

    error_type = ErrorType.AGENT

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message)
        self.result = result


class RunCancelled(AgentRuntimeError):
    """`executor.cancel(run_id)` or the executor's shutdown ended the run."""

    kind = ErrorKind.ENDED
    error_type = ErrorType.CANCELLED


class Suspended(AgentRuntimeError):
    """The run waits for the answers to `questions`; `execute(context, resume=Resume(answers=...))` goes on with them.

    It passes through every layer, and none may answer it with a retry or a result of its own.
    """

    kind = ErrorKind.ENDED
    error_type = ErrorType.SUSPENDED

    def __init__(self, message: str, *, questions: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.questions = questions


class ConsumerGone(AgentRuntimeError):
    """The receiver of the stream went away, and the run was ended for it. A layer may not answer it with a retry."""

    kind = ErrorKind.ENDED
    error_type = ErrorType.CONSUMER_GONE


@contextmanager
def translate(
    source: type[Exception] | tuple[type[Exception], ...], target: type[AgentRuntimeError], message: str
) -> Generator[None]:
    """Inside, a `source` error is re-raised as `target(message)` with the original as `__cause__`."""
    try:
        yield
    except source as error:
        raise target(message) from error


def sole_error(error: Exception) -> Exception:
    """What failed, without the groups of one that task groups put around it."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    first, *others = group.exceptions
    return group if others else sole_error(first)


def is_suspension(error: BaseException | None, seen: frozenset[int] = frozenset()) -> bool:
    """Whether this is `Suspended`, a group of nothing else, or what somebody has raised in its place.

    `seen` are the ids of those that led here: an error may be, in the end, its own context.
    """
    if error is None or id(error) in seen:
        return False
    seen |= {id(error)}
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_suspension(one, seen) for one in group.exceptions)
    cause = error.__cause__ if error.__suppress_context__ else error.__context__
    return isinstance(error, Suspended) or is_suspension(cause, seen)


def error_type_of(error: BaseException) -> ErrorType:
    """The word for `error`; `internal` for anything that is not ours, which is a bug."""
    return error.error_type if isinstance(error, AgentRuntimeError) else ErrorType.INTERNAL


def safe_text(error: BaseException) -> str:
    """What may be shown of `error`: our own words, half characters replaced, and of anything else only its type."""
    if isinstance(error, AgentRuntimeError):
        return repair_text(str(error))
    return f"internal error ({type(error).__name__})"
