"""What MongoDB and its driver say, in our words. Nothing else in this folder knows error codes."""

from collections.abc import Mapping
from traceback import walk_tb
from types import MappingProxyType
from typing import Any, cast

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
)

_DRIVER = frozenset({"pymongo", "bson"})
_UNDONE = frozenset({10058, 10107, 13435})  # it is no primary (any more), and has not begun with the write
_DOUBTFUL = frozenset({6, 7, 50, 64, 89, 91, 189, 262, 9001, 11600, 11601, 11602})  # it was ended, or may have been
_TOO_LARGE = frozenset({10334, 17280, 17419, 17420})

# By the server's error code; {} is its name.
_UNAVAILABLE: Mapping[int, str] = MappingProxyType(
    {
        24: "{} has it locked for too long",
        112: "{} undid it for the sake of others who wrote the same: try again",
        146: "{} has not enough memory",
        202: "{} has not enough resources",
    }
)
_STUCK: Mapping[int, str] = MappingProxyType(
    {
        14031: "{} has no room on its disk: nothing was written. Free some space",
    }
)
_MISCONFIGURED: Mapping[int, str] = MappingProxyType(
    {
        11: "{} knows no such user",
        13: "{} does not let this user do it: the role readWrite on the database is needed",
        18: "{} refuses this user, or the password",
        79: "{} knows no such write concern",
        8000: "{} refuses this user, or the password",
        85: "{} has an index of ours with other options: somebody has changed it; drop it to have it made again",
        86: "{} has an index of ours with other options: somebody has changed it; drop it to have it made again",
    }
)


def translated(error: Exception, name: str) -> AgentRuntimeError | None:
    """The error for the caller; `None` for one that is not the driver's."""
    if isinstance(error, DocumentTooLarge):
        return LimitExceeded(f"a value is larger than {name} can hold, 16 MB with what belongs to it")
    if isinstance(error, BSONError | OverflowError | UnicodeEncodeError):
        return InvalidInput("a value is of a type that cannot be stored, or text that is not Unicode")
    if isinstance(error, OperationFailure):
        return _said(error, name)
    if isinstance(error, PyMongoError):
        return _lost(error, name)
    return _unknown(name) if _is_the_driver_s(error) else None


def _is_the_driver_s(error: Exception) -> bool:
    """Whether it comes out of the driver, whatever it is: one of a lock, of a socket or of an answer that makes no sense."""
    if isinstance(error, AgentRuntimeError):
        return False
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(module.partition(".")[0] in _DRIVER for module in modules)


def unreached(error: Exception, name: str) -> AgentRuntimeError | None:
    """The error of a call for which there was no connection, so that nothing was done."""
    ours = translated(error, name)
    return StoreUnavailable(f"{name} cannot be reached") if isinstance(ours, OutcomeUnknown) else ours


def _lost(error: PyMongoError, name: str) -> AgentRuntimeError:
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError):
        return StoreUnavailable(f"{name} cannot be reached, or has no primary")
    if isinstance(error, NotPrimaryError):
        return _refused(name) if _code(error) in _UNDONE else _unknown(name)
    if isinstance(error, AutoReconnect) and isinstance(error.__cause__, ConnectionRefusedError):
        return StoreUnavailable(f"{name} refused the connection")
    if isinstance(error, ConnectionFailure):
        return _unknown(name)
    if isinstance(error, InvalidOperation):
        return StoreUnavailable(f"the connection to {name} was closed")
    return StoreUnavailable(f"{name} did not do it")


def _said(error: OperationFailure, name: str) -> AgentRuntimeError:
    code = _code(error)
    if isinstance(error, WriteConcernError) or _is_unconfirmed(error) or code in _DOUBTFUL:
        return _unknown(name)
    if code in _UNDONE:
        return _refused(name)
    if code in _TOO_LARGE:
        return LimitExceeded(f"a value is larger than {name} can hold, 16 MB with what belongs to it")
    if code in _UNAVAILABLE:
        return StoreUnavailable(_UNAVAILABLE[code].format(name))
    if code in _STUCK:
        return StoreUnavailable(_STUCK[code].format(name), retryable=False)
    if code in _MISCONFIGURED:
        return ConfigurationError(_MISCONFIGURED[code].format(name))
    return StoreUnavailable(f"{name} refused it (code {code}): look at its log", retryable=False)


def _is_unconfirmed(error: OperationFailure) -> bool:
    """Whether it was done, and may be undone by a change of the primary."""
    return bool(error.details and error.details.get("writeConcernErrors"))


def _code(error: OperationFailure | NotPrimaryError) -> int:
    """0 where there is none; a bulk write's is that of its first failure."""
    details = cast("Mapping[str, Any]", error.details or {})
    first: Mapping[str, Any] = next(iter(details.get("writeErrors") or ()), details)
    code = first.get("code", 0)
    return code if isinstance(code, int) else 0


def _refused(name: str) -> AgentRuntimeError:
    return StoreUnavailable(f"{name} takes no writes: it is a secondary, or is changing its primary")


def _unknown(name: str) -> AgentRuntimeError:
    return OutcomeUnknown(
        f"{name} was lost before it answered: the change may be there, or not; read it, or repeat it with the same"
        " operation id"
    )
