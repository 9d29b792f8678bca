"""What SQLite says, in our words. Nothing else in this folder knows its error codes."""

import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType

from agent_runtime import (
    AgentRuntimeError,
    ConfigurationError,
    CorruptRecord,
    InvalidInput,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
)

_UNFIT = (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGE = "close it, keep a copy, and restore it from a backup, or take out what `sqlite3 FILE .recover` finds"


def is_busy(error: BaseException) -> bool:
    """Whether another process has the file locked, so that the same may go well in a moment."""
    return _code(error) in _BUSY


def is_lasting(error: BaseException) -> bool:
    """Whether the connection may be the reason, so that the next job should open a new one."""
    return isinstance(error, sqlite3.Error) and _code(error) not in {*_BUSY, sqlite3.SQLITE_FULL}


def translated(error: BaseException, file: str, busy_timeout: float) -> BaseException:
    """The error for one caller, with the driver's as its cause. One that is not the driver's is as it was."""
    if isinstance(error, _UNFIT):
        ours: AgentRuntimeError = InvalidInput(
            "a value is of a type that cannot be stored, or text that is not Unicode"
        )
    elif isinstance(error, CorruptRecord):
        ours = CorruptRecord(f"in {file}: {error}; {_DAMAGE}")
    elif isinstance(error, UnicodeDecodeError):  # of the driver, on what SQLite says of a damaged schema
        ours = _damaged(file)
    elif not isinstance(error, sqlite3.Error):
        return error
    elif is_busy(error):
        ours = StoreUnavailable(f"{file} was locked by another process for {busy_timeout:g} s (busy_timeout)")
    else:
        ours = _ERRORS.get(_code(error), _damaged)(file)
    ours.__cause__ = error
    return ours


def not_committed(error: sqlite3.Error, file: str) -> AgentRuntimeError:
    """The error for one caller whose job is in a commit that failed."""
    ours = (_unknown if _code(error) == sqlite3.SQLITE_IOERR else _ERRORS.get(_code(error), _damaged))(file)
    ours.__cause__ = error
    return ours


def _code(error: BaseException) -> int | None:
    """The primary result code; the driver has errors of its own without one, for text that is no UTF-8."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _damaged(file: str) -> AgentRuntimeError:
    return CorruptRecord(f"{file} is damaged, or its tables were changed by something else: {_DAMAGE}")


def _no_database(file: str) -> AgentRuntimeError:
    return CorruptRecord(
        f"{file} is not a SQLite database, or its beginning is damaged: choose another path, or {_DAMAGE}"
    )


def _full(file: str) -> AgentRuntimeError:
    return StoreUnavailable(
        f"there is no room for {file}: the disk or a quota is full; nothing was written. Free some space",
        retryable=False,
    )


def _read_only(file: str) -> AgentRuntimeError:
    return StoreUnavailable(
        f"{file} cannot be written: this process needs the right to write the file and its folder, on a disk that is not"
        " mounted read-only",
        retryable=False,
    )


def _cannot_open(file: str) -> AgentRuntimeError:
    return StoreUnavailable(
        f"{file} cannot be opened: this process needs the right to write the file and its folder, and free file descriptors",
        retryable=False,
    )


def _disk(file: str) -> AgentRuntimeError:
    return StoreUnavailable(f"the disk failed while {file} was read or written; look at the system's log")


def _memory(file: str) -> AgentRuntimeError:
    return StoreUnavailable(f"there is not enough memory to work with {file}")


def _too_big(file: str) -> AgentRuntimeError:
    return LimitExceeded(f"a value is larger than {file} can hold")


def _unknown(file: str) -> AgentRuntimeError:
    return OutcomeUnknown(
        f"the disk failed while {file} was written: the change may be there after a restart, or not; read it, or repeat it with"
        " the same operation id"
    )


_ERRORS: Mapping[int | None, Callable[[str], AgentRuntimeError]] = MappingProxyType(
    {
        sqlite3.SQLITE_NOTADB: _no_database,
        sqlite3.SQLITE_FULL: _full,
        sqlite3.SQLITE_READONLY: _read_only,
        sqlite3.SQLITE_PERM: _read_only,
        sqlite3.SQLITE_CANTOPEN: _cannot_open,
        sqlite3.SQLITE_IOERR: _disk,
        sqlite3.SQLITE_NOMEM: _memory,
        sqlite3.SQLITE_TOOBIG: _too_big,
    }
)


def newer(file: str, version: int, known: int) -> ConfigurationError:
    return ConfigurationError(
        f"{file} has schema {version}, written by a newer version of this library; this one knows schema {known}: upgrade it"
    )


def moved(file: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{file} was moved, deleted or replaced while it was open: put it back, or close this store and open another",
        retryable=False,
    )


def foreign(file: str) -> ConfigurationError:
    return ConfigurationError(f"{file} is a database of something else, and stays as it is: choose another path")
