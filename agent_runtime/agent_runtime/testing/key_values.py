"""What every key-value store promises."""

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_runtime.errors import InvalidInput, LimitExceeded
from agent_runtime.ids import new_id
from agent_runtime.key_value_store import MAX_VALUE_BYTES, KeyValueStore
from agent_runtime.session_store import Refusal
from agent_runtime.testing.session_samples import EVERY_BYTE, OWNER, OWNERS, any_owners, done, some, together
from agent_runtime.testing.store_faults import settled, whole_or_not_at_all
from agent_runtime.types import Owner

Operation: TypeAlias = Callable[[KeyValueStore, Owner, float], Coroutine[Any, Any, object]]

# Keys that a careless backend would mix up, cut off or run.
KEYS = (
    "k",
    "K",
    "k ",
    " k",
    "k\0",
    "k\0k",
    "k\n",
    "k:k",
    "*",
    "k%",
    "k_",
    "[k]",
    "k' OR '1'='1",
    '{"$ne": null}',
    "../k",
    "1",
    "None",
    "ä",
    "a\u0308",  # looks the same
    "\ud800",  # half a character, as JSON can bring it
    "\udfff",
    "k" * 512,
    "💥" * 512,
    "k" * 511 + "j",
)
_each_on_the_same_store = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

_WRITES: dict[str, Operation] = {
    "set": lambda store, owner, ttl: store.set(owner, "k", b"new", ttl=ttl),
    "add": lambda store, owner, ttl: store.add(owner, "added", b"new", ttl=ttl, operation="o-add"),
    "replace": lambda store, owner, ttl: _replace(store, owner, ttl),
}
_OPERATIONS: dict[str, Operation] = {
    **_WRITES,
    "delete": lambda store, owner, ttl: store.delete(owner, "k"),
    "delete_all": lambda store, owner, ttl: store.delete_all(owner),
}


