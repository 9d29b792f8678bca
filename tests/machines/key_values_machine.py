"""Any sequence of calls of a key-value store, with a clock, gives what a plain dictionary would."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from tests.machines.store_machine import StoreMachine

from agent_runtime import KeyValueStore, Owner, Refusal

OWNERS = (Owner(tenant_id=None, user_id="ann"), Owner(tenant_id="acme", user_id="ann"))
owners = st.sampled_from(OWNERS)
keys = st.sampled_from(["a", "b", "a\0"])
values = st.binary(max_size=2)
ttls = st.sampled_from([1.0, 3.0, 10.0])


@dataclass
class Model:
    value: bytes
    version: int
    expires_at: float
    operation: str | None


class KeyValuesMachine(StoreMachine[KeyValueStore]):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[Owner, str], Model] = {}
        self.versions: set[int] = set()
        self.operations = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.model = {name: model for name, model in self.model.items() if model.expires_at > self.now}

    @rule(owner=owners, key=keys, value=values, ttl=ttls)
    def set(self, owner: Owner, key: str, value: bytes, ttl: float) -> None:
        self.written(owner, key, value, ttl, None, self.run(self.store.set(owner, key, value, ttl=ttl)))

    @rule(owner=owners, key=keys, value=values, ttl=ttls)
    def add(self, owner: Owner, key: str, value: bytes, ttl: float) -> None:
        operation = self.new_operation()
        answer = self.run(self.store.add(owner, key, value, ttl=ttl, operation=operation))
        if (owner, key) in self.model:
            assert answer is Refusal.EXISTS
        else:
            self.written(owner, key, value, ttl, operation, answer)

    @rule(owner=owners, key=keys, value=values, ttl=ttls, behind=st.sampled_from([0, 0, 1]))
    def replace(self, owner: Owner, key: str, value: bytes, ttl: float, behind: int) -> None:
        model = self.model.get((owner, key))
        operation, expected = self.new_operation(), (model.version if model else 1) - behind
        answer = self.run(
            self.store.replace(owner, key, value, expected_version=expected, ttl=ttl, operation=operation)
        )
        if model is None:
            assert answer is Refusal.MISSING
        elif behind:
            assert answer is Refusal.CHANGED
        else:
            self.written(owner, key, value, ttl, operation, answer)

    @precondition(lambda self: any(model.operation for model in self.model.values()))
    @rule(data=st.data(), how=st.sampled_from(["add", "replace"]))
    def repeat(self, data: st.DataObject, how: str) -> None:
        known = [name for name, model in self.model.items() if model.operation]
        owner, key = data.draw(st.sampled_from(known))
        model = self.model[owner, key]
        assert model.operation is not None
        if how == "add":
            call = self.store.add(owner, key, b"x", ttl=99, operation=model.operation)
        else:
            call = self.store.replace(owner, key, b"x", expected_version=1, ttl=99, operation=model.operation)
        assert self.run(call) == model.version

    @rule(owner=owners, key=keys, behind=st.sampled_from([None, 0, 1]))
    def delete(self, owner: Owner, key: str, behind: int | None) -> None:
        model = self.model.get((owner, key))
        expected = None if behind is None else (model.version if model else 1) - behind
        there = model is not None and not behind
        assert self.run(self.store.delete(owner, key, expected_version=expected)) is there
        if there:
            del self.model[owner, key]

    @rule(owner=owners)
    def delete_all(self, owner: Owner) -> None:
        kept = {name: model for name, model in self.model.items() if name[0] != owner}
        assert self.run(self.store.delete_all(owner)) == len(self.model) - len(kept)
        self.model = kept

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for owner in OWNERS:
            for key in ("a", "b", "a\0"):
                found = self.run(self.store.get(owner, key))
                model = self.model.get((owner, key))
                assert (found is None) is (model is None)
                if found is not None and model is not None:
                    assert (found.value, found.version, found.expires_at) == (
                        model.value,
                        model.version,
                        model.expires_at,
                    )

    def new_operation(self) -> str:
        self.operations += 1
        return f"o{self.operations}"

    def written(
        self, owner: Owner, key: str, value: bytes, ttl: float, operation: str | None, version: int | Refusal
    ) -> None:
        assert not isinstance(version, Refusal)
        assert version not in self.versions
        self.versions.add(version)
        self.model[owner, key] = Model(value, version, self.now + ttl, operation)
