"""What every session store promises when many call it at once, when a call is cancelled, and when it is opened again."""

from collections.abc import Awaitable
from functools import partial

import pytest

from agent_runtime.errors import LimitExceeded
from agent_runtime.ids import new_id
from agent_runtime.session_store import Refusal, SessionStore, StoredSession
from agent_runtime.sessions import SessionManager
from agent_runtime.testing.session_calls import OPERATIONS, Operation, Pictured, picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import OWNER, OWNERS, TURN, cut, done, later, some, together
from agent_runtime.testing.store_faults import settled
from agent_runtime.types import Message, Owner


class SessionRaces(SessionContract):
    """That each call is one step, for all who call and whatever happens to the caller."""

    # Many at once

    async def test_of_many_that_write_the_same_version_one_does(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        outcomes = await together(50, lambda n: s.write())
        assert outcomes.count(Refusal.CHANGED) == 49
        assert some(await s.read()).version == 2

    async def test_of_many_that_append_at_the_same_count_one_does(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        outcomes = await together(50, lambda n: s.append(TURN, expected=0))
        assert outcomes.count(Refusal.CHANGED) == 49
        assert len(await s.messages()) == 2

    async def test_batches_of_many_are_not_mixed_nor_lost(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()

        def append(n: int) -> Awaitable[int | Refusal]:
            return s.append([Message(role="user", content=f"{n}"), Message(role="assistant", content=f"{n}")])

        counts = await together(50, append)
        assert sorted(done(counted) for counted in counts) == list(range(2, 102, 2))
        said = [message.content for message in await s.messages()]
        assert said[::2] == said[1::2]
        assert sorted(said[::2], key=int) == [str(n) for n in range(50)]

    async def test_checkpoints_of_many_have_a_number_each(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        await together(50, lambda n: s.put(f"c{n}"))
        assert [item.sequence for item in await s.checkpoints()] == list(range(50, 0, -1))

    async def test_fifty_increments_at_once_give_fifty(self, store: SessionStore) -> None:
        sessions = SessionManager(store, ttl=self.ttl)
        await sessions.create(owner=OWNER, agent_id="a", session_id="s", metadata={"n": 0})
        await together(50, lambda n: sessions.update_metadata("s", lambda old: {"n": old["n"] + 1}, owner=OWNER))
        session = some(await sessions.get("s", owner=OWNER))
        assert (session.metadata, session.version) == ({"n": 50}, 51)

    async def test_a_limit_holds_when_many_create_at_once(self, store: SessionStore) -> None:
        quota = self.quota(max_sessions=8, max_sessions_per_user=5)
        mine, theirs = (self.calls(store, owner) for owner in OWNERS[:2])
        outcomes = await together(20, lambda n: mine.other(f"s{n}").create(quota=quota))
        assert outcomes.count(Refusal.OWNER_FULL) == 15
        assert await store.count(OWNER) == 5
        outcomes = await together(20, lambda n: theirs.other(f"s{n}").create(quota=quota))
        assert outcomes.count(Refusal.FULL) == 17
        assert await mine.fork(quota=quota) is Refusal.MISSING
        with pytest.raises(LimitExceeded):
            await SessionManager(store, ttl=self.ttl, max_sessions=8).create(owner=OWNERS[2], agent_id="a")

    async def test_a_limit_holds_for_a_fork(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        assert await s.fork(quota=self.quota(max_sessions=2)) is Refusal.FULL
        assert await s.fork(quota=self.quota(max_sessions_per_user=2)) is Refusal.OWNER_FULL
        done(await s.fork(quota=self.quota(max_sessions=3, max_sessions_per_user=3)))

    async def test_of_many_that_create_the_same_id_one_does(self, store: SessionStore) -> None:
        outcomes = await together(20, lambda n: self.calls(store).create())
        assert outcomes.count(Refusal.EXISTS) == 19

    async def test_a_fork_while_the_session_grows_has_what_was_there_at_its_checkpoint(
        self, store: SessionStore
    ) -> None:
        s = self.calls(store)
        await s.create()
        await s.append()
        await s.put("c1")

        async def grow_or_fork(n: int) -> object:
            return await (s.append() if n % 2 else s.fork("c1", f"fork{n}"))

        await together(20, grow_or_fork)
        picture = await picture_of(store)
        assert len(picture.pop("s").messages) == 22
        there = {name: Pictured(name, messages=TURN, checkpoints=(("c1", b"", 1, 2),)) for name in picture}
        assert picture == there
        assert len(there) == 10

    # Cancellation

    @pytest.mark.parametrize("name", OPERATIONS)
    async def test_a_cancelled_call_is_done_as_a_whole_or_not_at_all_and_can_be_made_again(
        self, store: SessionStore, name: str
    ) -> None:
        operation = OPERATIONS[name]
        before, after = await self._before_and_after(store, operation)
        turns = 0
        while True:
            s = self.calls(store, Owner(tenant_id=None, user_id=new_id()))
            lease = await s.furnish()
            finished = await cut(partial(operation, s, lease), turns)
            await settled(store)
            assert await picture_of(store, s.owner) in ([after] if finished else [before, after]), turns
            await operation(s, lease)
            assert await picture_of(store, s.owner) == after, turns
            if finished:
                return
            turns = later(turns)

    async def test_a_cancelled_renewal_prolongs_lease_and_session_or_neither(self, store: SessionStore) -> None:
        cut_off: list[Owner] = []
        turns, finished = 0, False
        while not finished:
            cut_off.append(Owner(tenant_id=None, user_id=new_id()))
            s = self.calls(store, cut_off[-1])
            lease = await s.furnish()
            finished = await cut(partial(s.renew, lease, seconds=self.ttl * 3), turns)
            turns = later(turns)
        await settled(store)
        await self.advance(self.ttl * 1.5)
        left = [await self.calls(store, owner).read() for owner in cut_off]
        assert left[-1] is not None
        assert {stored.holder for stored in left if stored is not None} == {"h"}

    async def _before_and_after(
        self, store: SessionStore, operation: Operation
    ) -> tuple[dict[str, Pictured], dict[str, Pictured]]:
        s = self.calls(store)
        lease = await s.furnish()
        before = await picture_of(store)
        await operation(s, lease)
        after = await picture_of(store)
        assert after != before
        return before, after

    # Opened again

    async def test_all_is_there_when_the_store_is_opened_again(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.write(operation="w", lease=lease)
        await s.append(operation="a", lease=lease)
        await s.other("done").create(operation="c")
        ended = await s.other("done").leased()
        await s.other("done").finish(lease=ended)
        before, sessions = await picture_of(store), await self._stored(store)
        opened = await self.reopen(store)
        assert await picture_of(opened) == before
        assert await self._stored(opened) == sessions
        s = self.calls(opened)
        assert done(await s.write(operation="w", lease=lease)).version == 2
        assert await s.append(operation="a", lease=lease) == 5
        assert done(await s.other("done").create(operation="c")).message_count == 2
        assert await s.other("done").finish(lease=ended) == 2
        assert await picture_of(opened) == before
        assert await s.record(3, b"third", lease=lease) == 3
        assert done(await s.put("c3", lease=lease)).sequence == 3
        assert (await s.other("done").leased("k")).fence > ended.fence
        assert await self.calls(opened).acquire("other") is Refusal.HELD
        await self.advance(self.ttl * 1.1)
        assert sorted(item.session_id for item in await opened.expire()) == ["done", "free", "s"]

    async def _stored(self, store: SessionStore) -> list[StoredSession]:
        return sorted(await store.sessions(OWNER), key=lambda stored: stored.session_id)
