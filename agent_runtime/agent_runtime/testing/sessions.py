"""What every session store promises."""

from abc import abstractmethod
from collections.abc import Awaitable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.errors import LimitExceeded
from agent_runtime.ids import new_id
from agent_runtime.session_store import MessageBatch, Refusal, SessionFields, SessionQuota, SessionStore
from agent_runtime.sessions import SessionManager
from agent_runtime.testing.session_samples import (
    FIELDS,
    HELLO,
    OPERATIONS,
    OTHER_FIELDS,
    OWNER,
    OWNERS,
    TURN,
    WRITES,
    Operation,
    Picture,
    any_messages,
    any_owners,
    cut,
    done,
    picture_of,
    some,
    together,
)
from agent_runtime.types import Message, Owner

_each_on_the_same_store = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class SessionStoreContract:
    """Subclass it with a name that starts with `Test`, implement `store` and `advance`; pytest runs the promises below.

    Sessions live `ttl` seconds here: a store with a clock that cannot be set takes a short one, and `advance` sleeps.
    Needs anyio's pytest plugin with `anyio_mode = "auto"`.
    """

    ttl: float = 10.0

    @pytest.fixture
    @abstractmethod
    def store(self) -> SessionStore:
        """An empty store; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the store's clock."""

    # Sessions

    async def test_a_session_comes_back_as_it_was_made(self, store: SessionStore) -> None:
        made = done(await store.create(OWNER, "s", FIELDS, self._quota()))
        assert (made.session_id, made.fields, made.version, made.message_count) == ("s", FIELDS, 1, 0)
        assert made.created_at == made.updated_at
        assert made.expires_at == pytest.approx(made.created_at + self.ttl, abs=0.01)
        assert await store.read(OWNER, "s") == made

    async def test_what_is_not_there_is_told_apart_from_what_is_empty(self, store: SessionStore) -> None:
        assert await store.read(OWNER, "s") is None
        assert await store.messages(OWNER, "s") is None
        assert not await store.checkpoints(OWNER, "s")
        assert not await store.sessions(OWNER)
        assert await store.count(OWNER) == 0
        assert await store.delete(OWNER, "s") is False
        assert await store.delete_all(OWNER) == 0
        assert await store.delete_checkpoints(OWNER, "s") == 0
        for name, operation in WRITES.items():
            assert await operation(store, OWNER, self.ttl) is Refusal.MISSING, name
        assert await store.fork(OWNER, "s", "c1", "new", self._quota()) is Refusal.MISSING
        await store.create(OWNER, "s", FIELDS, self._quota())
        assert await store.fork(OWNER, "s", "c1", "new", self._quota()) is Refusal.MISSING
        assert list(some(await store.messages(OWNER, "s"))) == []

    async def test_an_id_is_taken_once(self, store: SessionStore) -> None:
        made = await store.create(OWNER, "s", FIELDS, self._quota())
        assert await store.create(OWNER, "s", OTHER_FIELDS, self._quota()) is Refusal.EXISTS
        assert await store.read(OWNER, "s") == made

    async def test_a_write_at_another_version_changes_nothing(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        written = done(await store.write(OWNER, "s", OTHER_FIELDS, expected=1, ttl=self.ttl))
        assert (written.version, written.fields) == (2, OTHER_FIELDS)
        for version in (1, 3):
            assert await store.write(OWNER, "s", FIELDS, expected=version, ttl=self.ttl) is Refusal.CHANGED
        assert await store.read(OWNER, "s") == written

    async def test_a_closed_session_is_read_and_written_but_does_not_grow(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        closed = SessionFields(agent_id="support", data=b"", closed=True)
        await store.write(OWNER, "s", closed, expected=1, ttl=self.ttl)
        before = await picture_of(store, OWNER)
        assert await WRITES["append"](store, OWNER, self.ttl) is Refusal.CLOSED
        assert await WRITES["put_checkpoint"](store, OWNER, self.ttl) is Refusal.CLOSED
        assert await picture_of(store, OWNER) == before
        assert done(await store.fork(OWNER, "s", "c1", "new", self._quota())).fields.closed is False
        assert not isinstance(await store.write(OWNER, "s", closed, expected=2, ttl=self.ttl), Refusal)

    async def test_delete_all_takes_everything_or_what_one_agent_has(self, store: SessionStore) -> None:
        for name, fields in (("a", FIELDS), ("b", FIELDS), ("c", OTHER_FIELDS)):
            await store.create(OWNER, name, fields, self._quota())
        await store.write(OWNER, "b", OTHER_FIELDS, expected=1, ttl=self.ttl)
        assert await store.delete_all(OWNER, agent_id="support") == 1
        assert {stored.session_id for stored in await store.sessions(OWNER)} == {"b", "c"}
        assert await store.delete_all(OWNER) == 2
        assert await store.count(OWNER) == 0

    async def test_nothing_of_a_deleted_session_comes_back_under_its_id(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        assert await store.delete(OWNER, "s") is True
        assert await store.count(OWNER) == 0
        await store.create(OWNER, "s", FIELDS, self._quota())
        assert await picture_of(store, OWNER) == [("s", FIELDS, 1, [], [])]
        assert done(await store.put_checkpoint(OWNER, "s", "c9", b"", ttl=self.ttl)).sequence == 1

    # Messages

    async def test_messages_are_added_in_order_and_counted(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        assert await store.append(OWNER, "s", MessageBatch.of([HELLO]), expected=0, ttl=self.ttl) == 1
        assert await store.append(OWNER, "s", MessageBatch.of(TURN), expected=None, ttl=self.ttl) == 3
        assert await store.append(OWNER, "s", MessageBatch.of([HELLO]), expected=1, ttl=self.ttl) is Refusal.CHANGED
        assert tuple(some(await store.messages(OWNER, "s"))) == (HELLO, *TURN)
        session = some(await store.read(OWNER, "s"))
        assert (session.message_count, session.version) == (3, 1)

    async def test_the_last_messages_are_as_many_as_asked_for(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        for _ in range(3):
            await store.append(OWNER, "s", MessageBatch.of((HELLO, *TURN)), expected=None, ttl=self.ttl)
        everything = (HELLO, *TURN) * 3
        for last in range(12):
            found = tuple(some(await store.messages(OWNER, "s", last=last)))
            assert found == everything[max(0, 9 - last) :], last

    @_each_on_the_same_store
    @given(appends=st.lists(st.lists(any_messages, min_size=1, max_size=3), max_size=3))
    async def test_any_messages_come_back_as_they_were(self, store: SessionStore, appends: list[list[Message]]) -> None:
        sessions = SessionManager(store, ttl=self.ttl)
        session = await sessions.create(owner=OWNER, agent_id="a")
        for messages in appends:
            await sessions.append_messages(session.session_id, messages, owner=OWNER)
        found = await sessions.messages(session.session_id, owner=OWNER)
        assert found == tuple(message for messages in appends for message in messages)

    # Checkpoints

    async def test_checkpoints_are_ordered_by_a_sequence_that_never_repeats(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        for name in ("z", "a", "m"):
            done(await store.put_checkpoint(OWNER, "s", name, name.encode(), ttl=self.ttl))
        assert await store.delete_checkpoints(OWNER, "s", checkpoint_id="m") == 1
        assert await store.delete_checkpoints(OWNER, "s", checkpoint_id="m") == 0
        await store.put_checkpoint(OWNER, "s", "b", b"", ttl=self.ttl)
        found = await store.checkpoints(OWNER, "s")
        assert [(item.checkpoint_id, item.sequence) for item in found] == [("b", 4), ("a", 2), ("z", 1)]
        assert [item.checkpoint_id for item in await store.checkpoints(OWNER, "s", last=2)] == ["b", "a"]
        assert [item.data for item in await store.checkpoints(OWNER, "s", checkpoint_id="a")] == [b"a"]
        assert not await store.checkpoints(OWNER, "s", checkpoint_id="m")
        assert await store.delete_checkpoints(OWNER, "s") == 3

    async def test_the_same_checkpoint_again_is_harmless_and_another_is_refused(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        first = await store.put_checkpoint(OWNER, "s", "c", b"x", ttl=self.ttl)
        await store.append(OWNER, "s", MessageBatch.of([HELLO]), expected=None, ttl=self.ttl)
        assert await store.put_checkpoint(OWNER, "s", "c", b"x", ttl=self.ttl) == first
        assert await store.put_checkpoint(OWNER, "s", "c", b"y", ttl=self.ttl) is Refusal.EXISTS
        assert list(await store.checkpoints(OWNER, "s")) == [first]

    async def test_a_checkpoint_may_be_large(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        data = bytes(range(256)) * 32_768  # 8 MiB
        await store.put_checkpoint(OWNER, "s", "c", data, ttl=self.ttl)
        [found] = await store.checkpoints(OWNER, "s", last=1)
        assert found.data == data

    async def test_a_fork_goes_on_from_the_checkpoint_and_leaves_the_session_alone(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        before = await picture_of(store, OWNER)
        made = done(await store.fork(OWNER, "s", "c1", "fork", self._quota()))
        assert (made.fields, made.version, made.message_count) == (FIELDS, 1, 1)
        await store.append(OWNER, "fork", MessageBatch.of(TURN), expected=1, ttl=self.ttl)
        fork, session = await picture_of(store, OWNER)
        assert fork == ("fork", FIELDS, 1, [HELLO, *TURN], [("c1", b"1", 1, 1)])
        assert [session] == before
        assert await store.fork(OWNER, "s", "c1", "fork", self._quota()) is Refusal.EXISTS
        assert await store.delete(OWNER, "s")
        assert await picture_of(store, OWNER) == [fork]

    # Owners

    async def test_owners_that_look_alike_share_nothing(self, store: SessionStore) -> None:
        for place, owner in enumerate(OWNERS):
            assert await store.read(owner, "s") is None, owner
            await self._furnish(store, owner)
            await store.write(owner, "s", SessionFields(agent_id="a", data=b"%d" % place), expected=1, ttl=self.ttl)
        for place, owner in enumerate(OWNERS):
            assert await store.count(owner) == 1
            assert some(await store.read(owner, "s")).fields.data == b"%d" % place
        for owner in OWNERS[::2]:
            assert await store.delete_all(owner) == 1
        assert [await store.count(owner) for owner in OWNERS] == [0, 1] * (len(OWNERS) // 2)

    @_each_on_the_same_store
    @given(
        owners=st.tuples(any_owners, any_owners).filter(lambda pair: pair[0] != pair[1]),
        name=st.sampled_from(list(OPERATIONS)),
    )
    async def test_nothing_done_by_one_owner_is_seen_by_another(
        self, store: SessionStore, owners: tuple[Owner, Owner], name: str
    ) -> None:
        mine, theirs = owners
        await store.delete_all(mine)
        await store.delete_all(theirs)
        await self._furnish(store, mine)
        before = await picture_of(store, mine)
        await OPERATIONS[name](store, theirs, self.ttl)
        assert await picture_of(store, mine) == before
        await self._furnish(store, theirs)
        await OPERATIONS[name](store, theirs, self.ttl)
        assert await picture_of(store, mine) == before

    # Time

    async def test_a_session_and_all_that_belongs_to_it_goes_when_its_time_is_up(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        await self.advance(self.ttl * 1.1)
        assert await picture_of(store, OWNER) == []
        await self.test_what_is_not_there_is_told_apart_from_what_is_empty(store)
        await store.delete(OWNER, "s")
        await self.test_nothing_of_a_deleted_session_comes_back_under_its_id(store)

    @pytest.mark.parametrize("name", WRITES)
    async def test_a_write_prolongs_and_never_makes_permanent(self, store: SessionStore, name: str) -> None:
        await self._furnish(store, OWNER)
        await self.advance(self.ttl * 0.7)
        assert not isinstance(await WRITES[name](store, OWNER, self.ttl), Refusal)
        session = some(await store.read(OWNER, "s"))
        assert session.expires_at == pytest.approx(session.updated_at + self.ttl, abs=0.01)
        await self.advance(self.ttl * 0.7)
        assert await store.read(OWNER, "s") == session
        await self.advance(self.ttl * 0.4)
        assert await picture_of(store, OWNER) == []

    async def test_what_reads_and_what_is_refused_does_not_prolong(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        before = await store.read(OWNER, "s")
        await self.advance(self.ttl * 0.5)
        await picture_of(store, OWNER)
        await store.write(OWNER, "s", FIELDS, expected=9, ttl=self.ttl)
        await store.append(OWNER, "s", MessageBatch.of(TURN), expected=9, ttl=self.ttl)
        await store.put_checkpoint(OWNER, "s", "c1", b"other", ttl=self.ttl)
        await store.put_checkpoint(OWNER, "s", "c1", b"1", ttl=self.ttl)
        assert await store.read(OWNER, "s") == before

    async def test_a_shorter_life_given_by_a_later_write_holds(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER, SessionQuota(ttl=self.ttl * 100))
        assert not isinstance(await WRITES["write"](store, OWNER, self.ttl), Refusal)
        await self.advance(self.ttl * 1.1)
        assert await picture_of(store, OWNER) == []

    async def test_an_expired_session_is_told_of_once(self, store: SessionStore) -> None:
        for name in ("a", "b"):
            await store.create(OWNER, name, FIELDS, self._quota())
        await store.create(OWNER, "c", FIELDS, SessionQuota(ttl=self.ttl * 100))
        assert not await store.expire()
        await self.advance(self.ttl * 1.1)
        told = [item for items in await together(10, lambda n: store.expire()) for item in items]
        assert sorted((item.owner, item.session_id, item.agent_id) for item in told) == [
            (OWNER, "a", "support"),
            (OWNER, "b", "support"),
        ]
        assert await store.count(OWNER) == 1

    async def test_an_expired_session_takes_no_room(self, store: SessionStore) -> None:
        quota = SessionQuota(ttl=self.ttl, max_sessions=1)
        await store.create(OWNER, "a", FIELDS, quota)
        assert await store.create(OWNER, "b", FIELDS, quota) is Refusal.FULL
        await self.advance(self.ttl * 1.1)
        assert not isinstance(await store.create(OWNER, "b", FIELDS, quota), Refusal)

    # Many at once

    async def test_of_many_that_write_the_same_version_one_does(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        outcomes = await together(50, lambda n: store.write(OWNER, "s", OTHER_FIELDS, expected=1, ttl=self.ttl))
        assert outcomes.count(Refusal.CHANGED) == 49
        assert some(await store.read(OWNER, "s")).version == 2

    async def test_of_many_that_append_at_the_same_count_one_does(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        batch = MessageBatch.of(TURN)
        outcomes = await together(50, lambda n: store.append(OWNER, "s", batch, expected=0, ttl=self.ttl))
        assert outcomes.count(Refusal.CHANGED) == 49
        assert len(some(await store.messages(OWNER, "s"))) == 2

    async def test_batches_of_many_are_not_mixed_nor_lost(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())

        def append(n: int) -> Awaitable[int | Refusal]:
            turn = [Message(role="user", content=f"{n}"), Message(role="assistant", content=f"{n}")]
            return store.append(OWNER, "s", MessageBatch.of(turn), expected=None, ttl=self.ttl)

        counts = await together(50, append)
        assert sorted(done(counted) for counted in counts) == list(range(2, 102, 2))
        said = [message.content for message in some(await store.messages(OWNER, "s"))]
        assert said[::2] == said[1::2]
        assert sorted(said[::2], key=int) == [str(n) for n in range(50)]

    async def test_checkpoints_of_many_have_a_number_each(self, store: SessionStore) -> None:
        await store.create(OWNER, "s", FIELDS, self._quota())
        await together(50, lambda n: store.put_checkpoint(OWNER, "s", f"c{n}", b"", ttl=self.ttl))
        found = await store.checkpoints(OWNER, "s")
        assert [item.sequence for item in found] == list(range(50, 0, -1))

    async def test_fifty_increments_at_once_give_fifty(self, store: SessionStore) -> None:
        sessions = SessionManager(store, ttl=self.ttl)
        await sessions.create(owner=OWNER, agent_id="a", session_id="s", metadata={"n": 0})
        await together(50, lambda n: sessions.update_metadata("s", lambda old: {"n": old["n"] + 1}, owner=OWNER))
        session = some(await sessions.get("s", owner=OWNER))
        assert (session.metadata, session.version) == ({"n": 50}, 51)

    async def test_a_limit_holds_when_many_create_at_once(self, store: SessionStore) -> None:
        quota = SessionQuota(ttl=self.ttl, max_sessions=8, max_sessions_per_user=5)
        outcomes = await together(20, lambda n: store.create(OWNER, f"s{n}", FIELDS, quota))
        assert outcomes.count(Refusal.OWNER_FULL) == 15
        assert await store.count(OWNER) == 5
        outcomes = await together(20, lambda n: store.create(OWNERS[1], f"s{n}", FIELDS, quota))
        assert outcomes.count(Refusal.FULL) == 17
        assert await store.fork(OWNER, "s0", "c", "new", quota) is Refusal.MISSING
        with pytest.raises(LimitExceeded):
            await SessionManager(store, ttl=self.ttl, max_sessions=8).create(owner=OWNERS[2], agent_id="a")

    async def test_a_limit_holds_for_a_fork(self, store: SessionStore) -> None:
        await self._furnish(store, OWNER)
        for quota, refusal in (
            (SessionQuota(ttl=self.ttl, max_sessions=1), Refusal.FULL),
            (SessionQuota(ttl=self.ttl, max_sessions_per_user=1), Refusal.OWNER_FULL),
        ):
            assert await store.fork(OWNER, "s", "c1", "new", quota) is refusal

    async def test_of_many_that_create_the_same_id_one_does(self, store: SessionStore) -> None:
        outcomes = await together(20, lambda n: store.create(OWNER, "s", FIELDS, self._quota()))
        assert outcomes.count(Refusal.EXISTS) == 19

    # Cancellation

    @pytest.mark.parametrize("name", OPERATIONS)
    async def test_a_cancelled_call_is_done_as_a_whole_or_not_at_all(self, store: SessionStore, name: str) -> None:
        operation = OPERATIONS[name]
        before, after = await self._before_and_after(store, operation)
        turns = 0
        while True:
            owner = Owner(tenant_id=None, user_id=new_id())
            await self._furnish(store, owner)
            finished = await cut(partial(operation, store, owner, self.ttl), turns)
            assert await picture_of(store, owner) in ([after] if finished else [before, after]), turns
            if finished:
                return
            turns += 1 + turns // 20

    async def _before_and_after(self, store: SessionStore, operation: Operation) -> tuple[Picture, Picture]:
        await self._furnish(store, OWNER)
        before = await picture_of(store, OWNER)
        await operation(store, OWNER, self.ttl)
        after = await picture_of(store, OWNER)
        assert after != before
        return before, after

    def _quota(self) -> SessionQuota:
        return SessionQuota(ttl=self.ttl)

    async def _furnish(self, store: SessionStore, owner: Owner, quota: SessionQuota | None = None) -> None:
        """Make a session with three messages, and a checkpoint after the first and after the third."""
        quota = quota or self._quota()
        await store.create(owner, "s", FIELDS, quota)
        for place, messages in enumerate(([HELLO], TURN), 1):
            await store.append(owner, "s", MessageBatch.of(messages), expected=None, ttl=quota.ttl)
            await store.put_checkpoint(owner, "s", f"c{place}", b"%d" % place, ttl=quota.ttl)
