"""Any sequence of calls of an event log, with a clock, gives what a plain list would."""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from tests.machines.store_machine import StoreMachine

from agent_runtime import EventLog, LogBounds, Owner, Refusal

BOUNDS = LogBounds(max_events=5, max_bytes=12)
TTL = 10.0
OWNERS = (Owner(tenant_id=None, user_id="ann"), Owner(tenant_id="acme", user_id="ann"))
owners = st.sampled_from(OWNERS)
streams = st.sampled_from(["a", "b"])


@dataclass
class Model:
    expires_at: float
    events: list[bytes] = field(default_factory=list[bytes])
    operation: str = ""
    closed: bool = False

    @property
    def first(self) -> int:
        """The lowest number that is kept."""
        kept, size = 0, 0
        for data in reversed(self.events):
            size += len(data)
            if kept == BOUNDS.max_events or size > BOUNDS.max_bytes:
                break
            kept += 1
        return len(self.events) - kept + 1


class EventLogsMachine(StoreMachine[EventLog]):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[Owner, str], Model] = {}
        self.operations = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, TTL]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.model = {name: model for name, model in self.model.items() if model.expires_at > self.now}

    @rule(
        owner=owners,
        stream=streams,
        events=st.lists(st.binary(max_size=5), max_size=8),
        behind=st.sampled_from([0, 0, 0, 1]),
        close=st.sampled_from([False, False, False, True]),
    )
    def append(self, owner: Owner, stream: str, events: list[bytes], behind: int, close: bool) -> None:
        self.operations += 1
        operation = f"o{self.operations}"
        model = self.model.get((owner, stream))
        expected = (len(model.events) if model else 0) + behind
        answer = self.run(
            self.store.append(owner, stream, events, expected=expected, ttl=TTL, operation=operation, close=close)
        )
        if model is None and behind:
            assert answer is Refusal.MISSING
        elif model is not None and (model.closed or behind):
            assert answer is (Refusal.CLOSED if model.closed else Refusal.CHANGED)
        else:
            model = self.model.setdefault((owner, stream), Model(0))
            model.events += events
            model.expires_at, model.operation, model.closed = self.now + TTL, operation, close
            assert answer == len(model.events)

    @rule(owner=owners, stream=streams)
    def repeat(self, owner: Owner, stream: str) -> None:
        if (model := self.model.get((owner, stream))) is not None:
            call = self.store.append(owner, stream, [b"x"], expected=9, ttl=99, operation=model.operation)
            assert self.run(call) == len(model.events)

    @rule(owner=owners, stream=streams)
    def delete(self, owner: Owner, stream: str) -> None:
        was_there = self.model.pop((owner, stream), None) is not None
        assert self.run(self.store.delete(owner, stream)) is was_there

    @rule(owner=owners)
    def delete_all(self, owner: Owner) -> None:
        kept = {name: model for name, model in self.model.items() if name[0] != owner}
        assert self.run(self.store.delete_all(owner)) == len(self.model) - len(kept)
        self.model = kept

    @rule(owner=owners, stream=streams, after=st.integers(0, 30), limit=st.integers(0, 6))
    def read(self, owner: Owner, stream: str, after: int, limit: int) -> None:
        page = self.run(self.store.read(owner, stream, after=after, limit=limit))
        model = self.model.get((owner, stream))
        assert (page is None) is (model is None)
        if page is not None and model is not None:
            first, last = model.first, len(model.events)
            assert (page.first, page.last, page.closed) == (first, last, model.closed)
            assert page.missed == len(range(after + 1, first))
            wanted = range(max(after + 1, first), last + 1)[:limit]
            assert [(event.sequence, event.data) for event in page.events] == [(n, model.events[n - 1]) for n in wanted]

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        for owner in OWNERS:
            for stream in ("a", "b"):
                self.read(owner, stream, 0, 99)
