"""What stores promise to several processes that work on the same data: here each has stores of its own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from agent_runtime.ids import new_id
from agent_runtime.rate_limit_store import Charge, RateLimit
from agent_runtime.session_store import Refusal
from agent_runtime.sessions import SessionManager
from agent_runtime.stores import Stores
from agent_runtime.testing.session_calls import WRITES, SessionCalls, picture_of
from agent_runtime.testing.session_samples import done, some, together
from agent_runtime.testing.store_calls import TTL, new_owner
from agent_runtime.testing.store_contract import StoreContract
from agent_runtime.types import Owner

_WRITERS = 50
_ATTEMPTS = _WRITERS * 2  # each of the others overtakes a writer once
_LEASE = 0.05  # seconds of one that is to end


class StoreSharing(StoreContract):
    """That it does not matter through which stores a call is made."""

    @asynccontextmanager
    async def two(self) -> AsyncGenerator[tuple[Stores, Stores]]:
        """Two stores on the same data."""
        async with self.opened() as first, self.opened() as second:
            yield first, second

    async def test_what_one_has_written_another_reads_at_once(self) -> None:
        async with self.two() as (first, second):
            owner = new_owner()
            mine, theirs = _sessions(first, owner), _sessions(second, owner)
            await mine.furnish()
            assert await picture_of(second.sessions, owner) == await picture_of(first.sessions, owner)
            assert await theirs.delete()
            assert await mine.read() is None
            for n in range(10):
                await first.key_values.set(owner, "k", b"%d" % n, ttl=TTL)
                assert some(await second.key_values.get(owner, "k")).value == b"%d" % n

    async def test_fifty_increments_through_two_give_fifty(self) -> None:
        async with self.two() as both:
            owner = new_owner()
            managers = [SessionManager(stores.sessions, ttl=TTL) for stores in both]
            await managers[0].create(owner=owner, agent_id="a", session_id="s", metadata={"n": 0})
            await both[0].key_values.set(owner, "k", b"0", ttl=TTL)

            async def increment(n: int) -> None:
                await managers[n % 2].update_metadata("s", lambda old: {"n": old["n"] + 1}, owner=owner)
                await _increment(both[n % 2], owner)

            await together(_WRITERS, increment)
            for manager, stores in zip(managers, both, strict=True):
                assert some(await manager.get("s", owner=owner)).metadata == {"n": _WRITERS}
                assert some(await stores.key_values.get(owner, "k")).value == b"%d" % _WRITERS

    async def test_of_many_that_add_through_two_one_does(self) -> None:
        async with self.two() as both:
            owner = new_owner()

            async def add(n: int) -> int | Refusal:
                store = both[n % 2].key_values
                return await store.add(owner, "k", b"%d" % n, ttl=TTL, operation=new_id())

            outcomes = await together(_WRITERS, add)
            versions = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
            assert len(versions) == 1
            assert some(await both[1].key_values.get(owner, "k")).version == versions[0]

    async def test_a_limit_admits_the_same_through_two_as_through_one(self) -> None:
        async with self.two() as both:
            key, limit = (new_id(),), RateLimit(rate=1, period=TTL * 1_000, burst=20)

            async def take(n: int) -> bool:
                return (await both[n % 2].rate_limits.take([Charge(key=key, limit=limit)])).allowed

            assert (await together(_WRITERS, take)).count(True) == 20

    async def test_a_log_that_two_write_loses_nothing(self) -> None:
        async with self.two() as both:
            owner = new_owner()
            await together(20, lambda n: _log(both[n % 2], owner, b"%d" % n))
            for stores in both:
                events = some(await stores.event_log.read(owner, "s")).events
                assert sorted(int(event.data) for event in events) == list(range(20))
                assert [event.sequence for event in events] == list(range(1, 21))

    async def test_a_lease_goes_to_one_and_when_it_is_over_the_other_s_writes_are_refused(self) -> None:
        async with self.two() as (first, second):
            owner = new_owner()
            mine, theirs = _sessions(first, owner), _sessions(second, owner)
            await mine.furnish()
            stale = await mine.leased()
            assert await theirs.acquire("k") is Refusal.HELD
            assert await theirs.append() is Refusal.HELD
            done(await mine.renew(stale, seconds=_LEASE))
            await anyio.sleep(_LEASE * 2)  # by the server's clock
            taken = await theirs.leased("k")
            assert taken.fence > stale.fence
            before = await picture_of(second.sessions, owner)
            for name, write in WRITES.items():
                assert await write(mine, stale) is Refusal.FENCED, name
            assert await mine.renew(stale) is Refusal.FENCED
            assert await mine.release(stale) is False
            assert await picture_of(first.sessions, owner) == before
            for name, write in WRITES.items():
                assert not isinstance(await write(theirs, taken), Refusal), name

    async def test_one_of_many_gets_a_lease_through_two(self) -> None:
        async with self.two() as both:
            sessions = [_sessions(stores, owner) for owner in [new_owner()] for stores in both]
            await sessions[0].create()
            outcomes = await together(_WRITERS, lambda n: sessions[n % 2].acquire(f"h{n}"))
            assert outcomes.count(Refusal.HELD) == _WRITERS - 1


def _sessions(stores: Stores, owner: Owner) -> SessionCalls:
    return SessionCalls(store=stores.sessions, ttl=TTL, owner=owner)


async def _increment(stores: Stores, owner: Owner) -> None:
    replace = partial(stores.key_values.replace, owner, "k", ttl=TTL, operation=new_id())
    for _ in range(_ATTEMPTS):
        found = some(await stores.key_values.get(owner, "k"))
        value = b"%d" % (int(found.value) + 1)
        if not isinstance(await replace(value, expected_version=found.version), Refusal):
            return
    raise AssertionError("a value is never the one that was read")


async def _log(stores: Stores, owner: Owner, event: bytes) -> None:
    for _ in range(_ATTEMPTS):
        page = await stores.event_log.read(owner, "s", limit=0)
        last = 0 if page is None else page.last
        outcome = await stores.event_log.append(owner, "s", [event], expected=last, ttl=TTL, operation=new_id())
        if not isinstance(outcome, Refusal):
            return
    raise AssertionError("a log never ends where it was read to end")
