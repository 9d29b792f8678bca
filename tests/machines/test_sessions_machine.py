"""Any sequence of calls, of the manager and of the store, gives what plain lists and dictionaries would."""

from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.machines.session_machine import SessionStoreMachine, WaitingStoreMachine
from tests.stores.distant import Distant

from agent_runtime import (
    LimitExceeded,
    MemorySessionStore,
    Message,
    NotFound,
    Owner,
    SessionConflict,
    SessionManager,
    SessionStore,
)

T = TypeVar("T")

TTL = 10.0
PER_OWNER = 3
OWNERS = (
    Owner(tenant_id=None, user_id="ann"),
    Owner(tenant_id="acme", user_id="ann"),
    Owner(tenant_id="acme", user_id="bob"),
)

owners = st.sampled_from(OWNERS)
names = st.sampled_from(["s1", "s2", "s3", "s4"])
checkpoint_names = st.sampled_from(["c1", "c2", "c3"])
numbers = st.integers(0, 3)


@dataclass
class Model:
    expires_at: float
    agent_id: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    version: int = 1
    messages: list[Message] = field(default_factory=list[Message])
    checkpoints: dict[str, tuple[int, int, int]] = field(default_factory=dict[str, tuple[int, int, int]])
    sequence: int = 0
    closed: bool = False


def run(call: Coroutine[Any, Any, T]) -> T:
    """What the call returns: on the memory store it never waits."""
    try:
        call.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    raise AssertionError("a call on the memory store waited")


