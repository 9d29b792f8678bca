"""What the stores of a server promise when it is stopped, killed, paused, read-only or full."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import anyio

from agent_runtime.errors import LimitExceeded, OutcomeUnknown, StoreUnavailable
from agent_runtime.session_store import Refusal
from agent_runtime.stores import Stores
from agent_runtime.testing.session_calls import SessionCalls
from agent_runtime.testing.session_samples import some
from agent_runtime.testing.store_calls import READS, TTL, Call, furnish, new_owner
from agent_runtime.testing.store_contract import Answer, ServerFault, StoreContract, under
from agent_runtime.types import Message, Owner

_DROPS = 10  # how often connections are dropped
_MORE = 3  # writes of each kind that are to be acknowledged before and after
_BETWEEN = 0.001  # seconds between two attempts

Step: TypeAlias = Callable[[Stores, Owner, int], Awaitable[object]]


class StoreOutages(StoreContract):
    """That an outage is told as one, ends with its cause, and takes nothing that was acknowledged."""

    @under(ServerFault.STOPPED, ServerFault.KILLED, ServerFault.PAUSED)
    async def test_an_outage_is_told_as_one_and_ends_with_its_cause(self, cause: ServerFault) -> None:
        async with self.opened() as stores:
            owner = new_owner()
            await furnish(stores, owner)
            reads = {name: partial(read, stores, owner) for name, read in READS.items()}
            before = await self.recovered(reads)
            writes = await self.prepared(stores)
            async with self.working(cause):
                given = await self.answers({**reads, **{item.name: item.call for item in writes}})
            assert [name for name, answer in given.items() if answer.error is None] == []
            assert [name for name in reads if not isinstance(given[name].error, StoreUnavailable)] == []
            assert await self.recovered(reads) == before
            await self.settled(stores, writes, given)

    @under(ServerFault.STOPPED, ServerFault.PAUSED)
    async def test_stores_that_are_opened_in_an_outage_work_when_it_ends(self, cause: ServerFault) -> None:
        owner = new_owner()
        async with self.opened() as stores:
            reads: dict[str, Call] = {"get": lambda: stores.key_values.get(owner, "k")}
            async with self.working(cause):
                assert isinstance((await self.answers(reads))["get"].error, StoreUnavailable)
            assert await self.recovered(reads) == {"get": None}

    @under(ServerFault.STOPPED, ServerFault.KILLED, ServerFault.PAUSED, ServerFault.DROPPED)
    async def test_what_was_acknowledged_is_there_once(self, cause: ServerFault) -> None:
        async with self.opened() as stores:
            diligent = _Diligent(stores, patience=self.limit + self.recovery)
            await diligent.begin()
            async with anyio.create_task_group() as group:
                for kind in _STEPS:
                    group.start_soon(diligent.write, kind)
                for _ in range(_DROPS if cause is ServerFault.DROPPED else 1):
                    await diligent.progress()
                    async with self.working(cause):
                        await anyio.sleep(_BETWEEN)
                await diligent.progress()
                diligent.goes_on = False
            for kind, number in diligent.acknowledged.items():
                assert await _READ_BACK[kind](stores, diligent.owner) == list(range(number)), kind


class StoreRefusals(StoreContract):
    """That a server which takes no writes is told as such, and read."""

    @under(ServerFault.READ_ONLY, ServerFault.FULL)
    async def test_a_server_that_takes_no_writes_says_so_and_is_read(self, cause: ServerFault) -> None:
        async with self.opened() as stores:
            owner = new_owner()
            await furnish(stores, owner)
            reads = {name: partial(read, stores, owner) for name, read in READS.items()}
            before = await self.recovered(reads)
            writes = await self.prepared(stores)
            async with self.working(cause):
                given = await self.answers({item.name: _typed(item.call) for item in writes})
                read = await self.answers(reads)
            assert {name: answer.error for name, answer in given.items() if _in_doubt(answer)} == {}
            assert [name for name, answer in given.items() if answer.error is not None], "nothing was refused"
            assert {name: answer.value for name, answer in read.items()} == before
            await self.settled(stores, writes, given)


def _typed(call: Call) -> Call:
    """The call, with a limit that is reached as one more way in which the server says no."""

    async def called() -> object:
        try:
            return await call()
        except LimitExceeded as error:
            raise StoreUnavailable("the store is full") from error

    return called


def _in_doubt(answer: Answer) -> bool:
    return isinstance(answer.error, OutcomeUnknown)


class _Diligent:
    """Writers that make each write again until it is acknowledged, and then the next.

    Attributes:
        acknowledged: How many writes of each kind are.
    """

    def __init__(self, stores: Stores, patience: float) -> None:
        self.owner = new_owner()
        self.goes_on = True
        self.acknowledged = dict.fromkeys(_STEPS, 0)
        self._stores = stores
        self._patience = patience

    async def begin(self) -> None:
        await _session(self._stores, self.owner).create()

    async def write(self, kind: str) -> None:
        while self.goes_on:
            try:
                outcome = await _STEPS[kind](self._stores, self.owner, self.acknowledged[kind])
            except (StoreUnavailable, OutcomeUnknown):
                pass
            else:
                assert not isinstance(outcome, Refusal), f"{kind} {self.acknowledged[kind]} was refused: {outcome}"
                self.acknowledged[kind] += 1
            await anyio.sleep(_BETWEEN)

    async def progress(self) -> None:
        """Return when there are a few more of each kind."""
        wanted = {kind: number + _MORE for kind, number in self.acknowledged.items()}
        give_up = anyio.current_time() + self._patience
        while late := [kind for kind, number in wanted.items() if self.acknowledged[kind] < number]:
            assert anyio.current_time() < give_up, f"nothing more of {late} was acknowledged in {self._patience:g} s"
            await anyio.sleep(_BETWEEN)


def _session(stores: Stores, owner: Owner) -> SessionCalls:
    return SessionCalls(store=stores.sessions, ttl=TTL, owner=owner)


_STEPS: dict[str, Step] = {
    "messages": lambda stores, owner, n: _session(stores, owner).append(
        [Message(role="user", content=f"{n}")], operation=f"o{n}"
    ),
    "checkpoints": lambda stores, owner, n: _session(stores, owner).put(f"c{n}", b"%d" % n),
    "values": lambda stores, owner, n: stores.key_values.add(owner, f"k{n}", b"%d" % n, ttl=TTL, operation=f"o{n}"),
    "events": lambda stores, owner, n: stores.event_log.append(
        owner, "s", [b"%d" % n], expected=n, ttl=TTL, operation=f"o{n}"
    ),
}


async def _messages(stores: Stores, owner: Owner) -> list[int]:
    return [int(message.content) for message in await _session(stores, owner).messages()]


async def _checkpoints(stores: Stores, owner: Owner) -> list[int]:
    """What they hold, as long as their numbers say the same."""
    found = reversed(await _session(stores, owner).checkpoints())
    return [int(item.data) for place, item in enumerate(found, 1) if item.sequence == place]


async def _values(stores: Stores, owner: Owner) -> list[int]:
    found: list[int] = []
    while (stored := await stores.key_values.get(owner, f"k{len(found)}")) is not None:
        found.append(int(stored.value))
    return found


async def _events(stores: Stores, owner: Owner) -> list[int]:
    return [int(event.data) for event in some(await stores.event_log.read(owner, "s", limit=10_000)).events]


_READ_BACK: dict[str, Callable[[Stores, Owner], Awaitable[list[int]]]] = {
    "messages": _messages,
    "checkpoints": _checkpoints,
    "values": _values,
    "events": _events,
}
