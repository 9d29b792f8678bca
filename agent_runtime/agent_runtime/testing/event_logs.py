"""What every event log promises."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.errors import LimitExceeded
from agent_runtime.event_log import EventLog, LogBounds, LogPage
from agent_runtime.ids import new_id
from agent_runtime.session_store import Refusal
from agent_runtime.testing.session_samples import EVERY_BYTE, OWNER, OWNERS, any_owners, done, some, together
from agent_runtime.testing.store_faults import settled, whole_or_not_at_all
from agent_runtime.types import Owner

Operation: TypeAlias = Callable[[EventLog, Owner, float], Coroutine[Any, Any, object]]

_OPERATIONS: dict[str, Operation] = {
    "append": lambda log, owner, ttl: log.append(owner, "s", [b"c", b"d"], expected=2, ttl=ttl, operation="o2"),
    "overflow": lambda log, owner, ttl: log.append(owner, "s", [b"c"] * 25, expected=2, ttl=ttl, operation="o2"),
    "close": lambda log, owner, ttl: log.append(owner, "s", [], expected=2, ttl=ttl, operation="o2", close=True),
    "begin": lambda log, owner, ttl: log.append(owner, "new", [b"a"], expected=0, ttl=ttl, operation="o2"),
    "delete": lambda log, owner, ttl: log.delete(owner, "s"),
    "delete_all": lambda log, owner, ttl: log.delete_all(owner),
}


class EventLogContract:
    """Subclass it with a name that starts with `Test`, implement `store` and `advance`; pytest runs the promises below.

    Logs live `ttl` seconds here: one with a clock that cannot be set takes a short time, and `advance` sleeps. Needs
    anyio's pytest plugin with `anyio_mode = "auto"`.
    """

    ttl: float = 10.0
    bounds = LogBounds(max_events=20, max_bytes=10_000)

    @pytest.fixture
    @abstractmethod
    def store(self) -> EventLog:
        """A store without a log, which keeps of each what `bounds` says; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the store's clock."""

    async def reopen(self, store: EventLog) -> EventLog:
        """Close the store and return another on the same data, as after a restart; one that keeps nothing returns itself."""
        return store

    async def test_events_come_back_in_order_with_their_numbers(self, store: EventLog) -> None:
        assert await self._append(store, [b"", EVERY_BYTE], 0) == 2
        assert await self._append(store, [b"c"], 2) == 3
        page = some(await store.read(OWNER, "s"))
        assert [(event.sequence, event.data) for event in page.events] == [(1, b""), (2, EVERY_BYTE), (3, b"c")]
        assert (page.missed, page.first, page.last, page.closed) == (0, 1, 3, False)

    async def test_a_reader_goes_on_where_it_was(self, store: EventLog) -> None:
        await self._append(store, [b"%d" % n for n in range(1, 11)], 0)
        for after in range(13):
            for limit in (0, 1, 3, 100):
                page = some(await store.read(OWNER, "s", after=after, limit=limit))
                assert self._numbers(page) == list(range(after + 1, 11))[:limit]
                assert [event.data for event in page.events] == [b"%d" % n for n in self._numbers(page)]
                assert (page.missed, page.first, page.last) == (0, 1, 10)

    async def test_what_is_not_there_is_told_apart_from_what_is_empty(self, store: EventLog) -> None:
        assert await store.read(OWNER, "s") is None
        assert await store.delete(OWNER, "s") is False
        assert await store.delete_all(OWNER) == 0
        assert await self._append(store, [b"a"], 1) is Refusal.MISSING
        assert await store.read(OWNER, "s") is None
        assert await self._append(store, [], 0) == 0
        assert await store.read(OWNER, "s") == LogPage(events=(), missed=0, first=1, last=0, closed=False)

    async def test_a_writer_that_was_overtaken_is_refused(self, store: EventLog) -> None:
        await self._append(store, [b"a", b"b"], 0)
        for expected in (0, 1, 3):
            assert await self._append(store, [b"x"], expected) is Refusal.CHANGED
        assert some(await store.read(OWNER, "s")).last == 2

    async def test_nothing_comes_after_the_end(self, store: EventLog) -> None:
        assert await self._append(store, [b"a"], 0) == 1
        assert await self._append(store, [b"b"], 1, close=True) == 2
        assert await self._append(store, [b"c"], 2) is Refusal.CLOSED
        assert await self._append(store, [], 2, close=True) is Refusal.CLOSED
        page = some(await store.read(OWNER, "s", after=1))
        assert (self._numbers(page), page.last, page.closed) == ([2], 2, True)

    async def test_a_log_may_end_without_an_event(self, store: EventLog) -> None:
        assert await self._append(store, [b"a"], 0) == 1
        assert await self._append(store, [], 1, close=True) == 1
        assert some(await store.read(OWNER, "s")).closed
        assert await self._append(store, [], 0, stream="t", close=True) == 0
        assert some(await store.read(OWNER, "t")).closed

    async def test_nothing_of_a_deleted_log_comes_back(self, store: EventLog) -> None:
        await self._append(store, [b"a", b"b"], 0, operation="o", close=True)
        assert await store.delete(OWNER, "s") is True
        assert await store.delete(OWNER, "s") is False
        assert await store.read(OWNER, "s") is None
        assert await self._append(store, [b"x"], 0, operation="o") == 1
        page = some(await store.read(OWNER, "s"))
        assert ([event.data for event in page.events], page.closed) == ([b"x"], False)

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(appends=st.lists(st.lists(st.binary(max_size=100), max_size=3), max_size=6))
    async def test_any_events_come_back(self, store: EventLog, appends: list[list[bytes]]) -> None:
        stream, last = new_id(), 0
        for events in [[b"first"], *appends]:
            last = done(await self._append(store, events, last, stream=stream))
        page = some(await store.read(OWNER, stream))
        everything = [b"first", *(data for events in appends for data in events)]
        assert [event.data for event in page.events] == everything
        assert self._numbers(page) == list(range(1, len(everything) + 1))

    # Bounds

    async def test_the_oldest_are_dropped_and_who_was_behind_is_told(self, store: EventLog) -> None:
        for last in range(25):
            await self._append(store, [b"%d" % (last + 1)], last)
        behind = some(await store.read(OWNER, "s", after=2))
        assert (behind.missed, behind.first, behind.last) == (3, 6, 25)
        assert [(event.sequence, event.data) for event in behind.events] == [(n, b"%d" % n) for n in range(6, 26)]
        assert [some(await store.read(OWNER, "s", after=after)).missed for after in (0, 4, 5, 24, 25, 99)] == [
            5,
            1,
            0,
            0,
            0,
            0,
        ]
        assert self._numbers(some(await store.read(OWNER, "s", after=7, limit=2))) == [8, 9]

    async def test_more_at_once_than_is_kept_leaves_the_newest(self, store: EventLog) -> None:
        assert await self._append(store, [b"old"], 0) == 1
        assert await self._append(store, [b"%d" % n for n in range(2, 52)], 1) == 51
        page = some(await store.read(OWNER, "s", after=1))
        assert (page.missed, page.first, page.last, self._numbers(page)) == (30, 32, 51, list(range(32, 52)))
        assert page.events[0].data == b"32"
        assert await self._append(store, [b"52"], 51) == 52

    async def test_a_log_is_bounded_in_bytes_too(self, store: EventLog) -> None:
        sizes = [4_000, 4_000, 2_000, 1, 0, 10_000, 0]
        kept = [[1], [1, 2], [1, 2, 3], [2, 3, 4], [2, 3, 4, 5], [5, 6], [5, 6, 7]]
        for last, size in enumerate(sizes):
            await self._append(store, [bytes(size)], last)
            assert self._numbers(some(await store.read(OWNER, "s"))) == kept[last]

    async def test_an_event_larger_than_the_log_is_refused_and_changes_nothing(self, store: EventLog) -> None:
        await self._append(store, [b"a"], 0)
        with pytest.raises(LimitExceeded, match="raise its max_bytes"):
            await self._append(store, [b"b", bytes(10_001)], 1)
        assert some(await store.read(OWNER, "s")).last == 1

    # Owners

    async def test_owners_that_look_alike_share_nothing(self, store: EventLog) -> None:
        for place, owner in enumerate(OWNERS):
            assert await store.read(owner, "s") is None, owner
            await store.append(owner, "s", [b"%d" % place], expected=0, ttl=self.ttl, operation="o")
        for place, owner in enumerate(OWNERS):
            assert [event.data for event in some(await store.read(owner, "s")).events] == [b"%d" % place]
        for owner in OWNERS[::2]:
            assert await store.delete_all(owner) == 1
        assert [await store.read(owner, "s") is None for owner in OWNERS] == [True, False] * (len(OWNERS) // 2)

    async def test_streams_that_look_alike_share_nothing(self, store: EventLog) -> None:
        streams = ("s", "S", "s-", "_s", "s" * 128, "0", "00", "-1")
        for place, stream in enumerate(streams):
            assert await self._append(store, [b"x"] * place, 0, stream=stream, operation="o") == place
        assert [some(await store.read(OWNER, stream)).last for stream in streams] == list(range(len(streams)))

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        owners=st.tuples(any_owners, any_owners).filter(lambda pair: pair[0] != pair[1]),
        name=st.sampled_from(list(_OPERATIONS)),
    )
    async def test_nothing_done_by_one_owner_is_seen_by_another(
        self, store: EventLog, owners: tuple[Owner, Owner], name: str
    ) -> None:
        mine, theirs = owners
        for owner in owners:
            await store.delete_all(owner)
            await store.append(owner, "s", [b"a", b"b"], expected=0, ttl=self.ttl, operation="o1")
        before = await store.read(mine, "s")
        await _OPERATIONS[name](store, theirs, self.ttl)
        assert await store.read(mine, "s") == before
        assert await store.read(mine, "new") is None

    # Time

    async def test_a_log_goes_as_a_whole_when_its_time_is_up(self, store: EventLog) -> None:
        await self._append(store, [b"a"], 0)
        await self.advance(self.ttl * 0.7)
        await self._append(store, [b"b"], 1)
        await self.advance(self.ttl * 0.7)
        assert self._numbers(some(await store.read(OWNER, "s"))) == [1, 2]
        store = await self.reopen(store)
        await self.advance(self.ttl * 0.4)
        assert await store.read(OWNER, "s") is None
        assert await self._append(store, [b"c"], 2) is Refusal.MISSING
        assert await store.delete(OWNER, "s") is False
        assert await store.delete_all(OWNER) == 0
        assert await self._append(store, [b"x"], 0) == 1
        assert self._numbers(some(await store.read(OWNER, "s"))) == [1]

    async def test_what_reads_and_what_is_refused_or_repeated_does_not_prolong(self, store: EventLog) -> None:
        await self._append(store, [b"a"], 0, operation="o")
        await self.advance(self.ttl * 0.7)
        await store.read(OWNER, "s")
        await self._append(store, [b"b"], 9)
        await self._append(store, [b"a"], 0, operation="o")
        await self.advance(self.ttl * 0.4)
        assert await store.read(OWNER, "s") is None

    async def test_a_shorter_life_given_by_a_later_append_holds(self, store: EventLog) -> None:
        await store.append(OWNER, "s", [b"a"], expected=0, ttl=self.ttl * 100, operation="o1")
        await self._append(store, [b"b"], 1)
        await self.advance(self.ttl * 1.1)
        assert await store.read(OWNER, "s") is None

    # Many at once, calls that are repeated, cancellation

    async def test_of_many_that_append_at_once_one_does(self, store: EventLog) -> None:
        await self._append(store, [b"a"], 0)
        outcomes = await together(50, lambda n: self._append(store, [b"%d" % n], 1))
        assert outcomes.count(Refusal.CHANGED) == 49
        assert some(await store.read(OWNER, "s")).last == 2
        outcomes = await together(50, lambda n: self._append(store, [b"%d" % n], 0, stream="new"))
        assert outcomes.count(Refusal.CHANGED) == 49

    async def test_writers_that_try_again_lose_nothing(self, store: EventLog) -> None:
        async def write(n: int) -> None:
            while True:
                page = await store.read(OWNER, "s", limit=0)
                last = 0 if page is None else page.last
                if not isinstance(await self._append(store, [b"%d" % n], last), Refusal):
                    return

        await together(20, write)
        events = some(await store.read(OWNER, "s")).events
        assert sorted(int(event.data) for event in events) == list(range(20))
        assert [event.sequence for event in events] == list(range(1, 21))

    async def test_a_repeated_append_changes_nothing_and_answers_like_the_first(self, store: EventLog) -> None:
        for expected, close in ((0, False), (2, False), (4, True)):
            first = await self._append(store, [b"a", b"b"], expected, operation=f"o{expected}", close=close)
            before = await store.read(OWNER, "s")
            store = await self.reopen(store)
            assert await self._append(store, [b"a", b"b"], expected, operation=f"o{expected}", close=close) == first
            assert await store.read(OWNER, "s") == before

    async def test_an_earlier_append_that_is_repeated_is_refused(self, store: EventLog) -> None:
        await self._append(store, [b"a"], 0, operation="o1")
        await self._append(store, [b"b"], 1, operation="o2")
        assert await self._append(store, [b"a"], 0, operation="o1") is Refusal.CHANGED
        assert some(await store.read(OWNER, "s")).last == 2

    @pytest.mark.parametrize("name", _OPERATIONS)
    async def test_a_cancelled_call_is_done_as_a_whole_or_not_at_all(self, store: EventLog, name: str) -> None:
        async def furnish(owner: Owner) -> None:
            await store.append(owner, "s", [b"a", b"b"], expected=0, ttl=self.ttl, operation="o1")

        async def look(owner: Owner) -> list[LogPage | None]:
            await settled(store)
            return [await store.read(owner, "s"), await store.read(owner, "new")]

        await whole_or_not_at_all(furnish, lambda owner: _OPERATIONS[name](store, owner, self.ttl), look, again=True)

    async def _append(
        self,
        store: EventLog,
        events: Sequence[bytes],
        expected: int,
        *,
        stream: str = "s",
        operation: str | None = None,
        close: bool = False,
    ) -> int | Refusal:
        operation = operation or new_id()
        return await store.append(
            OWNER, stream, events, expected=expected, ttl=self.ttl, operation=operation, close=close
        )

    def _numbers(self, page: LogPage) -> list[int]:
        return [event.sequence for event in page.events]
