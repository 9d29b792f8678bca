"""What PostgreSQL and its driver say, in our words. Nothing else in this folder knows SQLSTATEs."""

from collections.abc import Mapping
from types import MappingProxyType

import asyncpg

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
)
from agent_runtime_adapters.postgres.connections import Busy, Late

# Of these the server says that it has undone all of the statement, and that the same may go well at once.
_UNDONE = frozenset({"40001", "40P01", "57P01", "57P05"})
_LOST = frozenset({"08000", "08003", "08006", "08007", "08P01", "40003", "57P02"})

# By SQLSTATE, or its first two characters; {} is the server's name. Each statement is a transaction: what failed is undone.
_UNAVAILABLE: Mapping[str, str] = MappingProxyType(
    {
        "08": "{} refused the connection",
        "40": "{} undid it twice for the sake of others who wrote the same: try again",
        "53": "{} has not enough memory or resources",
        "53300": "{} has no free connections: raise its max_connections, or lower max_connections of the stores",
        "55": "{} has it locked for longer than its lock_timeout",
        "57": "{} stopped it: it is shutting down, or has a statement_timeout that is too short",
        "57P03": "{} is starting up or shutting down",
        "25006": "{} takes no writes: it is a replica, or was made read-only",
    }
)
_STUCK: Mapping[str, str] = MappingProxyType(
    {
        "53100": "{} has no room on its disk: nothing was written. Free some space",
        "58": "{} had its disk fail: look at its log",
        "3F": "{} has no such schema any more: somebody has removed it; connect again to have it made",
        "42": "{} has other tables or functions in the schema than this library made: somebody has changed them",
    }
)
# SQLSTATEs that say something else of a connection that is being made: the server takes the parameters of the URL for settings.
_SETTINGS = frozenset({"42704", "22023", "55P02"})

_MISCONFIGURED: Mapping[str, str] = MappingProxyType(
    {
        "28": "{} refuses this user, or the password",
        "3D": "{} has no such database: make it first",
        "42501": "{} does not let this user do it: it needs to own the schema, or CREATE on the database to make it",
        "26": "{} has a PgBouncer before it that keeps no prepared statements: leave statement_cache_size out, or set it to 0",
        "42P05": "{} has a PgBouncer before it that keeps no prepared statements: leave statement_cache_size out, or set it to 0",
    }
)


def is_undone(error: Exception) -> bool:
    """Whether nothing was done, and the same may go well when it is asked for again at once."""
    return _is_unsent(error) or _state(error) in _UNDONE


def is_lost(error: Exception) -> bool:
    """Whether the connection is of no more use, and others may be no better."""
    return isinstance(error, OSError) or _is_unsent(error) or _state(error) in {*_LOST, "57P01", "57P05", "25006"}


def translated(error: Exception, name: str) -> AgentRuntimeError | None:
    """The error for the caller; `None` for one that is not the driver's."""
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):  # of the driver, on an argument
        return InvalidInput("a value is of a type that cannot be stored, or text that is not Unicode")
    if isinstance(error, OSError) or _state(error) in _LOST:
        return OutcomeUnknown(
            f"{name} was lost before it answered: the change may be there, or not; read it, or repeat it with the same"
            " operation id"
        )
    if isinstance(error, asyncpg.PostgresError):
        return _said(error.sqlstate or "", name)
    return StoreUnavailable(f"{name} has closed the connection") if _is_unsent(error) else None


def unopened(error: Exception, name: str) -> AgentRuntimeError:
    """The error of a call for which no connection was free, or could be made, so that nothing was done."""
    if isinstance(error, Busy):
        return StoreUnavailable(f"{name} had no connection free in time, and took no other (max_connections, timeout)")
    if isinstance(error, Late):
        return StoreUnavailable(
            f"{name} let no connection be made in time (timeout): it is overloaded, or something else listens there"
        )
    if isinstance(error, asyncpg.ClientConfigurationError | ValueError) or _state(error) in _SETTINGS:
        return ConfigurationError(
            f"{name} cannot be reached as the URL says: one of the parameters after its ? is not known, or has a wrong value"
        )
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return ConfigurationError(f"{name} does not speak TLS, which the sslmode of its URL asks for")
    return unreached(error, name)


def unreached(error: Exception, name: str) -> AgentRuntimeError:
    """The error of a connection that was lost while it was made ready, so that nothing was done."""
    ours = translated(error, name)
    return StoreUnavailable(f"{name} cannot be reached") if ours is None or isinstance(ours, OutcomeUnknown) else ours


def _is_unsent(error: Exception) -> bool:
    """Whether the driver saw, before it sent anything, that the connection is closed, or (`InternalClientError`) closing."""
    is_closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    return is_closed or type(error) is asyncpg.InternalClientError


def _state(error: Exception) -> str | None:
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None


def _said(state: str, name: str) -> AgentRuntimeError:
    for key in (state, state[:2]):
        if key in _UNAVAILABLE:
            return StoreUnavailable(_UNAVAILABLE[key].format(name))
        if key in _STUCK:
            return StoreUnavailable(_STUCK[key].format(name), retryable=False)
        if key in _MISCONFIGURED:
            return ConfigurationError(_MISCONFIGURED[key].format(name))
    if state in ("XX001", "XX002"):
        return CorruptRecord(f"{name} has found damaged data: keep a copy, and restore it from a backup")
    if state.startswith("54"):
        return LimitExceeded(f"a value is larger than {name} can hold")
    if state.startswith("22"):
        return InvalidInput("a value is text or a number that PostgreSQL cannot hold")
    return StoreUnavailable(
        f"{name} refused it (SQLSTATE {state}): nothing was written; look at its log", retryable=False
    )
