"""A layer's store that fails, while runs go on without it."""

import logging

from agent_runtime.context import AgentContext
from agent_runtime.errors import AgentRuntimeError, ErrorType, safe_text
from agent_runtime.events import EventType
from agent_runtime.lint import Stage

logger = logging.getLogger(__name__)


class StoreOutage:
    """Tells of each failure on the event bus, and of each outage in the log: a warning when it begins, a line when it ends.

    Args:
        meanwhile: What the layer does then, for the warning; it ends with "its store".

    Attributes:
        failures: How many there were.
    """

    __slots__ = ("_lasting", "_meanwhile", "failures")

    def __init__(self, meanwhile: str = "goes on without its store") -> None:
        self._meanwhile = meanwhile
        self.failures = 0
        self._lasting = 0

    async def failed(self, layer: str, stage: Stage, context: AgentContext, error: AgentRuntimeError) -> None:
        """The store of `layer` failed with `error`: `middleware_failed` says so, with `degraded` in its metadata."""
        self.raised(layer, error)
        await context.publish(
            EventType.MIDDLEWARE_FAILED,
            error_type=ErrorType.STORE,
            error_message=safe_text(error),
            metadata={"middleware": layer, "stage": stage, "degraded": True},
        )

    def raised(self, layer: str, error: AgentRuntimeError) -> None:
        """The store of `layer` failed with `error`, which the layer raises: no event is needed that says so."""
        if not self._lasting:
            logger.warning("%s %s, which fails: %s", layer, self._meanwhile, safe_text(error))
        self._lasting += 1
        self.failures += 1

    def answered(self, layer: str) -> None:
        """The store of `layer` answered."""
        if self._lasting:
            logger.warning("the store of %s answers again, after %d failures", layer, self._lasting)
            self._lasting = 0