class KeyValueStoreContract:
    """Subclass it with a name that starts with `Test`, implement `store` and `advance`; pytest runs the promises below.

    Values live `ttl` seconds here: a store with a clock that cannot be set takes a short one, and `advance` sleeps. The
    store has room for 100 values and 32 MiB. Needs anyio's pytest plugin with `anyio_mode = "auto"`.
    """

    ttl: float = 10.0

    @pytest.fixture
    @abstractmethod
    def store(self) -> KeyValueStore:
        """An empty store; an asynchronous fixture does as well."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Return when so many seconds have passed by the store's clock."""

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        """Close the store and return another on the same data, as after a restart; one that keeps nothing returns itself."""
        return store

    async def test_a_value_comes_back_as_it_was_set(self, store: KeyValueStore) -> None:
        version = await store.set(OWNER, "k", EVERY_BYTE, ttl=self.ttl)
        found = some(await store.get(OWNER, "k"))
        assert (found.value, found.version) == (EVERY_BYTE, version)
        again = await store.set(OWNER, "k", b"", ttl=self.ttl)
        assert again != version
        assert some(await store.get(OWNER, "k")).value == b""

    async def test_what_is_not_there_is_told_apart_from_what_is_empty(self, store: KeyValueStore) -> None:
        assert await store.get(OWNER, "k") is None
        assert await store.delete(OWNER, "k") is False
        assert await store.delete_all(OWNER) == 0
        assert await self._replace(store, b"new", 1) is Refusal.MISSING
        assert await store.get(OWNER, "k") is None

    async def test_a_value_is_added_where_none_is(self, store: KeyValueStore) -> None:
        version = await self._add(store, b"first")
        assert await self._add(store, b"second") is Refusal.EXISTS
        assert await self._add(store, b"first") is Refusal.EXISTS
        found = some(await store.get(OWNER, "k"))
        assert (found.value, found.version) == (b"first", version)

    async def test_a_value_is_replaced_at_the_version_that_was_read(self, store: KeyValueStore) -> None:
        version = await store.set(OWNER, "k", b"old", ttl=self.ttl)
        for other in (0, version + 1, version - 1):
            assert await self._replace(store, b"new", other) is Refusal.CHANGED
        assert some(await store.get(OWNER, "k")).value == b"old"
        newer = done(await self._replace(store, b"new", version))
        assert await self._replace(store, b"newer", version) is Refusal.CHANGED
        found = some(await store.get(OWNER, "k"))
        assert (found.value, found.version) == (b"new", newer)

    async def test_a_value_is_deleted_at_the_version_that_was_read(self, store: KeyValueStore) -> None:
        version = await store.set(OWNER, "k", b"", ttl=self.ttl)
        assert await store.delete(OWNER, "k", expected_version=version + 1) is False
        assert await store.delete(OWNER, "k", expected_version=0) is False
        assert await store.delete(OWNER, "k", expected_version=version) is True
        assert await store.delete(OWNER, "k", expected_version=version) is False
        assert await store.get(OWNER, "k") is None

    async def test_no_version_comes_twice(self, store: KeyValueStore) -> None:
        versions: list[int] = []
        for _ in range(3):
            versions.append(await store.set(OWNER, "k", b"", ttl=self.ttl))
            versions.append(done(await self._replace(store, b"", versions[-1])))
            await store.delete(OWNER, "k")
            versions.append(done(await self._add(store, b"")))
            await store.delete_all(OWNER)
            versions.append(done(await self._add(store, b"")))
            await self.advance(self.ttl * 1.1)
            store = await self.reopen(store)
        assert len(set(versions)) == len(versions) == 12
        assert min(versions) > 0
        await store.set(OWNER, "k", b"", ttl=self.ttl)
        for version in versions:
            assert await self._replace(store, b"new", version) is Refusal.CHANGED

    async def test_keys_that_look_alike_share_nothing(self, store: KeyValueStore) -> None:
        for place, key in enumerate(KEYS):
            assert await store.get(OWNER, key) is None, ascii(key)
            assert not isinstance(await store.add(OWNER, key, b"%d" % place, ttl=self.ttl, operation=new_id()), Refusal)
        for place, key in enumerate(KEYS):
            assert some(await store.get(OWNER, key)).value == b"%d" % place, ascii(key)
        for key in KEYS[::2]:
            assert await store.delete(OWNER, key) is True
        assert [await store.get(OWNER, key) is None for key in KEYS] == [True, False] * (len(KEYS) // 2)
        assert await store.delete_all(OWNER) == len(KEYS) // 2

    @_each_on_the_same_store
    @given(key=st.text(st.characters(), min_size=1, max_size=512), value=st.binary(max_size=100))
    async def test_any_key_and_value_come_back(self, store: KeyValueStore, key: str, value: bytes) -> None:
        await store.set(OWNER, key, value, ttl=self.ttl)
        assert some(await store.get(OWNER, key)).value == value

    async def test_a_value_may_be_large(self, store: KeyValueStore) -> None:
        data = EVERY_BYTE * (MAX_VALUE_BYTES // 256)
        await store.set(OWNER, "k", data, ttl=self.ttl)
        assert some(await store.get(OWNER, "k")).value == data
        assert some(await (await self.reopen(store)).get(OWNER, "k")).value == data

    @pytest.mark.parametrize("name", ["set", "add", "replace"])
    async def test_what_no_store_takes_is_refused_and_changes_nothing(self, store: KeyValueStore, name: str) -> None:
        version = await store.set(OWNER, "k", b"old", ttl=self.ttl)

        async def write(key: str, value: bytes, ttl: float) -> object:
            if name == "set":
                return await store.set(OWNER, key, value, ttl=ttl)
            if name == "add":
                return await store.add(OWNER, key, value, ttl=ttl, operation=new_id())
            return await store.replace(OWNER, key, value, expected_version=version, ttl=ttl, operation=new_id())

        for key in ("", "k" * 513):
            with pytest.raises(InvalidInput, match="1–512 characters"):
                await write(key, b"", self.ttl)
        for ttl in (0, -1, float("nan"), float("inf")):
            with pytest.raises(InvalidInput, match="above 0"):
                await write("k", b"", ttl)
        with pytest.raises(LimitExceeded, match="is larger than"):
            await write("k", bytes(MAX_VALUE_BYTES + 1), self.ttl)
        assert some(await store.get(OWNER, "k")).version == version
        assert await store.delete_all(OWNER) == 1

    async def test_a_key_that_no_store_has_cannot_be_asked_for(self, store: KeyValueStore) -> None:
        for key in ("", "k" * 513):
            with pytest.raises(InvalidInput, match="1–512 characters"):
                await store.get(OWNER, key)
            with pytest.raises(InvalidInput, match="1–512 characters"):
                await store.delete(OWNER, key)

    # Owners

    async def test_owners_that_look_alike_share_nothing(self, store: KeyValueStore) -> None:
        for place, owner in enumerate(OWNERS):
            assert await store.get(owner, "k") is None, owner
            await store.set(owner, "k", b"%d" % place, ttl=self.ttl)
        for place, owner in enumerate(OWNERS):
            assert some(await store.get(owner, "k")).value == b"%d" % place
        for owner in OWNERS[::2]:
            assert await store.delete_all(owner) == 1
        assert [await store.get(owner, "k") is None for owner in OWNERS] == [True, False] * (len(OWNERS) // 2)

    @_each_on_the_same_store
    @given(
        owners=st.tuples(any_owners, any_owners).filter(lambda pair: pair[0] != pair[1]),
        name=st.sampled_from(list(_OPERATIONS)),
    )
    async def test_nothing_done_by_one_owner_is_seen_by_another(
        self, store: KeyValueStore, owners: tuple[Owner, Owner], name: str
    ) -> None:
        mine, theirs = owners
        for owner in owners:
            await store.delete_all(owner)
            await store.set(owner, "k", b"old", ttl=self.ttl)
        before = await store.get(mine, "k")
        await _OPERATIONS[name](store, theirs, self.ttl)
        assert await store.get(mine, "k") == before
        assert await store.get(mine, "added") is None

    # Time

    async def test_a_value_goes_when_its_time_is_up(self, store: KeyValueStore) -> None:
        await store.set(OWNER, "k", b"old", ttl=self.ttl)
        version = await store.set(OWNER, "other", b"", ttl=self.ttl * 100)
        await self.advance(self.ttl * 0.7)
        assert await self._add(store, b"new") is Refusal.EXISTS
        store = await self.reopen(store)
        await self.advance(self.ttl * 0.4)
        assert await store.get(OWNER, "k") is None
        assert await store.delete(OWNER, "k") is False
        assert await self._replace(store, b"new", 1) is Refusal.MISSING
        assert not isinstance(await self._add(store, b"new"), Refusal)
        assert some(await store.get(OWNER, "other")).version == version

    async def test_expired_values_are_not_counted(self, store: KeyValueStore) -> None:
        for place in range(5):
            await store.set(OWNER, f"k{place}", b"", ttl=self.ttl)
        await store.set(OWNER, "k", b"", ttl=self.ttl * 100)
        await self.advance(self.ttl * 1.1)
        assert await store.delete_all(OWNER) == 1

    @pytest.mark.parametrize("name", ["set", "replace"])
    async def test_a_write_prolongs_and_never_makes_permanent(self, store: KeyValueStore, name: str) -> None:
        first = await self._dated(store)
        await self.advance(self.ttl * 0.7)
        assert not isinstance(await _WRITES[name](store, OWNER, self.ttl), Refusal)
        second = some(await store.get(OWNER, "k"))
        assert second.expires_at == pytest.approx(first + self.ttl * 0.7, abs=self.ttl * 0.05)
        await self.advance(self.ttl * 0.7)
        assert await store.get(OWNER, "k") == second
        await self.advance(self.ttl * 0.4)
        assert await store.get(OWNER, "k") is None

    async def test_what_reads_and_what_is_refused_does_not_prolong(self, store: KeyValueStore) -> None:
        await self._dated(store)
        before = await store.get(OWNER, "k")
        await self.advance(self.ttl * 0.5)
        await self._add(store, b"new")
        await self._replace(store, b"new", 0)
        assert await store.get(OWNER, "k") == before

    async def test_a_shorter_life_given_by_a_later_write_holds(self, store: KeyValueStore) -> None:
        await store.set(OWNER, "k", b"", ttl=self.ttl * 100)
        await store.set(OWNER, "k", b"", ttl=self.ttl)
        await self.advance(self.ttl * 1.1)
        assert await store.get(OWNER, "k") is None

    # Many at once, and calls that are repeated

    async def test_of_many_that_add_at_once_one_does(self, store: KeyValueStore) -> None:
        outcomes = await together(50, lambda n: self._add(store, b"%d" % n))
        assert outcomes.count(Refusal.EXISTS) == 49
        [version] = [outcome for outcome in outcomes if not isinstance(outcome, Refusal)]
        assert some(await store.get(OWNER, "k")).version == version

    async def test_of_many_that_replace_the_same_version_one_does(self, store: KeyValueStore) -> None:
        version = await store.set(OWNER, "k", b"", ttl=self.ttl)
        outcomes = await together(50, lambda n: self._replace(store, b"%d" % n, version))
        assert outcomes.count(Refusal.CHANGED) == 49

    async def test_fifty_increments_at_once_give_fifty(self, store: KeyValueStore) -> None:
        await store.set(OWNER, "k", b"0", ttl=self.ttl)

        async def increment(_: int) -> None:
            while True:
                found = some(await store.get(OWNER, "k"))
                if not isinstance(await self._replace(store, b"%d" % (int(found.value) + 1), found.version), Refusal):
                    return

        await together(50, increment)
        assert some(await store.get(OWNER, "k")).value == b"50"

    async def test_a_lock_holds_over_a_restart(self, store: KeyValueStore) -> None:
        version = done(await self._add(store, b"lock"))
        store = await self.reopen(store)
        assert await self._add(store, b"lock") is Refusal.EXISTS
        assert await store.delete(OWNER, "k", expected_version=version) is True

    async def test_a_repeated_write_changes_nothing_and_answers_like_the_first(self, store: KeyValueStore) -> None:
        added = await self._add(store, b"a", operation="o1")
        await self.advance(self.ttl * 0.5)
        before = await store.get(OWNER, "k")
        store = await self.reopen(store)
        assert await self._add(store, b"a", operation="o1") == added
        assert await store.get(OWNER, "k") == before
        replaced = await self._replace(store, b"b", done(added), operation="o2")
        before = await store.get(OWNER, "k")
        assert await self._replace(store, b"b", done(added), operation="o2") == replaced
        assert await store.get(OWNER, "k") == before
        assert await self._add(store, b"a", operation="o1") is Refusal.EXISTS
        await store.set(OWNER, "k", b"c", ttl=self.ttl)
        assert await self._replace(store, b"b", done(added), operation="o2") is Refusal.CHANGED
        assert some(await store.get(OWNER, "k")).value == b"c"

    async def test_an_operation_belongs_to_its_key(self, store: KeyValueStore) -> None:
        await self._add(store, b"", operation="o")
        assert await store.add(OWNER, "other", b"x", ttl=self.ttl, operation="o") != await self._add(store, b"")
        assert some(await store.get(OWNER, "other")).value == b"x"

    # Cancellation

    @pytest.mark.parametrize("name", _OPERATIONS)
    async def test_a_cancelled_call_is_done_as_a_whole_or_not_at_all(self, store: KeyValueStore, name: str) -> None:
        async def furnish(owner: Owner) -> None:
            await store.set(owner, "k", b"old", ttl=self.ttl)
            await store.set(owner, "other", b"old", ttl=self.ttl)

        async def look(owner: Owner) -> list[bytes | None]:
            await settled(store)
            found = [await store.get(owner, key) for key in ("k", "other", "added")]
            return [None if stored is None else stored.value for stored in found]

        await whole_or_not_at_all(furnish, lambda owner: _OPERATIONS[name](store, owner, self.ttl), look, again=True)

    async def _add(self, store: KeyValueStore, value: bytes, operation: str | None = None) -> int | Refusal:
        return await store.add(OWNER, "k", value, ttl=self.ttl, operation=operation or new_id())

    async def _replace(
        self, store: KeyValueStore, value: bytes, expected: int, operation: str | None = None
    ) -> int | Refusal:
        operation = operation or new_id()
        return await store.replace(OWNER, "k", value, expected_version=expected, ttl=self.ttl, operation=operation)

    async def _dated(self, store: KeyValueStore) -> float:
        """Set a value; when it expires."""
        await store.set(OWNER, "k", b"old", ttl=self.ttl)
        return some(await store.get(OWNER, "k")).expires_at


async def _replace(store: KeyValueStore, owner: Owner, ttl: float) -> int | Refusal:
    found = await store.get(owner, "k")
    version = 0 if found is None else found.version
    return await store.replace(owner, "k", b"new", expected_version=version, ttl=ttl, operation="o-replace")
