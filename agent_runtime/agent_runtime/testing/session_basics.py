"""What every session store promises of sessions, messages, checkpoints and owners."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.session_store import Refusal, SessionContent, SessionFields, SessionStore
from agent_runtime.testing.session_calls import CONTENT, OPERATIONS, WRITES, Pictured, picture_of
from agent_runtime.testing.session_contract import SessionContract
from agent_runtime.testing.session_samples import (
    CLOSED_FIELDS,
    EVERY_BYTE,
    FIELDS,
    HELLO,
    OTHER_FIELDS,
    OWNER,
    OWNERS,
    TURN,
    any_messages,
    any_owners,
    done,
    some,
)
from agent_runtime.types import Message, Owner

_each_on_the_same_store = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class SessionBasics(SessionContract):
    """What is there, for whom, and what is refused."""

    # Sessions

    async def test_a_session_comes_back_as_it_was_made(self, store: SessionStore) -> None:
        made = done(await self.calls(store).create())
        assert (made.session_id, made.fields, made.version, made.message_count) == ("s", FIELDS, 1, 0)
        assert made.holder is None
        assert made.created_at == made.updated_at
        assert made.expires_at == pytest.approx(made.created_at + self.ttl, abs=0.01)
        assert await store.read(OWNER, "s") == made

    async def test_a_session_may_start_with_content(self, store: SessionStore) -> None:
        s = self.calls(store)
        assert done(await s.create(content=CONTENT)).message_count == 3
        checkpoints = (("young", b"young", 2, 3), ("old", b"old", 1, 1))
        there = Pictured("s", messages=(HELLO, *TURN), checkpoints=checkpoints)
        assert await picture_of(store) == {"s": there}
        assert done(await s.put("next")).sequence == 3
        assert done(await s.fork("old")).message_count == 1
        assert await s.create(OTHER_FIELDS, content=CONTENT) is Refusal.EXISTS
        assert await s.messages() == [HELLO, *TURN]

    async def test_content_that_is_empty_is_none(self, store: SessionStore) -> None:
        await self.calls(store).create(content=SessionContent())
        assert await picture_of(store) == {"s": Pictured("s")}

    async def test_what_is_not_there_is_told_apart_from_what_is_empty(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        lease = await s.leased()
        await s.delete()
        assert await s.read() is None
        assert await store.messages(OWNER, "s") is None
        assert await s.checkpoints() == []
        assert await s.runs() == []
        assert await s.entries() == []
        assert not await store.sessions(OWNER)
        assert await store.count(OWNER) == 0
        assert await s.delete() is False
        assert await store.delete_all(OWNER) == 0
        assert await store.delete_checkpoints(OWNER, "s") == 0
        assert await s.release(lease) is False
        assert await s.discard_run() is False
        for name, operation in WRITES.items():
            assert await operation(s, lease) is Refusal.MISSING, name
        for outcome in (await s.append(), await s.finish(None, lease=lease), await s.acquire(), await s.renew(lease)):
            assert outcome is Refusal.MISSING
        assert await s.fork() is Refusal.MISSING
        await s.create()
        assert await s.fork() is Refusal.MISSING
        assert await s.messages() == []
        assert await s.entries() == []

    async def test_an_id_is_taken_once(self, store: SessionStore) -> None:
        s = self.calls(store)
        made = await s.create()
        assert await s.create(OTHER_FIELDS) is Refusal.EXISTS
        assert await s.read() == made

    async def test_ids_are_compared_exactly(self, store: SessionStore) -> None:
        small, large = self.calls(store, session_id="s" * 128), self.calls(store, session_id="s" * 127 + "S")
        await small.create(operation="c")
        assert await large.read() is None
        await large.create(OTHER_FIELDS)
        for name in ("c", "C", "_", "-", "%", "c" * 128):
            done(await small.put(name, name.encode()))
        assert [item.data for item in await store.checkpoints(OWNER, small.session_id, checkpoint_id="C")] == [b"C"]
        await small.append([HELLO], operation="a")
        assert await small.append([HELLO], operation="A") == 2
        lease = await small.leased("h")
        assert await small.acquire("H") is Refusal.HELD
        for run in ("r", "R", "r" * 128):
            assert await small.record(1, run.encode(), lease=lease, run=run) == 1
        assert await small.entries("R") == [b"R"]
        assert await small.create(operation="C") is Refusal.EXISTS
        assert some(await large.read()).fields == OTHER_FIELDS

    async def test_a_write_at_another_version_changes_nothing(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        written = done(await s.write(OTHER_FIELDS, expected=1))
        assert (written.version, written.fields) == (2, OTHER_FIELDS)
        for version in (1, 3):
            assert await s.write(FIELDS, expected=version) is Refusal.CHANGED
        assert await s.read() == written

    async def test_a_closed_session_is_read_and_written_but_does_not_grow(self, store: SessionStore) -> None:
        s = self.calls(store)
        lease = await s.furnish()
        await s.write(CLOSED_FIELDS, lease=lease)
        before = await picture_of(store)
        for name in ("append", "put_checkpoint", "finish"):
            assert await WRITES[name](s, lease) is Refusal.CLOSED, name
        assert await s.record(1, b"a new run", lease=lease, run="new") is Refusal.CLOSED
        assert await picture_of(store) == before
        assert done(await s.fork()).fields.closed is False
        assert not isinstance(await s.write(CLOSED_FIELDS, expected=2, lease=lease), Refusal)

    async def test_delete_all_takes_everything_or_what_one_agent_has(self, store: SessionStore) -> None:
        for name, fields in (("a", FIELDS), ("b", FIELDS), ("c", OTHER_FIELDS)):
            await self.calls(store, session_id=name).create(fields)
        await self.calls(store, session_id="b").write(OTHER_FIELDS)
        assert await store.delete_all(OWNER, agent_id="support") == 1
        assert {stored.session_id for stored in await store.sessions(OWNER)} == {"b", "c"}
        assert await store.delete_all(OWNER) == 2
        assert await store.count(OWNER) == 0

    async def test_nothing_of_a_deleted_session_comes_back_under_its_id(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.furnish()
        assert await s.delete() is True
        await s.other("free").delete()
        assert await store.count(OWNER) == 0
        await s.create()
        assert await picture_of(store) == {"s": Pictured("s")}
        assert done(await s.put("c9")).sequence == 1
        assert done(await s.acquire("r", entry=b"anew")).session.holder == "r"
        assert await s.entries() == [b"anew"]
        [run] = await store.runs(OWNER, "s")
        assert (run.sequence, run.message_count) == (1, 0)

    # Messages

    async def test_messages_are_added_in_order_and_counted(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        assert await s.append([HELLO], expected=0) == 1
        assert await s.append(TURN) == 3
        assert await s.append([HELLO], expected=1) is Refusal.CHANGED
        assert await s.messages() == [HELLO, *TURN]
        session = some(await s.read())
        assert (session.message_count, session.version) == (3, 1)

    async def test_the_last_messages_are_as_many_as_asked_for(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        for _ in range(3):
            await s.append((HELLO, *TURN))
        everything = (HELLO, *TURN) * 3
        for last in range(12):
            found = tuple(some(await store.messages(OWNER, "s", last=last)))
            assert found == everything[max(0, 9 - last) :], last

    @_each_on_the_same_store
    @given(appends=st.lists(st.lists(any_messages, min_size=1, max_size=3), max_size=3))
    async def test_any_messages_come_back_as_they_were(self, store: SessionStore, appends: list[list[Message]]) -> None:
        s = self.calls(store)
        await s.delete()
        await s.create()
        for messages in appends:
            await s.append(messages)
        assert await s.messages() == [message for messages in appends for message in messages]

    # Checkpoints

    async def test_checkpoints_are_ordered_by_a_sequence_that_never_repeats(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        for name in ("z", "a", "m"):
            done(await s.put(name, name.encode()))
        assert await store.delete_checkpoints(OWNER, "s", checkpoint_id="m") == 1
        assert await store.delete_checkpoints(OWNER, "s", checkpoint_id="m") == 0
        await s.put("b")
        assert [(item.checkpoint_id, item.sequence) for item in await s.checkpoints()] == [("b", 4), ("a", 2), ("z", 1)]
        assert [item.checkpoint_id for item in await store.checkpoints(OWNER, "s", last=2)] == ["b", "a"]
        assert [item.data for item in await store.checkpoints(OWNER, "s", checkpoint_id="a")] == [b"a"]
        assert not await store.checkpoints(OWNER, "s", checkpoint_id="m")
        assert await store.delete_checkpoints(OWNER, "s") == 3
        assert done(await s.put("d")).sequence == 5

    async def test_the_same_checkpoint_again_is_harmless_and_another_is_refused(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        first = await s.put("c", b"x")
        await s.append([HELLO])
        assert await s.put("c", b"x") == first
        assert await s.put("c", b"y") is Refusal.EXISTS
        assert await s.checkpoints() == [first]

    async def test_a_checkpoint_may_be_large(self, store: SessionStore) -> None:
        s = self.calls(store)
        await s.create()
        data = EVERY_BYTE * 32_768  # 8 MiB
        await s.put("c", data)
        [found] = await store.checkpoints(OWNER, "s", last=1)
        assert found.data == data

    async def test_a_fork_goes_on_from_the_checkpoint_and_leaves_the_session_alone(self, store: SessionStore) -> None:
        s, fork = self.calls(store), self.calls(store, session_id="fork")
        await s.furnish()
        before = await picture_of(store)
        made = done(await s.fork("c1", "fork"))
        assert (made.fields, made.version, made.message_count, made.holder) == (FIELDS, 1, 1, None)
        await fork.append(TURN, expected=1)
        forked = Pictured("fork", messages=(HELLO, *TURN), checkpoints=(("c1", b"1", 1, 1),))
        assert await picture_of(store) == {**before, "fork": forked}
        assert await s.fork("c1", "fork") is Refusal.EXISTS
        assert done(await fork.put("c2")).sequence == 2
        assert await s.delete()
        assert [item.checkpoint_id for item in await fork.checkpoints()] == ["c2", "c1"]

    # Owners

    async def test_owners_that_look_alike_share_nothing(self, store: SessionStore) -> None:
        for place, owner in enumerate(OWNERS):
            s = self.calls(store, owner)
            assert await s.read() is None, owner
            lease = await s.furnish()
            await s.write(SessionFields(agent_id="a", data=b"%d" % place))
            assert await s.record(3, b"%d" % place, lease=lease) == 3
        for place, owner in enumerate(OWNERS):
            s = self.calls(store, owner)
            assert await store.count(owner) == 2
            assert some(await s.read()).fields.data == b"%d" % place
            assert (await s.entries())[2:] == [b"%d" % place]
        for owner in OWNERS[::2]:
            assert await store.delete_all(owner) == 2
        assert [await store.count(owner) for owner in OWNERS] == [0, 2] * (len(OWNERS) // 2)

    @_each_on_the_same_store
    @given(
        owners=st.tuples(any_owners, any_owners).filter(lambda pair: pair[0] != pair[1]),
        name=st.sampled_from(list(OPERATIONS)),
    )
    async def test_nothing_done_by_one_owner_is_seen_by_another(
        self, store: SessionStore, owners: tuple[Owner, Owner], name: str
    ) -> None:
        mine, theirs = (self.calls(store, owner) for owner in owners)
        for owner in owners:
            await store.delete_all(owner)
        lease = await mine.furnish()
        before = await picture_of(store, mine.owner)
        await OPERATIONS[name](theirs, lease)
        assert await picture_of(store, mine.owner) == before
        own = await theirs.furnish()
        for token in (lease, own):
            await OPERATIONS[name](theirs, token)
            assert await picture_of(store, mine.owner) == before
