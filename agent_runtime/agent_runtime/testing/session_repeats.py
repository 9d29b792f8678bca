"""What every session store promises of a write that is made again, because nobody knew whether it was done."""

import pytest

from agent_runtime.session_store import OPERATIONS_KEPT, Refusal, SessionStore
from agent_runtime.testing.session_calls import OPERATIONS, picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import (
    CLOSED_FIELDS,
    FIELDS,
    HELLO,
    OTHER_FIELDS,
    OWNER,
    OWNERS,
    TURN,
    done,
    some,
    together,
)

_ANSWERED_AGAIN = [name for name in OPERATIONS if not name.startswith(("delete", "release", "discard"))]


class SessionRepeats(SessionContract):
    """The same operation again changes nothing and answers like the first, whatever happened since."""

    @pytest.mark.parametrize("name", _ANSWERED_AGAIN)
    async def test_the_same_again_changes_nothing_and_answers_alike(self, store: SessionStore, name: str) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        first = await OPERATIONS[name](s, lease)
        assert not isinstance(first, Refusal)
        after = await picture_of(store)
        assert await OPERATIONS[name](s, lease) == first
        assert await picture_of(store) == after

    @pytest.mark.parametrize("name", _ANSWERED_AGAIN)
    async def test_of_many_that_are_the_same_one_is_done(self, store: SessionStore, name: str) -> None:
        s, alone = self.calls(store), self.calls(store, OWNERS[1])
        alone_lease = await alone.furnish()
        await OPERATIONS[name](alone, alone_lease)
        lease = await s.furnish()
        outcomes = await together(20, lambda n: OPERATIONS[name](s, lease))
        assert not [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        assert await picture_of(store) == await picture_of(store, alone.owner)

    async def test_a_repeat_does_not_prolong(self, store: SessionStore) -> None:
        s = self.calls(store)
        made = done(await s.create(operation="c"))
        await self.advance(self.ttl * 0.1)
        await s.write(operation="w")
        await s.append(operation="a")
        lease = await s.leased()
        await s.finish([HELLO], lease=lease)
        before = await s.read()
        await self.advance(self.ttl * 0.5)
        assert done(await s.create(operation="c")).created_at == made.created_at
        await s.write(operation="w")
        await s.append(operation="a")
        await s.finish([HELLO], lease=lease)
        assert await s.read() == before

    async def test_a_repeated_create_answers_with_the_session_that_it_made(self, store: SessionStore) -> None:
        s, quota = self.calls(store), self.quota(max_sessions=1, max_sessions_per_user=1)
        made = done(await s.create(quota=quota, operation="o"))
        assert await s.create(quota=quota, operation="o") == made
        await s.append()
        await s.write()
        await s.leased()
        assert done(await s.create(quota=quota, operation="o")).session_id == "s"
        assert some(await s.read()).fields == OTHER_FIELDS
        assert await s.messages() == [*TURN]
        assert await s.create(quota=quota, operation="p") is Refusal.EXISTS
        assert await store.count(OWNER) == 1

    async def test_a_repeated_write_answers_with_the_session_as_it_is_now(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.1)
        done(await s.write(OTHER_FIELDS, expected=1, operation="o", lease=lease))
        now = done(await s.write(FIELDS, expected=2, operation="p", lease=lease))
        assert await s.write(OTHER_FIELDS, expected=1, operation="o", lease=lease) == now
        await self.advance(self.ttl * 0.2)
        await s.leased("other")
        await s.append(lease=await s.leased("other"))
        now = done(await s.write(OTHER_FIELDS, expected=1, operation="o", lease=lease))
        assert now == await s.read()
        assert (now.fields, now.version, now.message_count, now.holder) == (FIELDS, 3, 2, "other")

    async def test_a_repeated_append_answers_with_the_count_that_it_gave(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        assert await s.append(expected=0, operation="free") == 2
        lease = await s.leased(seconds=self.ttl * 0.1)
        assert await s.append([HELLO], expected=2, operation="held", lease=lease) == 3
        assert await s.append(expected=0, operation="free") == 2  # which otherwise were CHANGED and HELD
        await self.advance(self.ttl * 0.2)
        other = await s.leased("other")
        assert await s.append([HELLO], expected=2, operation="held", lease=lease) == 3  # FENCED
        await s.append(lease=other)
        await s.write(CLOSED_FIELDS)
        assert await s.append([HELLO], expected=2, operation="held", lease=lease) == 3  # CLOSED
        assert await s.append(expected=0, operation="free") == 2
        assert await s.messages() == [*TURN, HELLO, *TURN]

    async def test_an_append_is_known_as_long_as_the_session_lives(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        assert await s.append([HELLO], operation="first") == 1
        for _ in range(3 * OPERATIONS_KEPT):
            await s.append([HELLO])
        assert await s.append([HELLO], operation="first") == 1
        assert len(await s.messages()) == 3 * OPERATIONS_KEPT + 1

    async def test_the_last_writes_are_known(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        for n in range(OPERATIONS_KEPT + 20):
            done(await s.write(expected=n + 1, operation=f"o{n}"))
        for n in range(20, OPERATIONS_KEPT + 20):
            assert done(await s.write(expected=n + 1, operation=f"o{n}")).version == OPERATIONS_KEPT + 21

    async def test_a_repeated_checkpoint_answers_with_the_first(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.1)
        first = await s.put("c", b"x", lease=lease)
        await s.append(lease=lease)
        await self.advance(self.ttl * 0.2)
        await s.leased("other")
        assert await s.put("c", b"x", lease=lease) == first  # which otherwise were FENCED
        await s.write(CLOSED_FIELDS)
        assert await s.put("c", b"x", lease=lease) == first
        assert await s.checkpoints() == [first]

    async def test_a_repeated_fork_answers_with_the_session_that_it_made(self, store: SessionStore) -> None:
        s, fork = self.calls(store), self.calls(store, session_id="fork")
        await s.create()
        await s.append([HELLO])
        await s.put("c1")
        quota = self.quota(max_sessions=2, max_sessions_per_user=2)
        made = done(await s.fork(quota=quota, operation="o"))
        assert await s.fork(quota=quota, operation="o") == made
        assert await s.fork(quota=quota, operation="p") is Refusal.EXISTS
        await fork.append()
        await s.delete()
        assert done(await s.fork(quota=quota, operation="o")).session_id == "fork"
        assert await fork.messages() == [HELLO, *TURN]
        assert await store.count(OWNER) == 1

    async def test_a_repeated_record_answers_with_its_number(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased(seconds=self.ttl * 0.1)
        for number in (1, 2):
            assert await s.record(number, b"%d" % number, lease=lease) == number
        await self.advance(self.ttl * 0.2)
        other = await s.leased("other")
        assert await s.record(3, b"3", lease=other) == 3
        await s.write(CLOSED_FIELDS)
        for number in (1, 2):
            assert await s.record(number, b"%d" % number, lease=lease) == number
        assert await s.entries() == [b"1", b"2", b"3"]

    async def test_a_repeated_finish_answers_with_the_count_that_it_gave(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        assert await s.finish(lease=lease) == 5
        other = await s.leased("other")
        await s.append([HELLO], lease=other)
        await s.record(1, b"another run", lease=other, run="another")
        before = await picture_of(store)
        assert await s.finish(lease=lease) == 5  # which otherwise were FENCED
        await s.write(CLOSED_FIELDS)
        assert await s.finish(lease=lease) == 5
        assert (await s.messages(), await s.runs()) == ([HELLO, *TURN, *TURN, HELLO], ["another"])
        assert some(await s.read()).holder == before["s"].holder == "other"

    async def test_a_finish_without_messages_can_be_repeated(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        assert await s.finish(None, lease=lease) == 3
        other = await s.leased("other")
        assert await s.finish(None, lease=lease) == 3
        assert await s.append([HELLO], lease=other) == 4
        assert await s.finish(None, lease=lease) == 4
        assert some(await s.read()).holder == "other"

    async def test_a_run_taken_up_after_its_end_ends_without_adding_again(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = done(await s.acquire("r", entry=b"first")).token
        assert await s.finish(lease=lease) == 2
        again = done(await s.acquire("r", entry=b"again")).token
        assert await s.finish(lease=lease) == 2
        assert (await s.entries(), some(await s.read()).holder) == ([b"again"], "r")
        assert await s.finish(lease=again) == 2
        assert (await s.runs(), some(await s.read()).holder) == ([], None)
        assert await s.messages() == [*TURN]

    async def test_a_run_that_another_has_finished_is_not_finished_again(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        late = await s.leased("late", seconds=self.ttl * 0.1)
        await s.record(1, b"begun", lease=late)
        await self.advance(self.ttl * 0.2)
        assert await s.finish([HELLO], lease=await s.leased("other")) == 1
        for _ in range(2):
            assert await s.finish([*TURN], lease=late) is Refusal.FENCED
        assert await s.messages() == [HELLO]

    async def test_the_same_operation_in_two_sessions_is_two(self, store: SessionStore) -> None:
        for owner in OWNERS[:3]:
            for name in ("s", "t"):
                s = self.calls(store, owner, name)
                assert done(await s.create(operation="c")).version == 1
                assert await s.append([HELLO], operation="a") == 1
                assert done(await s.write(operation="w")).version == 2
                assert await s.finish(lease=await s.leased()) == 3
                await s.put("c1")
                assert done(await s.fork(new=f"{name}-fork", operation="f")).message_count == 3

    async def test_an_operation_that_was_refused_is_not_known(self, store: SessionStore) -> None:
        s = self.calls(store)
        assert await s.append(operation="a") is Refusal.MISSING
        await s.create()
        assert await s.append(expected=7, operation="a") is Refusal.CHANGED
        assert await s.write(expected=7, operation="w") is Refusal.CHANGED
        lease = await s.leased()
        assert await s.append(operation="a") is Refusal.HELD
        await s.release(lease)
        assert await s.finish(lease=lease) is Refusal.FENCED
        assert await s.append(expected=0, operation="a") == 2
        assert done(await s.write(expected=1, operation="w")).version == 2
        assert await s.finish(lease=await s.leased()) == 4

    async def test_an_operation_is_forgotten_with_its_session(self, store: SessionStore) -> None:
        s = self.calls(store)
        for gone in ("deleted", "expired"):
            assert done(await s.create(operation="c")).version == 1
            assert await s.append([HELLO], operation="a") == 1
            assert await s.append([HELLO]) == 2
            assert done(await s.write(operation="w")).version == 2
            lease = await s.leased()
            await s.record(1, b"x", lease=lease)
            assert await s.finish([HELLO], lease=lease) == 3
            assert await s.runs() == []
            if gone == "deleted":
                await s.delete()
            else:
                await self.advance(self.ttl * 1.1)
        assert await s.read() is None
