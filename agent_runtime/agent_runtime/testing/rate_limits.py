"""What every rate limit store promises."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.errors import InvalidInput
from agent_runtime.ids import new_id
from agent_runtime.rate_limit_store import Charge, RateKey, RateLimit, RateLimitStore, Settlement
from agent_runtime.testing.session_samples import OWNERS, together
from agent_runtime.testing.store_faults import settled, whole_or_not_at_all
from agent_runtime.types import Owner

Operation: TypeAlias = Callable[[RateLimitStore, Charge], Coroutine[Any, Any, object]]

# Keys that a careless backend would mix up.
KEYS: tuple[RateKey, ...] = (
    *((owner.tenant_id, owner.user_id, "requests") for owner in OWNERS),
    ("acme", "ann", "tokens"),
    ("acme", "annrequests"),
    ("acme", "ann:requests"),
    ("acmeann", "requests"),
    ("ann", "acme", "requests"),
    ("acme", "ann", "requests", None),
    ("acme", "ann", "requests", ""),
    ("acme",),
    ("", "acme"),
    (None, "acme"),
    (None,),
    ("",),
    (),
    ("\0",),
    ("\ud800",),
    ("\udfff",),
    ("k" * 512,),
)
_OPERATIONS: dict[str, Operation] = {
    "take": lambda store, charge: store.take([charge]),
    "settle": lambda store, charge: store.settle([Settlement(charge=charge, used=0)]),
}


class RateLimitStoreContract:
    """Subclass it with a name that starts with `Test`, implement `store` and `advance`; pytest runs the promises below.

    A limit's whole burst comes back in `period` seconds here: a store with a clock that cannot be set takes a short one,
    in which a hundred calls are done all the same, and `advance` sleeps. The store counts 100 keys apart. Needs anyio's
    pytest plugin with `anyio_mode = "auto"`.
    """

    period: float = 10.0
    accuracy: float = 1e-6
    """How much of a burst may come back while a test does nothing but call; more where the clock cannot be set."""

    @pytest.fixture
    @abstractmethod
    def store(self) -> RateLimitStore:
        """An empty store; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the store's clock."""

    async def reopen(self, store: RateLimitStore) -> RateLimitStore:
        """Close the store and return another on the same data, as after a restart; one that keeps nothing returns itself."""
        return store

    async def test_as_much_as_the_burst_is_admitted_and_no_more(self, store: RateLimitStore) -> None:
        answers = [await store.take([self._charge()]) for _ in range(7)]
        assert [taken.allowed for taken in answers] == [True] * 5 + [False] * 2
        assert [taken.allowances[0].remaining for taken in answers] == self._about([4, 3, 2, 1, 0, 0, 0])
        assert [taken.retry_after for taken in answers[:5]] == [0] * 5
        for taken in answers[5:]:
            assert taken.retry_after == taken.allowances[0].retry_after == self._seconds(1 / 5)
            assert taken.allowances[0].reset_after == self._seconds(1)

    async def test_what_is_asked_for_fits_when_it_is_said_to(self, store: RateLimitStore) -> None:
        await store.take([self._charge(5)])
        for cost in (1, 2.5, 5):
            refused = await store.take([self._charge(cost)])
            assert not refused.allowed
            await self.advance(refused.retry_after * 0.5)
            assert not (await store.take([self._charge(cost)])).allowed
            await self.advance(refused.retry_after * 0.5)
            assert (await store.take([self._charge(cost)])).allowed

    async def test_the_burst_comes_back_at_the_rate_and_not_above_itself(self, store: RateLimitStore) -> None:
        await store.take([self._charge(5)])
        for part in (0.2, 0.5):
            await self.advance(self.period * (part if part < 0.5 else 0.3))
            assert (await store.peek([self._charge(0)])).allowances[0].remaining == self._about(5 * part)
        await self.advance(self.period * 100)
        assert (await store.peek([self._charge(0)])).allowances[0].remaining == 5
        assert (await store.take([self._charge(5)])).allowed
        assert not (await store.take([self._charge()])).allowed

    async def test_rate_and_burst_are_two_things(self, store: RateLimitStore) -> None:
        slow = RateLimit(rate=2, period=self.period, burst=10)
        charge = Charge(key=("slow",), limit=slow, cost=10)
        assert (await store.take([charge])).allowed
        await self.advance(self.period)
        refused = await store.take([charge])
        assert refused.allowances[0].remaining == pytest.approx(2, abs=0.2)
        assert refused.retry_after == pytest.approx(self.period * 4, rel=0.05)

    async def test_a_peek_takes_nothing(self, store: RateLimitStore) -> None:
        for _ in range(10):
            seen = await store.peek([self._charge(5)])
            assert seen.allowed
            assert seen.allowances[0].remaining == 0
        assert (await store.take([self._charge(5)])).allowed
        refused = await store.peek([self._charge(5)])
        assert (refused.allowed, refused.retry_after) == (False, self._seconds(1))

    async def test_nothing_asked_for_is_admitted(self, store: RateLimitStore) -> None:
        assert (await store.take([])).allowed
        assert (await store.peek([])).allowed
        await store.settle([])
        await store.take([self._charge(5)])
        assert (await store.take([self._charge(0)])).allowed

    # Several limits

    async def test_all_is_taken_or_nothing(self, store: RateLimitStore) -> None:
        requests, tokens = self._charge(1, "requests"), self._charge(3, "tokens")
        assert (await store.take([requests, tokens])).allowed
        for charges in ([requests, tokens], [tokens, requests]):
            refused = await store.take(charges)
            assert not refused.allowed
            assert refused.retry_after == self._seconds(1 / 5)
            assert sorted(allowance.retry_after > 0 for allowance in refused.allowances) == [False, True]
            assert sorted(allowance.remaining for allowance in refused.allowances) == self._about([2, 4])
        assert (await store.take([requests])).allowances[0].remaining == self._about(3)
        assert (await store.take([self._charge(2, "tokens")])).allowed

    async def test_the_longest_wait_is_told(self, store: RateLimitStore) -> None:
        await store.take([self._charge(5, "a"), self._charge(5, "b")])
        refused = await store.take([self._charge(1, "a"), self._charge(4, "b"), self._charge(1, "c")])
        waits = [allowance.retry_after for allowance in refused.allowances]
        assert waits == [self._seconds(1 / 5), self._seconds(4 / 5), 0]
        assert refused.retry_after == max(waits)

    async def test_a_key_that_is_charged_twice_is_refused(self, store: RateLimitStore) -> None:
        for call in (store.take, store.peek):
            with pytest.raises(InvalidInput, match="with the sum"):
                await call([self._charge(1), self._charge(1)])
        assert (await store.take([self._charge(5)])).allowed

    async def test_what_was_used_counts_under_a_changed_limit(self, store: RateLimitStore) -> None:
        await store.take([self._charge(5)])
        wider = Charge(key=("k",), limit=RateLimit(rate=8, period=self.period, burst=8), cost=3)
        assert (await store.take([wider])).allowed
        assert not (await store.take([self._charge(1)])).allowed

    async def test_keys_that_look_alike_share_nothing(self, store: RateLimitStore) -> None:
        for place, key in enumerate(KEYS):
            charge = Charge(key=key, limit=self._limit(100), cost=place + 1)
            assert (await store.take([charge])).allowances[0].remaining == pytest.approx(99 - place, abs=0.5), ascii(
                key
            )
        for place, key in enumerate(KEYS):
            charge = Charge(key=key, limit=self._limit(100), cost=0)
            assert (await store.peek([charge])).allowances[0].remaining == pytest.approx(99 - place, abs=5), ascii(key)

    # What was reserved and not used

    async def test_what_was_not_used_is_given_back(self, store: RateLimitStore) -> None:
        charge = self._charge(4)
        await store.take([charge])
        await store.settle([Settlement(charge=charge, used=1)])
        assert (await store.take([charge])).allowances[0].remaining == self._about(0)

    async def test_no_more_is_given_back_than_the_burst(self, store: RateLimitStore) -> None:
        charge = self._charge(4)
        await store.take([charge])
        await self.advance(self.period * 10)
        await store.settle([Settlement(charge=charge, used=0)])
        assert (await store.take([self._charge(5)])).allowed
        assert not (await store.take([self._charge(1)])).allowed

    async def test_what_was_used_beyond_the_charge_is_owed(self, store: RateLimitStore) -> None:
        charge = self._charge(1)
        await store.take([charge])
        await store.settle([Settlement(charge=charge, used=11)])
        refused = await store.take([charge])
        assert (refused.allowed, refused.allowances[0].remaining) == (False, 0)
        assert refused.retry_after == pytest.approx(self.period * 7 / 5, rel=0.05)
        assert refused.allowances[0].reset_after == pytest.approx(self.period * 11 / 5, rel=0.05)

    async def test_several_charges_are_settled_at_once(self, store: RateLimitStore) -> None:
        charges = [self._charge(5, "a"), self._charge(5, "b")]
        await store.take(charges)
        await store.settle([Settlement(charge=charge, used=1) for charge in charges])
        taken = await store.take([self._charge(4, "a"), self._charge(4, "b")])
        assert taken.allowed

    # Many at once, restarts, cancellation

    @pytest.mark.parametrize("times", [10, 1_000])
    async def test_of_many_at_once_exactly_the_burst_is_admitted(self, store: RateLimitStore, times: int) -> None:
        limit = RateLimit(rate=1, period=self.period * 100, burst=7)
        answers = await together(times, lambda n: store.take([Charge(key=("k",), limit=limit)]))
        assert sum(taken.allowed for taken in answers) == 7

    async def test_of_many_at_once_exactly_the_budget_is_admitted(self, store: RateLimitStore) -> None:
        limit = RateLimit(rate=1, period=self.period * 100, burst=1_000)
        costs = [10, 30, 60] * 20
        answers = await together(60, lambda n: store.take([Charge(key=("k",), limit=limit, cost=costs[n])]))
        remaining = min(taken.allowances[0].remaining for taken in answers)
        assert remaining < 10
        left = (await store.peek([Charge(key=("k",), limit=limit, cost=0)])).allowances[0].remaining
        assert left == pytest.approx(remaining, abs=0.5)

    async def test_several_limits_at_once_admit_exactly_the_narrowest(self, store: RateLimitStore) -> None:
        wide, narrow = RateLimit(rate=1, period=self.period * 100, burst=50), self._limit(5, 100)
        charges = [Charge(key=("wide",), limit=wide), Charge(key=("narrow",), limit=narrow)]
        answers = await together(50, lambda n: store.take(charges if n % 2 else charges[::-1]))
        assert sum(taken.allowed for taken in answers) == 5
        left = (await store.peek([Charge(key=("wide",), limit=wide, cost=0)])).allowances[0].remaining
        assert left == pytest.approx(45, abs=0.5)

    async def test_what_is_used_is_used_after_a_restart(self, store: RateLimitStore) -> None:
        await store.take([self._charge(4)])
        store = await self.reopen(store)
        assert not (await store.take([self._charge(2)])).allowed

    @pytest.mark.parametrize("name", _OPERATIONS)
    async def test_a_cancelled_call_is_done_as_a_whole_or_not_at_all(self, store: RateLimitStore, name: str) -> None:
        limit = RateLimit(rate=1, period=self.period * 1_000, burst=10)

        def charge(owner: Owner, cost: float) -> Charge:
            return Charge(key=(owner.user_id,), limit=limit, cost=cost)

        async def furnish(owner: Owner) -> None:
            await store.take([charge(owner, 5)])

        async def look(owner: Owner) -> int:
            await settled(store)
            return round((await store.peek([charge(owner, 0)])).allowances[0].remaining)

        await whole_or_not_at_all(furnish, lambda owner: _OPERATIONS[name](store, charge(owner, 3)), look, again=False)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(costs=st.lists(st.floats(0, 5), max_size=20))
    async def test_whatever_is_asked_for_what_is_admitted_is_within_the_burst(
        self, store: RateLimitStore, costs: list[float]
    ) -> None:
        limit = RateLimit(rate=1, period=self.period * 1_000, burst=5)
        key = (new_id(),)
        answers = [(await store.take([Charge(key=key, limit=limit, cost=cost)])).allowed for cost in costs]
        admitted = sum(cost for cost, allowed in zip(costs, answers, strict=True) if allowed)
        assert admitted <= 5 + 5 * self.accuracy

    def _limit(self, burst: float, periods: float = 1) -> RateLimit:
        """So much at once, that comes back in so many periods."""
        return RateLimit(rate=burst, period=self.period * periods, burst=burst)

    def _charge(self, cost: float = 1, name: str = "k") -> Charge:
        return Charge(key=(name,), limit=self._limit(5), cost=cost)

    def _about(self, units: Any) -> Any:
        return pytest.approx(units, abs=5 * self.accuracy)

    def _seconds(self, part: float) -> Any:
        return pytest.approx(self.period * part, abs=self.period * self.accuracy)
