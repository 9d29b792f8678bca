"""What every session store promises of runs: entries in order, and one step that ends a run."""

import pytest

from agent_runtime.session_store import RUNS_KEPT, Refusal, SessionStore
from agent_runtime.testing.session_calls import picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import EVERY_BYTE, HELLO, OWNER, TURN, done, some, together


class SessionRuns(SessionContract):
    """What a run has recorded, and how it ends."""

    # Entries

    async def test_entries_come_back_in_order_and_as_they_were(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased()
        entries = [EVERY_BYTE, b"", b"\0", *(b"%d" % n for n in range(20))]
        for number, entry in enumerate(entries, 1):
            assert await s.record(number, entry, lease=lease) == number
        assert await s.entries() == entries

    async def test_a_run_tells_when_it_began_and_how_far_it_is(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        await s.append()
        lease = await s.leased()
        await s.record(1, b"x", lease=lease)
        [begun] = await store.runs(OWNER, "s")
        assert (begun.run_id, begun.sequence, begun.entry_count, begun.message_count) == ("r", 1, 1, 2)
        assert begun.created_at == begun.updated_at
        await self.advance(self.ttl * 0.1)
        await s.append([HELLO], lease=lease)
        await s.record(2, b"y", lease=lease)
        [run] = await store.runs(OWNER, "s")
        assert (run.sequence, run.entry_count, run.message_count) == (1, 2, 2)
        assert (run.created_at, run.updated_at > run.created_at) == (begun.created_at, True)

    async def test_an_entry_may_be_large(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        entry = EVERY_BYTE * 32_768  # 8 MiB
        lease = done(await s.acquire("r", entry=entry)).token
        assert await s.record(2, entry[::-1], lease=lease) == 2
        assert await s.record(2, entry[::-1], lease=lease) == 2
        assert await s.entries() == [entry, entry[::-1]]

    async def test_an_entry_has_the_next_number_or_is_refused(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        before = await picture_of(store)
        assert await s.record(1, b"other", lease=lease) is Refusal.CHANGED
        assert await s.record(2, b"other", lease=lease) is Refusal.CHANGED
        assert await s.record(4, b"fourth", lease=lease) is Refusal.CHANGED
        assert await s.record(2, b"", lease=lease, run="unknown") is Refusal.MISSING
        assert await s.record(2, b"second", lease=lease) == 2
        assert await picture_of(store) == before
        assert await s.record(3, b"third", lease=lease) == 3

    async def test_of_many_entries_with_one_number_one_is_there(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased()
        for number in (1, 2):
            at = number
            outcomes = await together(20, lambda n: s.record(at, b"%d" % n, lease=lease))  # noqa: B023 (done before the next)
            assert (outcomes.count(Refusal.CHANGED), outcomes.count(number)) == (19, 1)
        assert len(await s.entries()) == 2

    async def test_runs_have_their_own_numbers_and_the_youngest_is_first(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased()
        for run in ("z", "a", "m"):
            await s.record(1, run.encode(), lease=lease, run=run)
        await s.record(2, b"more", lease=lease, run="a")
        assert await s.runs() == ["m", "a", "z"]
        assert [await s.entries(run) for run in ("z", "a", "m")] == [[b"z"], [b"a", b"more"], [b"m"]]
        await s.finish(None, lease=lease, run="m")
        await s.discard_run("a")
        lease = await s.leased()
        await s.record(1, b"again", lease=lease, run="m")
        assert [(run.run_id, run.sequence) for run in await store.runs(OWNER, "s")] == [("m", 4), ("z", 1)]

    async def test_a_new_run_takes_the_place_of_the_oldest(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        lease = await s.leased()
        for n in range(1, RUNS_KEPT):
            await s.record(1, b"%d" % n, lease=lease, run=f"r{n}")
        full = (await picture_of(store))["s"]
        assert len(full.runs) == RUNS_KEPT
        await s.record(3, b"third", lease=lease)
        assert await s.runs() == [run[0] for run in full.runs]
        await s.record(1, b"new", lease=lease, run="new")
        assert await s.runs() == ["new", *(run[0] for run in full.runs[:-1])]
        assert await s.entries() == []
        assert await s.record(4, b"fourth", lease=lease) is Refusal.MISSING
        await s.release(lease)
        done(await s.acquire("newest", entry=b"newest"))
        after = (await picture_of(store))["s"]
        assert [run[0] for run in after.runs] == ["newest", "new", *(run[0] for run in full.runs[:-2])]
        assert after.runs[2:] == full.runs[:-2]
        assert (after.messages, after.checkpoints, after.version) == (full.messages, full.checkpoints, full.version)

    # Begun with the lease

    async def test_a_run_begins_with_its_lease(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        await s.append([HELLO])
        given = done(await s.acquire("r", entry=b"first"))
        assert await s.entries() == [b"first"]
        [run] = await store.runs(OWNER, "s")
        assert (run.run_id, run.sequence, run.entry_count, run.message_count) == ("r", 1, 1, 1)
        assert done(await s.acquire("r", entry=b"first")).token == given.token
        assert await s.record(2, b"second", lease=given.token) == 2
        assert done(await s.acquire("r", entry=b"first")).token == given.token
        assert await s.entries() == [b"first", b"second"]

    async def test_a_lease_that_is_refused_begins_nothing(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        before = await picture_of(store)
        assert await s.acquire("other", entry=b"x") is Refusal.HELD
        assert await picture_of(store) == before
        await s.release(lease)
        assert await s.acquire("r", entry=b"x") is Refusal.CHANGED
        assert some(await s.read()).holder is None
        done(await s.acquire("r", entry=b"first"))
        assert await s.entries() == [b"first", b"second"]

    async def test_of_many_that_begin_a_run_one_does(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        outcomes = await together(20, lambda n: s.acquire(f"r{n}", entry=b"%d" % n))
        [given] = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
        assert await s.runs() == [given.token.holder]

    async def test_its_holder_may_begin_a_run_later(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased("r")
        assert done(await s.acquire("r", entry=b"first")).token == lease
        assert await s.entries() == [b"first"]

    async def test_another_holder_goes_on_with_a_run(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = done(await s.acquire("r", seconds=self.ttl * 0.1, entry=b"first")).token
        await self.advance(self.ttl * 0.2)
        other = await s.leased("other")
        assert await s.record(2, b"from the old", lease=lease) is Refusal.FENCED
        assert await s.record(1, b"first", lease=other) == 1
        assert await s.record(2, b"from the new", lease=other) == 2
        assert await s.finish(lease=lease) is Refusal.FENCED
        assert await s.entries() == [b"first", b"from the new"]
        assert await s.finish(lease=other) == 2

    # Ended

    async def test_a_run_ends_in_one_step(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.record(1, b"", lease=lease, run="other")
        assert await s.finish(lease=lease) == 5
        assert await s.messages() == [HELLO, *TURN, *TURN]
        assert (await s.runs(), await s.entries()) == (["other"], [])
        session = some(await s.read())
        assert (session.holder, session.version, session.message_count) == (None, 1, 5)
        assert await s.release(lease) is False
        assert await s.append(lease=lease) is Refusal.FENCED
        assert (await s.leased("h")).fence > lease.fence

    async def test_a_run_that_recorded_nothing_ends_as_well(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        assert await s.finish(lease=await s.leased()) == 2
        assert await s.finish(None, lease=await s.leased(), run="another") == 2
        assert some(await s.read()).holder is None

    async def test_a_lease_that_is_over_ends_no_run(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.release(lease)
        before = await picture_of(store)
        assert await s.finish(None, lease=lease) is Refusal.FENCED
        assert await s.finish(lease=lease) is Refusal.FENCED
        assert await s.finish(lease=lease, run="never begun") is Refusal.FENCED
        assert await picture_of(store) == before

    async def test_a_run_is_discarded_when_nobody_holds_the_session(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        assert await s.discard_run() is Refusal.HELD
        await s.renew(lease, seconds=self.ttl * 0.1)
        await self.advance(self.ttl * 0.2)
        before = some(await s.read())
        assert await s.discard_run("unknown") is False
        assert await s.discard_run() is True
        assert await s.discard_run() is False
        assert (await s.runs(), await s.entries()) == ([], [])
        assert await s.read() == before
        assert await s.record(3, b"third", lease=lease) is Refusal.MISSING

    async def test_of_many_that_discard_a_run_one_does(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        outcomes = await together(20, lambda n: s.other("free").discard_run("q"))
        assert (outcomes.count(True), outcomes.count(False)) == (1, 19)

    async def test_a_fork_has_no_runs(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        done(await s.fork("c2"))
        fork = s.other("fork")
        assert (await fork.runs(), await fork.entries()) == ([], [])
        given = done(await fork.acquire("r", entry=b"its own"))
        [run] = await store.runs(OWNER, "fork")
        assert (run.sequence, run.message_count) == (1, 3)
        assert await fork.finish(lease=given.token) == 5
        assert await s.entries() == [b"first", b"second"]

    @pytest.mark.parametrize("other", ["s2", "S"])
    async def test_runs_of_two_sessions_are_two(self, store: SessionStore, other: str) -> None:
        s, t = self.calls(store), self.calls(store, session_id=other)
        lease = await s.furnish()
        await t.create()
        t_lease = await t.leased("h")
        assert await t.record(3, b"third", lease=t_lease) is Refusal.MISSING
        assert await t.record(1, b"mine", lease=t_lease) == 1
        assert await t.finish(lease=t_lease) == 2
        assert await s.entries() == [b"first", b"second"]
        assert await s.finish(lease=lease) == 5
