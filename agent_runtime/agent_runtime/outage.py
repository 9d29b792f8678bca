"""A layer's store that fails, while runs go on without it."""

import logging

from agent_runtime.context import AgentContext
from agent_runtime.errors import AgentRuntimeError, ErrorType, safe_text
from agent_runtime.events import EventType
from agent_runtime.lint import Stage

logger = logging.getLogger(__name__)


class StoreOutage:
    """Tells of each failure on the event bus, and of each outage in the log: a warning when it begins, a line when it ends.

    Attributes:
        failures: How many there were.
    """

    __slots__ = ("_lasting", "failures")

    def __init__(self) -> None:
        self.failures = 0
        self._lasting = 0

    async def failed(self, layer: str, stage: Stage, context: AgentContext, error: AgentRuntimeError) -> None:
        """The store of `layer` failed with `error`: `middleware_failed` says so, with `degraded` in its metadata."""
        if not self._lasting:
            logger.warning("%s goes on without its store, which fails: %s", layer, safe_text(error))
        self._lasting += 1
        self.failures += 1
        await context.publish(
            EventType.MIDDLEWARE_FAILED,
            error_type=ErrorType.STORE,
            error_message=safe_text(error),
            metadata={"middleware": layer, "stage": stage, "degraded": True},
        )

    def answered(self, layer: str) -> None:
        """The store of `layer` answered."""
        if self._lasting:
            logger.warning("the store of %s answers again, after %d failures", layer, self._lasting)
            self._lasting = 0
