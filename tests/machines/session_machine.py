"""Any sequence of calls of a session store, of two tenants and three holders with a clock, gives what the model gives."""

from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from tests.machines.session_model import OWNERS, QUOTA, RUNS, TTL, Call, Key, Model, ModelledStore

from agent_runtime import (
    LeaseToken,
    Message,
    MessageBatch,
    Owner,
    Refusal,
    SessionContent,
    SessionFields,
    StoredCheckpoint,
    StoredLease,
)

T = TypeVar("T")

FIELDS = [
    SessionFields(agent_id="a", data=b"1"),
    SessionFields(agent_id="b", data=b"2"),
    SessionFields(agent_id="a", data=b"3"),
    SessionFields(agent_id="b", data=b"4", closed=True),
]
NAMES = ("s1", "s2", "s3")


def _keys(machine: "SessionStoreMachine") -> st.SearchStrategy[Key]:
    """Mostly of what is there: most calls find nothing otherwise."""
    living = sorted(machine.model, key=repr)
    return st.sampled_from([*3 * living, (OWNERS[0], "s1"), (OWNERS[1], "s1")])


keys = st.runner().flatmap(_keys)
new_keys = st.tuples(st.sampled_from(OWNERS), st.sampled_from(NAMES))
fields = st.sampled_from(FIELDS)
checkpoint_names = st.sampled_from(["c1", "c2"])
holders = st.sampled_from(["h1", "h2", "h3"])
runs = st.sampled_from(RUNS)
tokens = st.sampled_from(["last", "last", "last", "first", "another's", "forged"])
lengths = st.sampled_from([2.0, 6.0, 2 * TTL])
entries = st.sampled_from([b"x", b"y"])


