"""An event transport that fails, while those who use it go on and try again."""

import logging

from agent_runtime.errors import AgentRuntimeError, OutcomeUnknown, StoreUnavailable, safe_text

logger = logging.getLogger(__name__)

OUTAGES = (StoreUnavailable, OutcomeUnknown)
"""What passes: the same call may succeed later, and any call may be repeated."""
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0  # seconds


class TransportOutage:
    """Counts failures, and tells the log of each outage: a warning when it begins, a line when it ends.

    Attributes:
        failures: How many there were.
        delay: Seconds to wait before the next try; longer with each failure of an outage, 5 at most.
    """

    __slots__ = ("_lasting", "_who", "failures")

    def __init__(self, who: str) -> None:
        self._who = who
        self._lasting = 0
        self.failures = 0

    @property
    def delay(self) -> float:
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._lasting - 1, 10))

    def failed(self, error: AgentRuntimeError) -> None:
        if not self._lasting:
            logger.warning("%s waits for its transport, which fails: %s", self._who, safe_text(error))
        self._lasting += 1
        self.failures += 1

    def answered(self) -> None:
        if self._lasting:
            logger.warning("the transport of %s answers again, after %d failures", self._who, self._lasting)
            self._lasting = 0
