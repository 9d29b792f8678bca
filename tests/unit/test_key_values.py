"""What is the memory store's own among the promises of key-value stores, and what a value shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import ConfigurationError, LimitExceeded, MemoryKeyValueStore, Owner, StoredValue

OWNER = Owner(tenant_id=None, user_id="ann")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_value_does_not_show_its_content() -> None:
    assert repr(StoredValue(value=b"secret", version=3, expires_at=1.0)) == "StoredValue(version=3, 6 bytes)"


@pytest.mark.parametrize(("max_entries", "max_bytes"), [(0, 1), (1, 0)])
def test_a_store_without_room_is_refused(max_entries: int, max_bytes: int) -> None:
    with pytest.raises(ConfigurationError, match="above zero"):
        MemoryKeyValueStore(max_entries=max_entries, max_bytes=max_bytes)


async def test_what_was_used_longest_ago_makes_room() -> None:
    store = MemoryKeyValueStore(max_entries=3)
    for key in ("a", "b", "c"):
        await store.set(OWNER, key, b"", ttl=60)
    await store.get(OWNER, "a")
    await store.set(OWNER, "b", b"", ttl=60)
    await store.add(OWNER, "d", b"", ttl=60, operation="o")
    assert [await store.get(OWNER, key) is not None for key in ("a", "b", "c", "d")] == [True, True, False, True]


async def test_what_has_expired_makes_room_first() -> None:
    clock = Clock()
    store = MemoryKeyValueStore(max_bytes=3_000, clock=clock)
    await store.set(OWNER, "long", b"", ttl=60)
    for n in range(250):
        await store.set(OWNER, f"short{n}", b"", ttl=1)
    clock.now += 2
    await store.set(OWNER, "large", bytes(2_900), ttl=60)
    assert await store.get(OWNER, "long") is not None
    assert await store.delete_all(OWNER) == 2


async def test_keys_and_values_together_are_bounded() -> None:
    store = MemoryKeyValueStore(max_bytes=10)
    await store.set(OWNER, "aaaa", b"a", ttl=60)
    await store.set(OWNER, "bbbb", b"b", ttl=60)
    await store.set(OWNER, "bbbb", b"bb", ttl=60)
    assert await store.get(OWNER, "aaaa") is None
    assert await store.get(OWNER, "bbbb") is not None


async def test_a_value_larger_than_the_store_is_refused_and_changes_nothing() -> None:
    store = MemoryKeyValueStore(max_bytes=10)
    await store.set(OWNER, "k", b"old", ttl=60)
    with pytest.raises(LimitExceeded, match="max_bytes=10"):
        await store.set(OWNER, "k", bytes(10), ttl=60)
    found = await store.get(OWNER, "k")
    assert found is not None
    assert found.value == b"old"


async def test_what_has_expired_takes_no_room_though_nobody_asks_for_it() -> None:
    clock = Clock()
    store = MemoryKeyValueStore(max_entries=100_000, clock=clock)
    for n in range(1_000):
        await store.set(Owner(tenant_id=None, user_id=f"u{n}"), "k", bytes(100), ttl=1)
    clock.now += 2
    for _ in range(10):
        await store.get(OWNER, "k")
    assert vars(store)["_owners"] == vars(store)["_recent"] == {}
    assert vars(store)["_bytes"] == 0


async def test_what_has_expired_is_not_counted_before_anybody_has_freed_it() -> None:
    clock = Clock()
    store = MemoryKeyValueStore(clock=clock)
    for n in range(300):
        await store.set(OWNER, f"k{n}", b"", ttl=1)
    await store.set(OWNER, "k", b"", ttl=60)
    clock.now += 2
    assert await store.delete_all(OWNER) == 1


async def test_an_expired_value_is_set_again_before_anybody_has_freed_it() -> None:
    clock = Clock()
    store = MemoryKeyValueStore(clock=clock)
    for n in range(300):
        await store.set(OWNER, f"k{n}", b"old", ttl=1)
    clock.now += 2
    for n in reversed(range(300)):
        assert await store.add(OWNER, f"k{n}", b"new", ttl=1, operation="o") == 600 - n
    assert await store.delete_all(OWNER) == 300


@given(
    writes=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30), st.floats(0.5, 5)), max_size=40),
    steps=st.lists(st.floats(0, 2), max_size=40),
)
async def test_no_sequence_of_writes_takes_more_room_than_allowed(
    writes: list[tuple[str, int, float]], steps: list[float]
) -> None:
    clock = Clock()
    store = MemoryKeyValueStore(max_entries=3, max_bytes=40, clock=clock)
    for (key, size, ttl), step in zip(writes, steps, strict=False):
        await store.set(OWNER, key, bytes(size), ttl=ttl)
        assert await store.get(OWNER, key) is not None
        found = [await store.get(OWNER, name) for name in "abcdef"]
        sizes = [1 + len(stored.value) for stored in found if stored is not None]
        assert len(sizes) <= 3
        assert sum(sizes) <= 40
        clock.now += step
