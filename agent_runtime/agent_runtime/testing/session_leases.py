"""What every session store promises of leases: one holder at a time, and nothing written by one whose lease is over."""

import pytest

from agent_runtime.session_store import LeaseToken, Refusal, SessionStore
from agent_runtime.testing.session_calls import WRITES, Operation, picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import (
    CLOSED_FIELDS,
    FIELDS,
    HELLO,
    OWNER,
    OWNERS,
    TURN,
    done,
    some,
    together,
)

_FENCED: dict[str, Operation] = {
    **WRITES,
    "renew": lambda s, lease: s.renew(lease),
    "finish without messages": lambda s, lease: s.finish(None, lease=lease),
}


class SessionLeases(SessionContract):
    """Who holds a session, how long, and what a token is good for."""

    # Given

    async def test_a_lease_tells_who_holds_it(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        given = done(await s.acquire("worker-1"))
        assert (given.token.holder, given.session.holder) == ("worker-1", "worker-1")
        assert given.token.fence >= 1
        assert await s.read() == given.session
        assert [stored.holder for stored in await store.sessions(OWNER)] == ["worker-1"]

    async def test_one_of_many_gets_the_lease(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        outcomes = await together(30, lambda n: s.acquire(f"h{n}"))
        assert outcomes.count(Refusal.HELD) == 29
        [given] = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
        assert some(await s.read()).holder == given.token.holder

    async def test_its_holder_gets_the_same_lease_again_and_longer(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        first = await s.leased("h", seconds=self.ttl * 0.5)
        await self.advance(self.ttl * 0.3)
        again = done(await s.acquire("h", seconds=self.ttl * 0.5))
        assert (again.token, again.session.holder) == (first, "h")
        await self.advance(self.ttl * 0.3)
        assert await s.acquire("other") is Refusal.HELD
        await self.advance(self.ttl * 0.3)
        assert some(await s.read()).holder is None
        assert await s.leased("h") == first  # nobody has taken it
        assert await s.acquire("other") is Refusal.HELD

    async def test_a_lease_whose_time_is_up_goes_to_one_of_many_with_a_larger_fence(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        first = await s.leased(seconds=self.ttl * 0.2)
        await self.advance(self.ttl * 0.3)
        outcomes = await together(20, lambda n: s.acquire(f"h{n}", seconds=self.ttl * 0.2))
        [given] = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
        assert given.token.fence > first.fence
        await self.advance(self.ttl * 0.3)
        assert (await s.leased()).fence > given.token.fence

    async def test_a_closed_session_is_not_leased(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        await s.write(CLOSED_FIELDS)
        assert await s.acquire() is Refusal.CLOSED
        assert await s.acquire(entry=b"x") is Refusal.CLOSED
        assert some(await s.read()).holder is None
        assert await s.runs() == []

    async def test_who_holds_a_session_when_it_is_closed_can_end_the_run(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.write(CLOSED_FIELDS)
        assert done(await s.renew(lease)).token == lease
        assert await s.leased("h") == lease
        assert await s.record(3, b"third", lease=lease) == 3
        assert await s.acquire("h", entry=b"a new run") is Refusal.CLOSED
        assert await s.append(lease=lease) is Refusal.CLOSED
        assert await s.finish(lease=lease) is Refusal.CLOSED
        assert await s.entries() == [b"first", b"second", b"third"]
        assert await s.finish(None, lease=lease) == 3
        assert (some(await s.read()).holder, await s.runs()) == (None, [])

    async def test_a_lease_is_nothing_to_other_owners(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        before = await picture_of(store)
        for owner in OWNERS[1:4]:
            theirs = self.calls(store, owner)
            assert await theirs.acquire() is Refusal.MISSING
            for name, operation in _FENCED.items():
                assert await operation(theirs, lease) is Refusal.MISSING, name
            assert await theirs.release(lease) is False
            assert await theirs.discard_run() is False
            assert (await theirs.runs(), await theirs.entries()) == ([], [])
        assert await picture_of(store) == before

    async def test_a_fork_is_not_held(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        assert done(await s.fork("c2")).holder is None
        done(await s.other("fork").acquire("other"))
        assert some(await s.read()).holder == "h"

    # Over

    @pytest.mark.parametrize("name", _FENCED)
    async def test_a_token_that_another_has_taken_over_does_nothing(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        await s.furnish()
        lease = await s.leased(seconds=self.ttl * 0.1)
        await self.advance(self.ttl * 0.2)
        await s.leased("other")
        before, session = await picture_of(store), await s.read()
        assert await _FENCED[name](s, lease) is Refusal.FENCED
        assert await s.release(lease) is False
        assert (await picture_of(store), await s.read()) == (before, session)
        await self.advance(self.ttl * 0.5)
        assert some(await s.read()).holder == "other"

    @pytest.mark.parametrize("name", _FENCED)
    async def test_a_token_that_was_given_back_does_nothing(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        assert await s.release(lease) is True
        assert await s.release(lease) is False
        before = await picture_of(store)
        assert await _FENCED[name](s, lease) is Refusal.FENCED
        assert await picture_of(store) == before
        assert (await s.leased("h")).fence > lease.fence
        assert await _FENCED[name](s, lease) is Refusal.FENCED

    @pytest.mark.parametrize("name", _FENCED)
    async def test_a_token_whose_time_is_up_holds_until_another_takes_it(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        await s.furnish()
        lease = await s.leased(seconds=self.ttl * 0.1)
        await self.advance(self.ttl * 0.2)
        assert some(await s.read()).holder is None
        assert not isinstance(await _FENCED[name](s, lease), Refusal)

    @pytest.mark.parametrize("name", _FENCED)
    async def test_holder_and_fence_are_compared(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        before = await picture_of(store)
        for forged in (
            LeaseToken(holder="H", fence=lease.fence),
            LeaseToken(holder="h", fence=lease.fence + 1),
            LeaseToken(holder="h", fence=lease.fence - 1),
        ):
            assert await _FENCED[name](s, forged) is Refusal.FENCED
            assert await s.release(forged) is False
        assert await picture_of(store) == before

    @pytest.mark.parametrize("name", _FENCED)
    async def test_a_token_does_nothing_to_a_session_that_was_made_again(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.delete()
        await s.create()
        for _ in range(min(lease.fence, 8)):  # a store that begins to count anew is there soon
            before = await picture_of(store)
            if name != "finish without messages":  # of a run that is not there, it is done already
                assert await _FENCED[name](s, lease) is Refusal.FENCED
            assert await s.release(lease) is False
            assert await picture_of(store) == before
            await s.release(await s.leased("other"))
        await s.leased("other")
        assert await s.release(lease) is False
        assert some(await s.read()).holder == "other"

    async def test_a_lease_may_be_made_shorter(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased()
        done(await s.renew(lease, seconds=self.ttl * 0.1))
        await self.advance(self.ttl * 0.2)
        assert (await s.leased("other")).fence > lease.fence

    async def test_a_renewed_lease_is_held_on(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.5)
        for _ in range(4):
            await self.advance(self.ttl * 0.3)
            renewed = done(await s.renew(lease, seconds=self.ttl * 0.5))
            assert (renewed.token, renewed.session.holder) == (lease, "h")
            assert renewed.session == await s.read()
            assert await s.acquire("other") is Refusal.HELD

    async def test_a_lease_whose_time_was_up_is_renewed(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.1)
        await self.advance(self.ttl * 0.2)
        assert done(await s.renew(lease)).session.holder == "h"
        assert await s.acquire("other") is Refusal.HELD

    # Without a token

    async def test_nobody_adds_messages_without_a_token_while_there_is_a_holder(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.2)
        assert await s.append() is Refusal.HELD
        assert done(await s.write(FIELDS)).holder == "h"
        assert done(await s.put("c")).sequence == 1
        assert await s.append([HELLO], lease=lease) == 1
        await self.advance(self.ttl * 0.3)
        assert await s.append([HELLO]) == 2
        assert await s.append([HELLO], lease=lease) == 3  # still nobody else's
        await s.release(await s.leased("other"))
        assert await s.append(TURN) == 5

    # Lifetime

    async def test_a_session_lives_at_least_until_its_lease_ends(self, store: SessionStore) -> None:
        s = self.calls(store)
        made = done(await s.create())
        lease = await s.leased(seconds=self.ttl * 2)
        end = some(await s.read()).expires_at
        assert end == pytest.approx(made.created_at + self.ttl * 2, abs=self.ttl * 0.1)
        for name in ("write", "append", "put_checkpoint"):
            await WRITES[name](s, lease)
        assert await s.append([HELLO], lease=lease) == 1
        await s.record(1, b"", lease=lease)
        assert some(await s.read()).expires_at == pytest.approx(end, abs=0.01)
        await self.advance(self.ttl * 1.5)
        assert done(await s.renew(lease, seconds=self.ttl * 2)).session.expires_at > end + self.ttl
        await self.advance(self.ttl * 1.5)
        assert some(await s.read()).holder == "h"
        await self.advance(self.ttl * 0.7)
        assert await s.read() is None
        assert await s.renew(lease) is Refusal.MISSING

    async def test_a_lease_given_back_leaves_the_lifetime_and_the_next_write_sets_it(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 2)
        before = some(await s.read())
        await s.release(lease)
        after = some(await s.read())
        assert (after.holder, after.expires_at, after.updated_at) == (None, before.expires_at, before.updated_at)
        written = done(await s.write())
        assert written.expires_at == pytest.approx(written.updated_at + self.ttl, abs=0.01)
        await s.finish(lease=await s.leased(seconds=self.ttl * 2))
        finished = some(await s.read())
        assert finished.expires_at == pytest.approx(finished.updated_at + self.ttl, abs=0.01)

    async def test_a_renewal_never_shortens_a_life(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.2)
        before = some(await s.read()).expires_at
        assert done(await s.renew(lease, seconds=self.ttl * 0.1)).session.expires_at == before

    async def test_a_lease_prolongs_like_a_write(self, store: SessionStore) -> None:
        s = self.calls(store)
        made = done(await s.create())
        await self.advance(self.ttl * 0.5)
        given = done(await s.acquire(seconds=self.ttl * 0.1))
        assert given.session.expires_at >= made.expires_at + self.ttl * 0.45
