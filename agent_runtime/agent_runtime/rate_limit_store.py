"""What a backend implements to count what is used against limits, and the arithmetic of it.

The algorithm is GCRA in its form as a leaky bucket (ITU-T I.371, annex A): a key has a level, which rises by the cost of
what is taken, drains at the limit's rate, and never passes the burst. It is kept as units and not as a time: then whole
costs are added without a rounding error, and exactly `burst` are admitted.
"""

import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from agent_runtime.errors import ConfigurationError, InvalidInput, LimitExceeded
from agent_runtime.types import Value

RateKey: TypeAlias = tuple[str | None, ...]
"""What is counted, compared part by part: whose, and which limit, as in `("acme", "ann", "requests")`."""

_ROUNDING = 1e-9  # of the burst: so that what fits after `retry_after` seconds does


class RateLimit(Value, frozen=True, kw_only=True):
    """At most `burst` units at once, and in the long run `rate` units in each `period` (seconds).

    All three, and the time that the whole burst takes to come back, are finite and above zero; anything else is a
    `ConfigurationError`.
    """

    rate: float
    period: float
    burst: float

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigurationError(f"RateLimit.{field} is {getattr(self, field)!r}; it must be above zero")
        if not 0 < self.seconds(self.burst) < math.inf:
            raise ConfigurationError(
                f"{self} never comes back, or at once; choose numbers that are nearer to each other"
            )

    @property
    def ceiling(self) -> float:
        """The highest level at which what was asked for fits: the burst, and what rounding may add to it."""
        return self.burst * (1 + _ROUNDING)

    def seconds(self, units: float) -> float:
        """In what time `rate` gives so many units."""
        return units * self.period / self.rate


class Charge(Value, frozen=True, kw_only=True):
    """What something costs under a limit. Units of `cost` are the limit's: requests, tokens …

    Raises `InvalidInput` for a cost below 0 or not a number, and `LimitExceeded` for one above the limit's burst, which
    would never be admitted.
    """

    key: RateKey
    limit: RateLimit
    cost: float = 1

    def __post_init__(self) -> None:
        if not self.cost >= 0:
            raise InvalidInput(f"a cost is not below 0: {self.cost!r}")
        if self.cost > self.limit.burst:
            raise LimitExceeded(
                f"a cost of {self.cost} is more than the limit ever admits at once ({self.limit.burst}); "
                "ask for less, or raise its burst",
                details={"limit": self.limit.burst, "found": self.cost},
            )


class Settlement(Value, frozen=True, kw_only=True):
    """A charge that was taken, and what was `used` in the end, in units; 0 gives the whole charge back.

    Raises `InvalidInput` when `used` is below 0 or not finite.
    """

    charge: Charge
    used: float

    def __post_init__(self) -> None:
        if not 0 <= self.used < math.inf:
            raise InvalidInput(f"what was used is not below 0, and finite: {self.used!r}")


class Allowance(Value, frozen=True, kw_only=True):
    """How one limit stands. `remaining` is in units, from 0; the others are seconds from now.

    After `retry_after` the charge fits, if nothing else is taken; 0 where it does now, or did. After `reset_after` the
    whole burst is there again.
    """

    remaining: float
    retry_after: float
    reset_after: float


class Taken(Value, frozen=True, kw_only=True):
    """Whether everything was taken, or else nothing. `retry_after` is the longest of the allowances', one per charge."""

    allowed: bool
    retry_after: float
    allowances: tuple[Allowance, ...]


