"""Rate limits counted in this process's memory."""

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from agent_runtime.errors import ConfigurationError
from agent_runtime.expiry import ExpiryQueue
from agent_runtime.rate_limit_store import Charge, RateCell, RateKey, RateLimit, Settlement, Taken, admit

_Name: TypeAlias = RateKey | RateLimit


class MemoryRateLimitStore:
    """A `RateLimitStore` for one process. `clock` gives seconds and does not jump. For one event loop at a time.

    It counts at most `max_keys` apart. As long as so many have not got their burst back, keys that are new count together,
    those with the same limit as one: whoever invents names gets one allowance for all of them. How often that happened is
    `overflowed`. No operation suspends, so each is atomic.
    """

    def __init__(self, *, max_keys: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        if max_keys < 1:
            raise ConfigurationError(f"max_keys={max_keys} must be above zero")
        self.overflowed = 0
        self._max_keys = max_keys
        self._clock = clock
        self._cells: dict[_Name, _Cell] = {}
        self._expiry: ExpiryQueue[_Cell] = ExpiryQueue()

    @property
    def key_count(self) -> int:
        """How many keys take room now."""
        return len(self._cells)

    async def take(self, charges: Sequence[Charge]) -> Taken:
        now = self._now()
        if len(charges) == 1:  # most calls: the lists and the loop would take as long as the count
            cell = self._cell(charges[0], now)
            taken = admit(charges, (cell,), now)
            self._expiry.set(cell, now + taken.allowances[0].reset_after)
            return taken
        cells = [self._cell(charge, now) for charge in charges]
        taken = admit(charges, cells, now)
        for cell, allowance in zip(cells, taken.allowances, strict=True):
            self._expiry.set(cell, now + allowance.reset_after)
        return taken

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        now = self._now()
        return admit(charges, [self._copy(charge, now) for charge in charges], now)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        now = self._now()
        for settlement in settlements:
            cell = self._cell(settlement.charge, now)
            cell.settle(settlement, now)
            self._expiry.set(cell, now + settlement.charge.limit.seconds(cell.level))

    def _now(self) -> float:
        """The time, when some of the keys that are like new by now are out of the way."""
        now = self._clock()
        for cell in self._expiry.due(now):
            del self._cells[cell.name]
        return now

    def _name(self, charge: Charge) -> _Name:
        """Under which name a charge counts."""
        if charge.key in self._cells or len(self._cells) < self._max_keys:
            return charge.key
        return charge.limit

    def _copy(self, charge: Charge, now: float) -> RateCell:
        cell = self._cells.get(self._name(charge))
        return RateCell(0.0, now) if cell is None else RateCell(cell.level, cell.at)

    def _cell(self, charge: Charge, now: float) -> "_Cell":
        """The cell of a charge. A new one is like none, and would go with the next call."""
        if (cell := self._cells.get(charge.key)) is not None:
            return cell
        name = self._name(charge)
        self.overflowed += name is charge.limit
        if (cell := self._cells.get(name)) is None:
            cell = self._cells[name] = _Cell(name, now)
            self._expiry.set(cell, now)
        return cell


class _Cell(RateCell):
    """A cell and where it is."""

    __slots__ = ("due", "expires_at", "name")

    def __init__(self, name: _Name, now: float) -> None:
        super().__init__(0.0, now)
        self.name = name
        self.expires_at = self.due = math.inf
