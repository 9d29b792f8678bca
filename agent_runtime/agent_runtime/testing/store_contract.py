"""What each part of the contract of faults stands on: stores that are opened, what happens to their server, and calls in time."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, TypeAlias, TypeVar

import anyio
import pytest
from anyio import to_thread

from agent_runtime.errors import AgentRuntimeError, OutcomeUnknown, StoreUnavailable
from agent_runtime.session_store import Refusal
from agent_runtime.stores import Stores
from agent_runtime.testing.store_calls import WRITES, Call, Write, before_and_after, new_owner
from agent_runtime.types import Owner, Value

T = TypeVar("T")

Address: TypeAlias = tuple[str, int]
"""Host and port."""

_BETWEEN = 0.01  # seconds between two attempts


class ServerFault(StrEnum):
    """What can happen to a store's server."""

    STOPPED = "stopped"
    """Its keeper ends it, and starts it again."""
    KILLED = "killed"
    """It ends in the middle of whatever it does, as by `kill -9`, and is started again."""
    PAUSED = "paused"
    """It takes connections and says nothing, as after SIGSTOP."""
    DROPPED = "dropped"
    """All connections of clients end, once."""
    READ_ONLY = "read only"
    """It takes no writes, as a replica does."""
    FULL = "full"
    """It has no room for more."""


class Answer(Value, frozen=True, kw_only=True):
    """What a call gave, or how it failed."""

    value: object = None
    error: AgentRuntimeError | None = None


class Prepared(Value, frozen=True, kw_only=True):
    """A write for an owner of its own that can be made now."""

    name: str
    write: Write
    owner: Owner
    call: Call


def under(*causes: ServerFault) -> Callable[[T], T]:
    """Run the test once for each of the causes that its class offers, given to it as `cause`."""

    def mark(test: T) -> T:
        test.causes = causes  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a function's
        return test

    return mark


class StoreContract:
    """What a backend's author gives, and what the promises use."""

    timeout: float = 1.0
    """Seconds that the stores give to each call: `open` has to set them so."""
    slack: float = 0.5
    """Seconds that a call may take beyond that."""
    recovery: float = 1.0
    """Seconds after which all is well again when the cause of an outage has ended."""
    not_offered: ClassVar[Mapping[ServerFault, str]] = {}
    """What cannot be done to the server, and why: nothing is promised of it."""

    @abstractmethod
    def open(self, address: Address | None = None) -> Stores:
        """New stores, not connected, with the data of the others of this test.

        They give each call `timeout` seconds. With `address` they reach the server there.
        """

    @abstractmethod
    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        """Inside the block `cause` is at work; it is left when the server takes commands again.

        Entered and left in worker threads: it may block.
        """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test is run for each cause that is offered; one that has none is skipped, and says why."""
        causes: tuple[ServerFault, ...] = getattr(metafunc.function, "causes", ())
        if not causes:
            return
        offered = [pytest.param(cause, id=str(cause)) for cause in causes if cause not in self.not_offered]
        why = "; ".join(f"{cause}: {self.not_offered[cause]}" for cause in causes if cause in self.not_offered)
        metafunc.parametrize("cause", offered or [pytest.param(causes[0], marks=pytest.mark.skip(reason=why))])

    @asynccontextmanager
    async def opened(self, address: Address | None = None) -> AsyncGenerator[Stores]:
        """Stores until the end of the block."""
        stores = self.open(address)
        try:
            yield stores
        finally:
            await stores.aclose()

    @asynccontextmanager
    async def working(self, cause: ServerFault) -> AsyncGenerator[None]:
        """The cause, at work until the end of the block."""
        block = self.at_work(cause)
        await to_thread.run_sync(block.__enter__)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(block.__exit__, None, None, None)

    @property
    def limit(self) -> float:
        """Seconds in which each call ends."""
        return self.timeout + self.slack

    async def answer(self, name: str, call: Call) -> Answer:
        """What the call gives or fails with, in time; no refusal, and no error but the two of a server."""
        answer = None
        with anyio.move_on_after(self.limit):
            try:
                answer = Answer(value=await call())
            except (StoreUnavailable, OutcomeUnknown) as error:
                answer = Answer(error=error)
        if answer is None:
            raise AssertionError(f"{name} took longer than {self.limit:g} s")
        assert not isinstance(answer.value, Refusal), f"{name} was refused: {answer.value}"
        return answer

    async def answers(self, calls: Mapping[str, Call]) -> dict[str, Answer]:
        """What the calls give that are made at once."""
        return await at_once({name: partial(self.answer, name, call) for name, call in calls.items()})

    async def recovered(self, calls: Mapping[str, Call]) -> dict[str, Any]:
        """Make each call again and again until it is done, all of them in `recovery` seconds; what they give."""
        give_up = anyio.current_time() + self.recovery

        async def one(name: str, call: Call) -> object:
            given = await self.answer(name, call)
            while given.error is not None and anyio.current_time() < give_up:
                await anyio.sleep(_BETWEEN)
                given = await self.answer(name, call)
            assert given.error is None, f"{name} still fails {self.recovery:g} s after the fault: {given.error}"
            return given.value

        return await at_once({name: partial(one, name, call) for name, call in calls.items()})

    async def prepared(self, stores: Stores, names: Iterable[str] = WRITES) -> list[Prepared]:
        """The writes, ready to be made."""

        async def one(name: str) -> Prepared:
            owner = new_owner()
            write = WRITES[name]
            return Prepared(name=name, write=write, owner=owner, call=await write.prepare(stores, owner))

        return list((await at_once({name: partial(one, name) for name in names})).values())

    async def settled(self, stores: Stores, prepared: Iterable[Prepared], given: Mapping[str, Answer]) -> None:
        """See that what was acknowledged is done, what failed is not, and what is in doubt is done once when it is repeated."""
        clear = [item for item in prepared if _is_clear(given[item.name]) or not item.write.repeatable]
        await self._seen(stores, clear, given)
        repeatable = [item for item in prepared if item.write.repeatable]
        await self.recovered({item.name: item.call for item in repeatable})
        await self._seen(stores, repeatable, dict.fromkeys(given, Answer()))

    async def _seen(self, stores: Stores, prepared: Iterable[Prepared], given: Mapping[str, Answer]) -> None:
        seen = await self.recovered({item.name: partial(item.write.look, stores, item.owner) for item in prepared})
        for item in prepared:
            answer = given[item.name]
            possible = _possible(answer, *await before_and_after(item.write))
            assert seen[item.name] in possible, f"{item.name}, after {answer.error or 'it was done'}"


def _is_clear(given: Answer) -> bool:
    """Whether it is known what is there; what is in doubt may still be on its way."""
    return not isinstance(given.error, OutcomeUnknown)


def _possible(given: Answer, before: object, after: object) -> tuple[object, ...]:
    if given.error is None:
        return (after,)
    return (before,) if _is_clear(given) else (before, after)


async def at_once(calls: Mapping[str, Callable[[], Awaitable[T]]]) -> dict[str, T]:
    """What the calls give, in their order, that are made at the same time."""
    results: dict[str, T] = {}

    async def one(name: str) -> None:
        results[name] = await calls[name]()

    async with anyio.create_task_group() as group:
        for name in calls:
            group.start_soon(one, name)
    return {name: results[name] for name in calls}