class RateCell:
    """What a store keeps of a key: the `level` in units at time `at`, in seconds by the store's clock."""

    __slots__ = ("at", "level")

    def __init__(self, level: float, at: float) -> None:
        self.level = level
        self.at = at

    def take(self, charge: Charge, now: float) -> Allowance:
        """Bring the cell to `now`, and take the charge if it fits."""
        self.drain(now, charge.limit)
        limit = charge.limit
        level = self.level + charge.cost
        if level <= limit.ceiling:
            self.level = level
            return self.allowance(limit)
        return self.allowance(limit, limit.seconds(level - limit.burst))

    def settle(self, settlement: Settlement, now: float) -> None:
        """Bring the cell to `now`, and correct it by what was used."""
        charge = settlement.charge
        self.drain(now, charge.limit)
        self.level = max(0.0, self.level + settlement.used - charge.cost)

    def drain(self, now: float, limit: RateLimit) -> None:
        """Bring the cell to `now`. Where the clock stepped back nothing drains, and time counts on from there."""
        if now > self.at:
            level = self.level - (now - self.at) * limit.rate / limit.period
            self.level = level if level > 0 else 0.0
        self.at = now

    def allowance(self, limit: RateLimit, retry_after: float = 0.0) -> Allowance:
        """How the limit stands with this cell."""
        left = limit.burst - self.level
        return Allowance(
            remaining=left if left > 0 else 0.0,
            retry_after=retry_after,
            reset_after=self.level * limit.period / limit.rate,
        )


def check_charges(charges: Sequence[Charge]) -> None:
    """Raise `InvalidInput` for a key that is charged twice."""
    if len({charge.key for charge in charges}) < len(charges):
        raise InvalidInput("a key is charged twice in one call; charge it once, with the sum")


def admit(charges: Sequence[Charge], cells: Sequence[RateCell], now: float) -> Taken:
    """Take all charges or none, and bring their cells, one for each charge, to `now`.

    For stores that count in Python; one that counts in its server does the same there. Raises `InvalidInput` for a key
    that is charged twice.
    """
    if len(charges) == 1:  # most calls, and there is nothing to undo
        allowance = cells[0].take(charges[0], now)
        return Taken(allowed=not allowance.retry_after, retry_after=allowance.retry_after, allowances=(allowance,))
    check_charges(charges)
    return _admit_together(charges, cells, now)


def _admit_together(charges: Sequence[Charge], cells: Sequence[RateCell], now: float) -> Taken:
    for charge, cell in zip(charges, cells, strict=True):
        cell.drain(now, charge.limit)
    before = [cell.level for cell in cells]
    allowances = [cell.take(charge, now) for charge, cell in zip(charges, cells, strict=True)]
    retry_after = max((allowance.retry_after for allowance in allowances), default=0.0)
    if retry_after:
        for cell, level in zip(cells, before, strict=True):
            cell.level = level
        allowances = [
            cell.allowance(charge.limit, allowance.retry_after)
            for charge, cell, allowance in zip(charges, cells, allowances, strict=True)
        ]
    return Taken(allowed=not retry_after, retry_after=retry_after, allowances=tuple(allowances))


class RateLimitStore(Protocol):
    """How much of each limit is used, by key.

    - Keys are compared exactly, part by part: `("a", "b")`, `("ab",)` and `("a", None)` count apart. A part is any text;
      whoever makes a key puts the owner into it, or what of the owner the limit is for.
    - Each method is one atomic step and one await. Cancelled or failing, it is done as a whole or not at all. However many
      take at once, exactly what the limit admits is admitted.
    - In any stretch of time, what was taken less what was given back is at most `burst` and what `rate` gives in that time,
      by the store's clock. A clock that steps back gives nothing extra, and delays nobody longer than it takes until the
      whole burst is back.
    - A key takes room only until its burst is whole again. A store with bounded memory may count new keys together.
    - A key that is charged under another limit than before keeps its level: what was used counts under the new one too.
    - A call that ended with `OutcomeUnknown` is not repeated: at worst units were taken in vain, and time brings them back.
    - `StoreUnavailable` when the backend cannot be reached. An outage never looks like a limit, used up or not.
    """

    async def take(self, charges: Sequence[Charge]) -> Taken:
        """Take all charges if each fits its limit, and otherwise none. Raises `InvalidInput` for a key charged twice."""
        ...

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        """What `take` would answer; nothing is taken. With a cost of 0: how the limit stands."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Correct charges that were taken to what was used in the end.

        What was used beyond the charge is owed: it is added though it may not fit, and nothing is admitted until time has
        paid it off.
        """
        ...
