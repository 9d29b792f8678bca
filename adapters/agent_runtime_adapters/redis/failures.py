"""What redis-py and Redis say, in our words. Nothing else in this folder knows the server's error codes."""

import socket
from collections.abc import Mapping
from types import MappingProxyType

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
)

LOST = (ConnectionError, TimeoutError, RedisClusterException, ClusterError, OSError)
"""What redis-py raises when a connection is not there, or no longer."""
REFUSED = (AuthenticationError, AuthorizationError, BusyLoadingError)
"""Which of these are answers of a server, and the connection is as it was."""
_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)

_WAITING: Mapping[str, str] = MappingProxyType(
    {
        "BUSY": "is busy with a script that does not end; SCRIPT KILL on it helps",
        "MISCONF": "cannot write to its disk and takes no writes; look at its log",
        "NOREPLICAS": "has fewer replicas than it must have to take writes (min-replicas-to-write)",
        "UNKILLABLE": "is busy with a script that does not end",
        "LOADING": "is still loading its data",
        "MASTERDOWN": "has lost its primary",
        "CLUSTERDOWN": "does not serve all of its hash slots now",
        "TRYAGAIN": "is moving the hash slot to another node",
        "MOVED": "has moved the hash slot to another node",
        "ASK": "is moving the hash slot to another node",
        "READONLY": "is a replica and takes no writes: the primary is another one, or will be",
        "OOM": "is out of memory (maxmemory) and nothing was written: give it more, or delete something",
    }
)
_REFUSING: Mapping[str, str] = MappingProxyType(
    {
        "NOPERM": "does not let this user do what stores need: INFO, TIME, and the commands of @read, @write and @scripting, on keys"
        " that begin with the prefix in braces",
        "WRONGTYPE": "has keys of something else where these stores keep theirs: choose another prefix",
    }
)


def translated(error: Exception, name: str) -> AgentRuntimeError | None:
    """`StoreServer.translated` for Redis; `name` is the server's."""
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        if _code(error) == "NOAUTH":
            return ConfigurationError(f"{name} asks for a password, and its URL has none")
        return ConfigurationError(f"{name} does not accept the user and password of its URL")
    if isinstance(error, ResponseError):
        return _answered(error, name)
    if isinstance(error, BusyLoadingError):
        return StoreUnavailable(f"{name} {_WAITING['LOADING']}")
    if "max number of clients" in str(error):
        return StoreUnavailable(f"{name} takes no more connections")
    if is_unsent(error):
        return StoreUnavailable(f"{name} cannot be reached")
    if not isinstance(error, (*LOST, RedisError)):
        return None
    return OutcomeUnknown(
        f"the connection to {name} was lost before it answered: the change may be there, or not; read it, or repeat it"
        " with the same operation id"
    )


def is_unsent(error: Exception) -> bool:
    """Whether there was no connection to send anything on."""
    return isinstance(error, RedisClusterException) or isinstance(error.__context__, _NOT_CONNECTED)


def is_demoted(error: Exception) -> bool:
    """Whether another server is the one to ask now, so that the connection should be made anew."""
    return isinstance(error, (ReadOnlyError, BusyLoadingError, ClusterDownError))


def unselected(error: ResponseError, name: str, database: int) -> ConfigurationError | None:
    """The error of a connection whose server has no such database; `None` for what it says otherwise."""
    if "out of range" not in str(error):  # SELECT is the only command then that has a number
        return None
    return ConfigurationError(f"{name} has no database {database}, which its URL names: 0 is always there")


def _answered(error: ResponseError, name: str) -> AgentRuntimeError:
    """A server has read the command. Each answer but the last one says that it did nothing."""
    code = _code(error)
    if code == "DAMAGED":
        return CorruptRecord(f"{name} has something that cannot be read: it is shorter or longer than what was written")
    if code in _WAITING:
        return StoreUnavailable(f"{name} {_WAITING[code]}")
    if code in _REFUSING:
        return ConfigurationError(f"{name} {_REFUSING[code]}")
    if "unknown command" in str(error):
        return ConfigurationError(f"{name} does not know EVALSHA or EVAL: stores need Redis 7 with its scripts")
    if "invalid bulk length" in str(error):
        return LimitExceeded(f"a value is larger than {name} takes (proto-max-bulk-len)")
    return OutcomeUnknown(
        f"{name} gave up an operation half-way, or in a way that is not known here; its log tells more, and the change may be"
        " there, or not"
    )


def _code(error: Exception) -> str:
    status: str | None = getattr(error, "status_code", None)
    return status or str(error).partition(" ")[0]
