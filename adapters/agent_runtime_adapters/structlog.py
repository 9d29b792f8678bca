"""Log records to structlog. Needs the `structlog` extra."""

from collections.abc import Mapping
from typing import Any, Protocol

try:
    import structlog
    from structlog.typing import FilteringBoundLogger
except ImportError as error:
    raise ImportError("StructlogWriter needs structlog: pip install 'onion-agent-runtime[structlog]'") from error


class Record(Protocol):
    """What is written: `LogRecord` of the logging layer, or anything of that form."""

    @property
    def event(self) -> str: ...

    @property
    def level(self) -> int: ...

    def fields(self) -> Mapping[str, Any]: ...


class StructlogWriter:
    """`LoggingMiddleware(StructlogWriter())` writes each record as one structlog event, its fields as key-value pairs.

    The level filter of structlog's configuration decides what is written, and what it drops is not built.
    """

    def __init__(self, logger: FilteringBoundLogger | None = None) -> None:
        self._logger: FilteringBoundLogger = logger or structlog.get_logger("agent_runtime")

    def wants(self, level: int) -> bool:
        """Whether structlog would write a record of `level`."""
        return self._logger.is_enabled_for(level)

    def __call__(self, record: Record) -> None:
        self._logger.log(record.level, record.event, **record.fields())