class SessionsMachine(RuleBasedStateMachine):
    """What the manager makes of a store: three owners' sessions with a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sessions = SessionManager(
            MemorySessionStore(clock=lambda: self.now), ttl=TTL, max_sessions_per_user=PER_OWNER
        )
        self.model: dict[Owner, dict[str, Model]] = {owner: {} for owner in OWNERS}

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, TTL]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for owner, kept in self.model.items():
            self.model[owner] = {name: model for name, model in kept.items() if model.expires_at > self.now}

    @rule(owner=owners, name=names, agent=st.sampled_from(["a", "b"]))
    def create(self, owner: Owner, name: str, agent: str) -> None:
        call = self.sessions.create(owner=owner, agent_id=agent, session_id=name)
        if name in self.model[owner]:
            self.refused(call, SessionConflict)
        elif len(self.model[owner]) == PER_OWNER:
            self.refused(call, LimitExceeded)
        else:
            run(call)
            self.model[owner][name] = Model(self.now + TTL, agent)

    @rule(owner=owners, name=names, number=numbers)
    def increment(self, owner: Owner, name: str, number: int) -> None:
        call = self.sessions.update_metadata(name, lambda old: {"n": old.get("n", 0) + number}, owner=owner)
        if (model := self.found(owner, name, call)) is not None:
            run(call)
            model.metadata = {"n": model.metadata.get("n", 0) + number}
            model.version += 1
            model.expires_at = self.now + TTL

    @rule(owner=owners, name=names, expected=st.none() | numbers, number=numbers)
    def append(self, owner: Owner, name: str, expected: int | None, number: int) -> None:
        messages = [Message(role="user", content=str(n)) for n in range(number + 1)]
        call = self.sessions.append_messages(name, messages, owner=owner, expected=expected)
        if (model := self.found(owner, name, call)) is None:
            return
        if model.closed or expected not in (None, len(model.messages)):
            self.refused(call, SessionConflict)
        else:
            model.messages += messages
            assert run(call) == len(model.messages)
            model.expires_at = self.now + TTL

    @rule(owner=owners, name=names, checkpoint=checkpoint_names, number=numbers)
    def save(self, owner: Owner, name: str, checkpoint: str, number: int) -> None:
        call = self.sessions.save_checkpoint(name, {"n": number}, owner=owner, checkpoint_id=checkpoint)
        if (model := self.found(owner, name, call)) is None:
            return
        there = model.checkpoints.get(checkpoint)
        if model.closed or (there is not None and there[1] != number):
            self.refused(call, SessionConflict)
        elif there is not None:
            assert run(call).sequence == there[0]
        else:
            run(call)
            model.sequence += 1
            model.checkpoints[checkpoint] = model.sequence, number, len(model.messages)
            model.expires_at = self.now + TTL

    @rule(owner=owners, name=names, checkpoint=checkpoint_names)
    def delete_checkpoint(self, owner: Owner, name: str, checkpoint: str) -> None:
        model = self.model[owner].get(name)
        was_there = model is not None and model.checkpoints.pop(checkpoint, None) is not None
        assert run(self.sessions.delete_checkpoint(name, checkpoint, owner=owner)) is was_there

    @rule(owner=owners, name=names, checkpoint=checkpoint_names)
    def fork(self, owner: Owner, name: str, checkpoint: str) -> None:
        call = self.sessions.fork(name, checkpoint, owner=owner)
        model = self.model[owner].get(name)
        if model is None or checkpoint not in model.checkpoints:
            self.refused(call, NotFound)
        elif len(self.model[owner]) == PER_OWNER:
            self.refused(call, LimitExceeded)
        else:
            _, number, length = model.checkpoints[checkpoint]
            self.model[owner][run(call).session_id] = replace(
                model,
                expires_at=self.now + TTL,
                version=1,
                messages=model.messages[:length],
                checkpoints={checkpoint: (1, number, length)},
                sequence=1,
                closed=False,
            )

    @rule(owner=owners, name=names)
    def close(self, owner: Owner, name: str) -> None:
        call = self.sessions.close(name, owner=owner)
        if (model := self.found(owner, name, call)) is not None:
            run(call)
            model.closed = True
            model.version += 1
            model.expires_at = self.now + TTL

    @rule(owner=owners, name=names)
    def delete(self, owner: Owner, name: str) -> None:
        assert run(self.sessions.delete(name, owner=owner)) is (self.model[owner].pop(name, None) is not None)

    @rule(owner=owners, agent=st.sampled_from(["a", "b"]))
    def delete_by_agent(self, owner: Owner, agent: str) -> None:
        kept = {name: model for name, model in self.model[owner].items() if model.agent_id != agent}
        assert run(self.sessions.delete_by_agent(agent, owner=owner)) == len(self.model[owner]) - len(kept)
        self.model[owner] = kept

    @rule()
    def cleanup(self) -> None:
        run(self.sessions.cleanup_expired())
        assert run(self.sessions.cleanup_expired()) == 0

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for owner, kept in self.model.items():
            sessions = {session.session_id: session for session in run(self.sessions.list_by_user(owner=owner))}
            assert sessions.keys() == kept.keys()
            assert run(self.sessions.count(owner=owner)) == len(kept)
            for name, model in kept.items():
                session = sessions[name]
                assert run(self.sessions.get(name, owner=owner)) == session
                assert (session.metadata, session.version, session.message_count, session.closed) == (
                    model.metadata,
                    model.version,
                    len(model.messages),
                    model.closed,
                )
                assert session.expires_at.timestamp() == model.expires_at
                assert run(self.sessions.messages(name, owner=owner)) == tuple(model.messages)
                found = run(self.sessions.list_checkpoints(name, owner=owner))
                assert [(c.sequence, c.checkpoint_id, c.state["n"], c.message_count) for c in found] == sorted(
                    ((place, key, n, length) for key, (place, n, length) in model.checkpoints.items()), reverse=True
                )

    def found(self, owner: Owner, name: str, call: Coroutine[Any, Any, object]) -> Model | None:
        """The model of a session; where there is none, the call must say so."""
        model = self.model[owner].get(name)
        if model is None:
            self.refused(call, NotFound)
        return model

    def refused(self, call: Coroutine[Any, Any, object], error: type[Exception]) -> None:
        with pytest.raises(error):
            run(call)


class DistantMachine(WaitingStoreMachine):
    def open(self) -> SessionStore:
        return Distant(clock=lambda: self.now)


TestSessions = SessionsMachine.TestCase
TestMemorySessionStore = SessionStoreMachine.TestCase
TestDistant = DistantMachine.TestCase
TestDistant.settings = settings(max_examples=10)  # the same store: what is tried is the machine's event loop
