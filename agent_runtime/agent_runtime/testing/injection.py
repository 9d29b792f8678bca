"""A fault at every await: is all well when any await of a coroutine is its last?"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from enum import StrEnum
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import anyio

from agent_runtime.background import runs_on_asyncio
from agent_runtime.types import Value

T = TypeVar("T")

Struck: TypeAlias = Literal["scope", "native"] | Exception
"""What happens at the await: the cancellation of a surrounding `CancelScope`, asyncio's own `task.cancel()`, or an
exception in the place of what the await would have given (its work is done, its answer is lost)."""


class Outcome(StrEnum):
    """How a coroutine ended that was struck."""

    DONE = "done"
    CANCELLED = "cancelled"
    ERROR = "error"
    HANG = "hang"


class Trial(Value, frozen=True, kw_only=True):
    """One run of the coroutine.

    Attributes:
        at: Which await was struck, from 1.
        struck: False in the last trial: the coroutine has fewer awaits than `at`.
        value: What it returned when `outcome` is `done`. After a cancellation that means: it was too late, or swallowed.
        error: What it raised when `outcome` is `error`.
    """

    at: int
    struck: bool
    outcome: Outcome
    value: Any = None
    error: BaseException | None = None


class Injection(Generic[T]):
    """Awaits `coroutine`, and calls `strike` when it suspends for the `at`-th time, in whatever it awaits.

    `strike` may cancel; what it raises is thrown in the place of the await's result. With `again` it is called once more,
    that many awaits later. Put it around `call_next(...)` in a layer, and it strikes inside a run. Awaits of other tasks
    that the coroutine starts do not count. Do not throw into the awaits of a task group: no group survives that.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], at: int, strike: Callable[[], object], *, again: int | None = None
    ) -> None:
        self.awaits = 0
        self._coroutine = coroutine
        self._strike = strike
        self._places = {at} if again is None else {at, at + again}
        self._first = at

    @property
    def struck(self) -> bool:
        """Whether the coroutine came to its `at`-th await."""
        return self.awaits >= self._first

    def __await__(self) -> Generator[Any, Any, T]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                wanted = self._coroutine.send(value) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            self.awaits += 1
            fault = self._fault() if self.awaits in self._places else None
            value = error = None
            try:
                value = yield wanted
            except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, and thrown into it
                error = raised
            error = fault or error

    def _fault(self) -> BaseException | None:
        try:
            self._strike()
        except Exception as error:  # noqa: BLE001 - whatever the strike raises is what it injects
            return error
        return None


async def inject(
    make: Callable[[], Coroutine[Any, Any, T]],
    check: Callable[[Trial], Awaitable[None]] | None = None,
    *,
    fault: Struck = "scope",
    again: int | None = None,
    timeout: float = 5.0,  # noqa: ASYNC109 - of one trial, not of this call
) -> list[Trial]:
    """Run `make()` once for each of its awaits, with `fault` at that await, and a last time undisturbed.

        async def never_a_half(trial: Trial) -> None:
            assert await store.read() in (OLD, NEW)

        for fault in cancellations():
            trials = await inject(lambda: save(store), never_a_half, fault=fault)
            assert all(trial.outcome is Outcome.CANCELLED for trial in trials[:-1])

    Each run is in a task of its own, which is over when `check` is called with its trial. Let `make` do the same each
    time: an await that comes and goes may be missed.

    Args:
        fault: What happens at the await. `"native"` is asyncio's only: see `cancellations()`.
        again: Strike a second time, so many awaits later: a cancellation during the clean-up of the first.
        timeout: Seconds after which a run is a `hang`, and is cancelled.
    """
    trials: list[Trial] = []
    while not trials or trials[-1].struck:
        async with anyio.create_task_group() as group:
            group.start_soon(_try, make(), len(trials) + 1, fault, again, timeout, trials)
        if check is not None:
            await check(trials[-1])
    return trials


def cancellations() -> tuple[Literal["scope", "native"], ...]:
    """The ways in which code of this event loop can be cancelled."""
    return ("scope", "native") if runs_on_asyncio() else ("scope",)


async def _try(
    coroutine: Coroutine[Any, Any, T], at: int, fault: Struck, again: int | None, seconds: float, trials: list[Trial]
) -> None:
    outcome, value, error = Outcome.CANCELLED, None, None
    limit = anyio.CancelScope(deadline=anyio.current_time() + seconds)
    scope = anyio.CancelScope()
    injection = Injection(coroutine, at, _strike(fault, scope), again=again)
    try:
        with limit, scope:
            value = await injection
            outcome = Outcome.DONE
    except anyio.get_cancelled_exc_class():
        pass  # the native cancellation; this is the task that it was meant for
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is the trial's outcome
        outcome, error = Outcome.ERROR, raised
    if limit.cancel_called:
        outcome = Outcome.HANG
    trials.append(Trial(at=at, struck=injection.struck, outcome=outcome, value=value, error=error))


def _strike(fault: Struck, scope: anyio.CancelScope) -> Callable[[], object]:
    if isinstance(fault, Exception):
        return partial(_raise, fault)
    if fault == "scope":
        return scope.cancel
    task = asyncio.current_task()
    assert task is not None
    return task.cancel


def _raise(error: Exception) -> None:
    raise error
