"""Any sequence of charges, with a clock, is admitted as GCRA in its other form admits it: a time, and exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.machines.store_machine import StoreMachine

from agent_runtime import Charge, RateKey, RateLimit, RateLimitStore, Settlement

# Numbers that a float holds exactly, so that no rounding decides.
LIMITS: dict[RateKey, RateLimit] = {
    ("a",): RateLimit(rate=2, period=1, burst=4),
    ("b",): RateLimit(rate=1, period=2, burst=1),
    ("a", None): RateLimit(rate=4, period=4, burst=8),
}
costs = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0, 4.0, 8.0])


def charge(key: RateKey, cost: float) -> Charge:
    return Charge(key=key, limit=LIMITS[key], cost=min(cost, LIMITS[key].burst))


charges = st.builds(charge, st.sampled_from(list(LIMITS)), costs)


def seconds(units: float, key: RateKey) -> Fraction:
    return Fraction(units) * Fraction(LIMITS[key].period) / Fraction(LIMITS[key].rate)


class RateLimitsMachine(StoreMachine[RateLimitStore]):
    def __init__(self) -> None:
        super().__init__()
        self.arrivals: dict[RateKey, Fraction] = {}  # the "theoretical arrival time" of the next unit
        self.taken: list[Charge] = []

    @rule(quarters=st.sampled_from([0, 1, 2, 3, 8, 100]))
    def time_passes(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule(wanted=st.lists(charges, max_size=3, unique_by=lambda one: one.key), peek=st.booleans())
    def take(self, wanted: list[Charge], peek: bool) -> None:
        arrivals, waits = dict(self.arrivals), list[Fraction]()
        for one in wanted:
            arrivals[one.key] = self.arrival(one.key, arrivals) + seconds(one.cost, one.key)
            burst = seconds(LIMITS[one.key].burst, one.key)
            waits.append(max(Fraction(0), arrivals[one.key] - burst - Fraction(self.now)))
        answer = self.run(self.store.peek(wanted) if peek else self.store.take(wanted))
        assert [allowance.retry_after for allowance in answer.allowances] == waits
        assert answer.retry_after == max(waits, default=0)
        assert answer.allowed is not any(waits)
        if answer.allowed and not peek:
            self.arrivals = arrivals
            self.taken += wanted

    @rule(places=st.lists(st.integers(0, 9), max_size=2), used=costs)
    def settle(self, places: list[int], used: float) -> None:
        settled = [Settlement(charge=self.taken[place], used=used) for place in places if place < len(self.taken)]
        self.run(self.store.settle(settled))
        for settlement in settled:
            one = settlement.charge
            arrival = self.arrival(one.key, self.arrivals) + seconds(used - one.cost, one.key)
            self.arrivals[one.key] = max(arrival, Fraction(self.now))

    @invariant()
    def every_limit_stands_as_in_the_model(self) -> None:
        for key, limit in LIMITS.items():
            owed = self.arrival(key, self.arrivals) - Fraction(self.now)
            [seen] = self.run(self.store.peek([Charge(key=key, limit=limit, cost=0)])).allowances
            assert seen.reset_after == pytest.approx(float(owed))
            assert seen.remaining == max(0, limit.burst - float(owed) * limit.rate / limit.period)

    def arrival(self, key: RateKey, arrivals: dict[RateKey, Fraction]) -> Fraction:
        now = Fraction(self.now)
        return max(now, arrivals.get(key, now))
