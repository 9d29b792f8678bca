"""Entries come out of the queue when their time is up, whatever was done to them before."""

import math

from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.expiry import ExpiryQueue


class Entry:
    def __init__(self) -> None:
        self.expires_at = self.due = math.inf


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["set", "set", "remove", "pop"]), st.integers(0, 9)), max_size=60
    )
)
def test_the_queue_is_like_a_dictionary_of_times(steps: list[tuple[int, str, int]]) -> None:
    queue: ExpiryQueue[Entry] = ExpiryQueue()
    entries = [Entry() for _ in range(5)]
    times: dict[Entry, float] = {}
    now = 0
    for place, what, number in steps:
        entry = entries[place]
        if what == "set":
            queue.set(entry, now + number)
            times[entry] = now + number
        elif what == "remove" and entry in times:
            queue.remove(entry)
            del times[entry]
        elif what == "pop":
            now += number
            while (popped := queue.pop(now)) is not None:
                assert times.pop(popped) <= now
            assert all(time > now for time in times.values())


def test_what_is_set_to_earlier_times_again_and_again_takes_no_room() -> None:
    queue: ExpiryQueue[Entry] = ExpiryQueue()
    entry = Entry()
    for time in range(10_000, 0, -1):
        queue.set(entry, time)
    assert len(vars(queue)["_heap"]) < 100
    assert queue.pop(1) is entry
    assert queue.pop(math.inf) is None


def test_what_is_removed_long_before_its_time_takes_no_room() -> None:
    queue: ExpiryQueue[Entry] = ExpiryQueue()
    for _ in range(10_000):
        entry = Entry()
        queue.set(entry, 100)
        queue.remove(entry)
    assert len(vars(queue)["_heap"]) < 100


def test_the_oldest_that_is_removed_takes_no_room_at_all() -> None:
    queue: ExpiryQueue[Entry] = ExpiryQueue()
    entries = [Entry() for _ in range(50)]
    for time, entry in enumerate(entries):
        queue.set(entry, 100 + time)
    for entry in entries:
        queue.remove(entry)
    assert not vars(queue)["_heap"]


def test_what_is_due_all_at_once_comes_in_parts() -> None:
    queue: ExpiryQueue[Entry] = ExpiryQueue()
    entries = {Entry() for _ in range(250)}
    for entry in entries:
        queue.set(entry, 1)
    parts = [queue.due(1) for _ in range(4)]
    assert [len(part) for part in parts] == [100, 100, 50, 0]
    assert {entry for part in parts for entry in part} == entries
    assert queue.due(0) == ()