class SessionStoreMachine(ModelledStore):
    """On the memory store. For another store override `open`, and take `WaitingStoreMachine` when its calls wait.

    The clock of the store is `now`, and `reopen` is called between any two steps: a store that keeps its data returns
    another on the same.
    """

    @initialize(seconds=lengths)
    def one_is_held(self, seconds: float) -> None:
        self.create((OWNERS[0], "s1"), FIELDS[0], filled=False)
        self.acquire((OWNERS[0], "s1"), "h1", seconds, b"x")

    @rule(back=st.sampled_from([1, 1, 2, 3, 5, 8, 13]))
    def again(self, back: int) -> None:
        """One of the last writes, as it was made: the same operation."""
        self.made[-min(back, len(self.made))]()

    # Sessions

    @rule(seconds=st.sampled_from([1.0, 2.0, 2.0, 6.0, 6.0, 6.0, TTL]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        gone = [key for key, model in self.model.items() if model.expires_at <= self.now]
        self.expired += [(*key, self.model.pop(key).fields.agent_id) for key in gone]

    @rule()
    def restart(self) -> None:
        self.store = self.reopen()

    @rule(key=new_keys, fields=fields, filled=st.booleans())
    def create(self, key: Key, fields: SessionFields, filled: bool) -> None:
        self.make(self.creates, key, fields, self.operation(), self.messages(3) if filled else [])

    def creates(self, key: Key, fields: SessionFields, operation: str, messages: list[Message]) -> None:
        made = Model(fields, operation, self.now + TTL)
        content = None
        if messages:
            made.messages += messages
            made.put("c2", b"x", 2)
            content = SessionContent(messages=MessageBatch.of(messages), checkpoints=(_checkpoint("c2", b"x", 2),))
        outcome = self.call(self.store.create(*key, fields, QUOTA, operation=operation, content=content))
        self.added(key, made, outcome, set())

    @rule(key=keys, checkpoint=checkpoint_names, new=st.sampled_from(NAMES))
    def fork(self, key: Key, checkpoint: str, new: str) -> None:
        self.make(self.forks, key, checkpoint, new, self.operation())

    def forks(self, key: Key, checkpoint: str, new: str, operation: str) -> None:
        outcome = self.call(self.store.fork(*key, checkpoint, new, QUOTA, operation=operation))
        source = self.model.get(key)
        if source is None or checkpoint not in source.checkpoints:
            made = Model(FIELDS[0], operation, 0.0)
            self.added((key[0], new), made, outcome, {Refusal.MISSING})
            return
        _, data, count = source.checkpoints[checkpoint]
        open_fields = SessionFields(agent_id=source.fields.agent_id, data=source.fields.data)
        made = Model(open_fields, operation, self.now + TTL, messages=source.messages[:count])
        made.put(checkpoint, data, count)
        self.added((key[0], new), made, outcome, set())

    @rule(key=keys, fields=fields, late=st.booleans(), which=st.none() | tokens)
    def write(self, key: Key, fields: SessionFields, late: bool, which: str | None) -> None:
        version = self.model[key].version if key in self.model else 1
        self.make(self.writes, key, fields, version + late, self.operation(), self.token(key, which))

    def writes(self, key: Key, fields: SessionFields, expected: int, operation: str, lease: LeaseToken | None) -> None:
        model = self.model.get(key)
        outcome = self.call(
            self.store.write(*key, fields, expected=expected, ttl=TTL, operation=operation, lease=lease)
        )
        if model is None:
            assert outcome is Refusal.MISSING
            return
        if operation not in model.writes:
            fenced = lease not in (None, model.token)
            if not self.done(outcome, {Refusal.CHANGED: expected != model.version, Refusal.FENCED: fenced}):
                return
            model.fields = fields
            model.version += 1
            model.writes.add(operation)
            self.touch(model)
        assert outcome == self.call(self.store.read(*key))

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        assert self.call(self.store.delete(*key)) is (self.model.pop(key, None) is not None)

    @rule(owner=st.sampled_from(OWNERS), agent=st.sampled_from(["a", "b"]))
    def delete_by_agent(self, owner: Owner, agent: str) -> None:
        gone = [key for key, model in self.model.items() if key[0] == owner and model.fields.agent_id == agent]
        assert self.call(self.store.delete_all(owner, agent_id=agent)) == len(gone)
        for key in gone:
            del self.model[key]

    @rule()
    def expire(self) -> None:
        told = [(item.owner, item.session_id, item.agent_id) for item in self.call(self.store.expire())]
        assert sorted(told, key=repr) == sorted(self.expired, key=repr)
        self.expired = []

    # Messages and checkpoints

    @rule(key=keys, number=st.integers(1, 2), expected=st.none() | st.integers(0, 4), which=st.none() | tokens)
    def append(self, key: Key, number: int, expected: int | None, which: str | None) -> None:
        self.make(self.appends, key, self.messages(number), expected, self.operation(), self.token(key, which))

    def appends(
        self, key: Key, messages: list[Message], expected: int | None, operation: str, lease: LeaseToken | None
    ) -> None:
        model, batch = self.model.get(key), MessageBatch.of(messages)
        outcome = self.call(
            self.store.append(*key, batch, expected=expected, ttl=TTL, operation=operation, lease=lease)
        )
        if model is None:
            assert outcome is Refusal.MISSING
            return
        if operation not in model.counts:
            refusals = {
                Refusal.CLOSED: model.fields.closed,
                Refusal.FENCED: lease not in (None, model.token),
                Refusal.HELD: lease is None and model.holder(self.now) is not None,
                Refusal.CHANGED: expected not in (None, len(model.messages)),
            }
            if not self.done(outcome, refusals):
                return
            self.add(model, operation, messages)
        assert outcome == model.counts[operation]

    @rule(key=keys, checkpoint=checkpoint_names, data=entries, which=st.none() | tokens)
    def put(self, key: Key, checkpoint: str, data: bytes, which: str | None) -> None:
        self.make(self.puts, key, checkpoint, data, self.token(key, which))

    def puts(self, key: Key, checkpoint: str, data: bytes, lease: LeaseToken | None) -> None:
        model = self.model.get(key)
        outcome = self.call(self.store.put_checkpoint(*key, checkpoint, data, ttl=TTL, lease=lease))
        if model is None:
            assert outcome is Refusal.MISSING
            return
        there = model.checkpoints.get(checkpoint)
        if there is None or there[1] != data:
            refusals = {
                Refusal.CLOSED: model.fields.closed,
                Refusal.FENCED: lease not in (None, model.token),
                Refusal.EXISTS: there is not None,
            }
            if not self.done(outcome, refusals):
                return
            model.put(checkpoint, data, len(model.messages))
            self.touch(model)
        assert isinstance(outcome, StoredCheckpoint)
        assert (outcome.sequence, outcome.data, outcome.message_count) == model.checkpoints[checkpoint]

    @rule(key=keys, checkpoint=st.none() | checkpoint_names)
    def delete_checkpoints(self, key: Key, checkpoint: str | None) -> None:
        there = self.model[key].checkpoints if key in self.model else {}
        gone = [name for name in there if checkpoint in (None, name)]
        assert self.call(self.store.delete_checkpoints(*key, checkpoint_id=checkpoint)) == len(gone)
        for name in gone:
            del there[name]

    # Leases

    @rule(key=keys, holder=holders, seconds=lengths, entry=st.none() | entries)
    def acquire(self, key: Key, holder: str, seconds: float, entry: bytes | None) -> None:
        self.make(self.acquires, key, holder, seconds, entry)

    def acquires(self, key: Key, holder: str, seconds: float, entry: bytes | None) -> None:
        outcome = self.call(self.store.acquire(*key, holder, seconds=seconds, ttl=TTL, entry=entry))
        model = self.model.get(key)
        if model is None:
            assert outcome is Refusal.MISSING
            return
        first = None if entry is None or model.recorded(holder, 1, entry) else entry
        again = model.token is not None and model.token.holder == holder
        refusals = {
            Refusal.CLOSED: model.fields.closed and (first is not None or not again),
            Refusal.HELD: not again and model.holder(self.now) is not None,
            Refusal.CHANGED: first is not None and holder in model.runs,
        }
        if not self.done(outcome, refusals):
            return
        if first is not None:
            model.record(holder, first)
        assert isinstance(outcome, StoredLease)
        if again:
            assert outcome.token == model.token
        else:
            assert outcome.token.holder == holder
            assert outcome.token.fence > model.fence
            model.token, model.fence = outcome.token, outcome.token.fence
            self.given.setdefault(key, []).append(outcome.token)
        self.prolong(model, seconds)
        if first is not None or not again:
            self.touch(model)
        assert outcome.session == self.call(self.store.read(*key))

    @rule(key=keys, which=tokens, seconds=lengths)
    def renew(self, key: Key, which: str, seconds: float) -> None:
        model, lease = self.model.get(key), self.held(key, which)
        outcome = self.call(self.store.renew(*key, lease, seconds=seconds))
        if model is None:
            assert outcome is Refusal.MISSING
        elif self.done(outcome, {Refusal.FENCED: lease != model.token}):
            self.prolong(model, seconds)
            assert isinstance(outcome, StoredLease)
            assert (outcome.token, outcome.session) == (lease, self.call(self.store.read(*key)))

    @rule(key=keys, which=tokens)
    def release(self, key: Key, which: str) -> None:
        model, lease = self.model.get(key), self.held(key, which)
        holds = model is not None and lease == model.token
        assert self.call(self.store.release(*key, lease)) is holds
        if model is not None and holds:
            model.token = None

    # Runs

    @rule(key=keys, run_id=runs, number=st.integers(1, 3), entry=entries, which=tokens)
    def record(self, key: Key, run_id: str, number: int, entry: bytes, which: str) -> None:
        self.make(self.records, key, run_id, number, entry, self.held(key, which))

    def records(self, key: Key, run_id: str, number: int, entry: bytes, lease: LeaseToken) -> None:
        model = self.model.get(key)
        outcome = self.call(self.store.record(*key, run_id, number, entry, ttl=TTL, lease=lease))
        if model is None:
            assert outcome is Refusal.MISSING
            return
        if not model.recorded(run_id, number, entry):
            there = model.runs.get(run_id)
            refusals = {
                Refusal.FENCED: lease != model.token,
                Refusal.MISSING: there is None and number > 1,
                Refusal.CLOSED: number == 1 and model.fields.closed,
                Refusal.CHANGED: there is not None and number != len(there.entries) + 1,
            }
            if not self.done(outcome, refusals):
                return
            model.record(run_id, entry)
            self.touch(model)
        assert outcome == number

    @rule(key=keys, run_id=runs, number=st.integers(0, 2), which=tokens)
    def finish(self, key: Key, run_id: str, number: int, which: str) -> None:
        self.make(self.finishes, key, run_id, self.messages(number), self.held(key, which))

    def finishes(self, key: Key, run_id: str, messages: list[Message], lease: LeaseToken) -> None:
        model, batch = self.model.get(key), MessageBatch.of(messages) if messages else None
        outcome = self.call(self.store.finish(*key, run_id, batch, ttl=TTL, lease=lease))
        if model is None:
            assert outcome is Refusal.MISSING
            return
        done_before = lease.holder in model.counts or (batch is None and run_id not in model.runs)
        if lease == model.token or not done_before:
            adds = batch is not None and lease.holder not in model.counts
            refusals = {Refusal.FENCED: lease != model.token, Refusal.CLOSED: adds and model.fields.closed}
            if not self.done(outcome, refusals):
                return
            if adds:
                self.add(model, lease.holder, messages)
            model.runs.pop(run_id, None)
            model.token = None
            self.touch(model)
        assert outcome == model.counts.get(lease.holder, len(model.messages))

    @rule(key=keys, run_id=runs)
    def discard(self, key: Key, run_id: str) -> None:
        outcome = self.call(self.store.discard_run(*key, run_id))
        model = self.model.get(key)
        if model is None:
            assert outcome is False
        elif self.done(outcome, {Refusal.HELD: model.holder(self.now) is not None}):
            assert outcome is (model.runs.pop(run_id, None) is not None)


class WaitingStoreMachine(SessionStoreMachine):
    """For a store whose calls wait: each example has an event loop of its own in `portal`, ended by `teardown`."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        super().__init__()

    def call(self, call: Call[T]) -> T:
        async def awaited() -> T:
            return await call

        return self.portal.call(awaited)

    def teardown(self) -> None:
        self.stack.close()


def _checkpoint(name: str, data: bytes, count: int) -> StoredCheckpoint:
    return StoredCheckpoint(checkpoint_id=name, data=data, sequence=9, message_count=count, created_at=0.0)
