"""Of many who want the same at the same time, one computes it."""

import math
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, Generic, NoReturn, TypeVar

import anyio

from agent_runtime.errors import (
    AgentRuntimeError,
    ErrorKind,
    RuntimeClosed,
    RunTimeout,
)
from agent_runtime.types import Owner

T = TypeVar("T")

_OF_THE_QUESTION = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.INVALID, ErrorKind.EXHAUSTED})
_inside: ContextVar[tuple["_Flight[Any]", ...]] = ContextVar("flights that this code is a part of", default=())


async def _nothing(value: object) -> None:
    """The `keep` of a flight of which nothing is kept."""


class SingleFlight(Generic[T]):
    """Has one caller, the leader, compute for all that ask for the same key at the same time. For one event loop at a time.

    - The followers wait, each under its own deadlines; cancelling one disturbs nobody.
    - A leader that is lost, because it was cancelled, its run or its consumer ended, or it met a bug, is replaced by exactly
      one follower, the one that has waited longest, who computes for the rest.
    - A failure of the question itself (kind unavailable, invalid or exhausted, and no end of the leader's own run) is each
      follower's too, as a copy. A limit that is exhausted may be the leader's own: followers of another owner compute
      themselves then, all at once.
    - No key stays behind. Code inside a computation that asks for its key again computes: it never waits for itself.

    Cost without followers: a dict entry and a context variable.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        """How many keys are under way."""
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        """Whether the key is under way."""
        return key in self._flights

    async def share(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[T]],
        *,
        owner: Owner,
        shared: Callable[[T], T | None],
        keep: Callable[[T], Awaitable[None]] = _nothing,
    ) -> tuple[T, bool]:
        """What `compute()` gives, and true; or what the leader's gave, as `shared(value)` makes it for others, and false.

        Where `shared` says `None` every follower computes itself, all at once, unless the leader is lost; otherwise the
        leader awaits `keep(value)` when the followers have the value already, and who comes before that has ended gets it
        too. No value is `None`.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
        elif flight in _inside.get():
            return await compute(), True
        elif flight.landed is not None:
            return flight.landed, False
        else:
            seat = await self._wait(key, flight, owner)
            if seat.value is not None:
                return seat.value, False
            if seat.failure is not None:
                _raise_again(seat.failure)
            if not seat.leads:
                return await compute(), True
        return await self._lead(key, flight, compute, owner, shared, keep), True

    async def _wait(self, key: Hashable, flight: "_Flight[T]", owner: Owner) -> "_Seat[T]":
        seat = _Seat[T](owner)
        flight.seats[seat] = None
        try:
            await seat.called.wait()
        except BaseException:
            flight.seats.pop(seat, None)
            if seat.leads:
                self._hand_over(key, flight)
            raise
        return seat

    async def _lead(
        self,
        key: Hashable,
        flight: "_Flight[T]",
        compute: Callable[[], Awaitable[T]],
        owner: Owner,
        shared: Callable[[T], T | None],
        keep: Callable[[T], Awaitable[None]],
    ) -> T:
        token = _inside.set((*_inside.get(), flight))
        try:
            value = await compute()
            others = shared(value)
        except BaseException as error:
            if isinstance(error, AgentRuntimeError) and _is_of_the_question(error):
                del self._flights[key]
                flight.fail(error, owner)
            else:
                self._hand_over(key, flight)
            raise
        finally:
            _inside.reset(token)
        if others is None and anyio.current_effective_deadline() == -math.inf:  # cancelled, and something swallowed it
            self._hand_over(key, flight)
            return value
        flight.land(others)
        try:
            if others is not None:
                await keep(value)
        finally:
            del self._flights[key]
        return value

    def _hand_over(self, key: Hashable, flight: "_Flight[T]") -> None:
        if not flight.seats:
            del self._flights[key]
            return
        seat = next(iter(flight.seats))
        del flight.seats[seat]
        seat.leads = True
        seat.called.set()


class _Seat(Generic[T]):
    """One follower, and what it is told: to lead, a value, a failure, or nothing: then it computes itself."""

    __slots__ = ("called", "failure", "leads", "owner", "value")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.called = anyio.Event()
        self.leads = False
        self.value: T | None = None
        self.failure: AgentRuntimeError | None = None


class _Flight(Generic[T]):
    """A computation under way and who waits for it, in the order in which they came."""

    __slots__ = ("landed", "seats")

    def __init__(self) -> None:
        self.seats: dict[_Seat[T], None] = {}
        self.landed: T | None = None

    def land(self, value: T | None) -> None:
        """Give everybody the value; without one each computes."""
        self.landed = value
        for seat in self.seats:
            seat.value = value
        self._let_go()

    def fail(self, error: AgentRuntimeError, owner: Owner) -> None:
        for seat in self.seats:
            if error.kind is not ErrorKind.EXHAUSTED or seat.owner == owner:
                seat.failure = error
        self._let_go()

    def _let_go(self) -> None:
        for seat in self.seats:
            seat.called.set()
        self.seats.clear()


def _is_of_the_question(error: AgentRuntimeError) -> bool:
    """Whether everybody who asks the same fails in the same way now."""
    return error.kind in _OF_THE_QUESTION and not isinstance(error, RunTimeout | RuntimeClosed)


def _raise_again(error: AgentRuntimeError) -> NoReturn:
    """Raise a copy: one exception raised in two tasks mixes their tracebacks, and a layer may note it as its own."""
    kind = type(error)
    fresh = kind.__new__(kind, *error.args)
    fresh.args = error.args
    fresh.__dict__.update(error.__dict__)
    if hasattr(fresh, "__notes__"):
        fresh.__notes__ = [*fresh.__notes__]
    raise fresh from error.__cause__
