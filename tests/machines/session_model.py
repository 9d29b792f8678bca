"""A session store beside plain lists and dictionaries that do the same."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from agent_runtime import (
    LeaseToken,
    MemorySessionStore,
    Message,
    Owner,
    Refusal,
    SessionFields,
    SessionQuota,
    SessionStore,
    StoredSession,
)

T = TypeVar("T")
P = ParamSpec("P")
Call: TypeAlias = Coroutine[Any, Any, T]
Key: TypeAlias = tuple[Owner, str]

TTL = 10.0
QUOTA = SessionQuota(ttl=TTL, max_sessions=3, max_sessions_per_user=2)
OWNERS = (Owner(tenant_id="acme", user_id="ann"), Owner(tenant_id="globex", user_id="ann"))
RUNS = ("h1", "h2", "h3", "r")


@dataclass
class Run:
    sequence: int
    message_count: int
    entries: list[bytes] = field(default_factory=list[bytes])


@dataclass
class Model:
    fields: SessionFields
    operation: str
    expires_at: float
    version: int = 1
    messages: list[Message] = field(default_factory=list[Message])
    checkpoints: dict[str, tuple[int, bytes, int]] = field(default_factory=dict[str, tuple[int, bytes, int]])
    sequence: int = 0
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    runs_begun: int = 0
    token: LeaseToken | None = None
    until: float = 0.0
    fence: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    writes: set[str] = field(default_factory=set[str])

    def holder(self, now: float) -> str | None:
        return self.token.holder if self.token is not None and now < self.until else None

    def put(self, name: str, data: bytes, count: int) -> None:
        self.sequence += 1
        self.checkpoints[name] = self.sequence, data, count

    def record(self, run_id: str, entry: bytes) -> None:
        if run_id not in self.runs:
            self.runs_begun += 1
            self.runs[run_id] = Run(self.runs_begun, len(self.messages))
        self.runs[run_id].entries.append(entry)

    def recorded(self, run_id: str, number: int, entry: bytes) -> bool:
        return run_id in self.runs and self.runs[run_id].entries[number - 1 : number] == [entry]


class ModelledStore(RuleBasedStateMachine):
    """A store and its model, compared after each step; what is done is up to subclasses. `now` is the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now: float = 1_000.0
        self.model: dict[Key, Model] = {}
        self.expired: list[tuple[Owner, str, str]] = []
        self.given: dict[Key, list[LeaseToken]] = {}
        self.made: list[Callable[[], None]] = []
        self.said = 0
        self.store = self.open()

    def open(self) -> SessionStore:
        return MemorySessionStore(clock=lambda: self.now)

    def reopen(self) -> SessionStore:
        return self.store

    def call(self, call: Call[T]) -> T:
        """What the call returns: on the memory store it never waits."""
        try:
            call.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value
        raise AssertionError("a call on the memory store waited")

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for owner in OWNERS:
            names = {name for of, name in self.model if of == owner}
            stored = {session.session_id: session for session in self.call(self.store.sessions(owner))}
            assert stored.keys() == names
            assert self.call(self.store.count(owner)) == len(names)
            for name in names:
                self.is_as_in_the_model(owner, name, stored[name], self.model[owner, name])

    def is_as_in_the_model(self, owner: Owner, name: str, stored: StoredSession, model: Model) -> None:
        assert self.call(self.store.read(owner, name)) == stored
        assert (stored.fields, stored.version, stored.message_count, stored.expires_at, stored.holder) == (
            model.fields,
            model.version,
            len(model.messages),
            model.expires_at,
            model.holder(self.now),
        )
        messages = self.call(self.store.messages(owner, name))
        assert messages is not None
        assert list(messages) == model.messages
        found = self.call(self.store.checkpoints(owner, name))
        assert [(item.sequence, item.checkpoint_id, item.data, item.message_count) for item in found] == sorted(
            ((place, key, data, count) for key, (place, data, count) in model.checkpoints.items()), reverse=True
        )
        unfinished = self.call(self.store.runs(owner, name))
        assert [(run.sequence, run.run_id, run.entry_count, run.message_count) for run in unfinished] == sorted(
            ((run.sequence, key, len(run.entries), run.message_count) for key, run in model.runs.items()), reverse=True
        )
        for run_id in RUNS:
            there = model.runs[run_id].entries if run_id in model.runs else []
            assert list(self.call(self.store.entries(owner, name, run_id))) == there

    def make(self, write: Callable[P, None], *args: P.args, **options: P.kwargs) -> None:
        self.made.append(partial(write, *args, **options))
        self.made[-1]()

    def operation(self) -> str:
        return f"o{len(self.made)}"

    def done(self, outcome: object, refusals: dict[Refusal, bool]) -> bool:
        """Whether it was to be done; it must be refused for one of these reasons, if one of them is there."""
        reasons = {refusal for refusal, there in refusals.items() if there}
        if reasons:
            assert isinstance(outcome, Refusal)
            assert outcome in reasons
            return False
        assert not isinstance(outcome, Refusal)
        return True

    def added(self, key: Key, made: Model, outcome: object, refusals: set[Refusal]) -> None:
        there = self.model.get(key)
        if there is None or there.operation != made.operation:
            full = {
                **dict.fromkeys(refusals, True),
                Refusal.EXISTS: there is not None,
                Refusal.FULL: len(self.model) == QUOTA.max_sessions,
                Refusal.OWNER_FULL: sum(owner == key[0] for owner, _ in self.model) == QUOTA.max_sessions_per_user,
            }
            if not self.done(outcome, full):
                return
            self.model[key] = made
        assert outcome == self.call(self.store.read(*key))

    def add(self, model: Model, operation: str, messages: list[Message]) -> None:
        model.messages += messages
        model.counts[operation] = len(model.messages)
        self.touch(model)

    def touch(self, model: Model) -> None:
        end = 0.0 if model.token is None else model.until
        model.expires_at = max(self.now + TTL, end)

    def prolong(self, model: Model, seconds: float) -> None:
        model.until = self.now + seconds
        model.expires_at = max(model.expires_at, model.until)

    def messages(self, number: int) -> list[Message]:
        self.said += number
        return [Message(role="user", content=f"{self.said}.{n}") for n in range(number)]

    def token(self, key: Key, which: str | None) -> LeaseToken | None:
        return None if which is None else self.held(key, which)

    def held(self, key: Key, which: str) -> LeaseToken:
        """A token of the session, of one that was there before under its id, of any other, or of none."""
        given = self.given.get(key, [])
        if which == "another's":
            given = [token for tokens in self.given.values() for token in tokens]
        if which == "forged" or not given:
            return LeaseToken(holder="h1", fence=1_000_000)
        return given[0 if which == "first" else -1]
