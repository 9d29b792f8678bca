"""A thread as it was read: which records of its session are what, and in which order they count."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent_runtime import Checkpoint
from agent_runtime_adapters.langgraph.names import checkpoint_names, writes_name
from agent_runtime_adapters.langgraph.records import CheckpointRecord, Packed, WritesRecord, record_of

try:
    from langgraph.checkpoint.base import writes_sort_key
except ImportError as error:
    raise ImportError("LangGraphSaver needs LangGraph: pip install 'onion-agent-runtime[langgraph]'") from error


class Contents:
    """What was read of a thread's session, the newest first, all of it or its end."""

    def __init__(self, stored: Sequence[Checkpoint]) -> None:
        self._stored = stored
        self._by_name = {item.checkpoint_id: item for item in stored}

    def __len__(self) -> int:
        return len(self._stored)

    def checkpoints(self, ns: str | None = None) -> Iterator[tuple[str, CheckpointRecord]]:
        """LangGraph's checkpoints, the newest first, each with the name that it is stored under."""
        prefix = "c-" if ns is None else checkpoint_names(ns)
        for item in self._stored:
            if item.checkpoint_id.startswith(prefix):
                yield item.checkpoint_id, record_of(item, CheckpointRecord)

    def listed(
        self, ns: str | None, checkpoint_id: str | None, before: str | None
    ) -> Iterator[tuple[CheckpointRecord, bool]]:
        """The checkpoints that are meant, each with whether it is the latest of its namespace."""
        records = [record for _, record in self.checkpoints()]
        skipping = before in {record.id for record in records}
        seen: set[str] = set()
        for record in records:
            is_latest = record.ns not in seen
            seen.add(record.ns)
            if skipping:
                skipping = record.id != before
            elif ns in (None, record.ns) and checkpoint_id in (None, record.id):
                yield record, is_latest

    def named(self, name: str) -> Checkpoint | None:
        """The record of this name, where it is among what was read."""
        return self._by_name.get(name)

    def writes(self, record: CheckpointRecord) -> list[Checkpoint]:
        """The records of a checkpoint's writes in their order, where everything was read."""
        found: list[Checkpoint] = []
        while item := self._by_name.get(writes_name(record.ns, record.id, len(found))):
            found.append(item)
        return found


def merged(stored: Iterable[Checkpoint]) -> list[tuple[str, str, Packed]]:
    """Task, channel and value of each write, in the order in which LangGraph applies them.

    Each task's first write to a place counts; of errors, interrupts and resume values (below 0) the last.
    """
    found: dict[tuple[str, int], tuple[str, str, Packed]] = {}
    for item in stored:
        record = record_of(item, WritesRecord)
        for place, channel, value in record.writes:
            if place < 0 or (record.task, place) not in found:
                found[record.task, place] = (record.path, channel, value)
    ordered = sorted(
        (writes_sort_key(path, *key), key[0], channel, value) for key, (path, channel, value) in found.items()
    )
    return [(task, channel, value) for _, task, channel, value in ordered]


def ancestors(
    record: CheckpointRecord, there: Mapping[tuple[str, str], CheckpointRecord]
) -> Iterator[CheckpointRecord]:
    """The checkpoints that this one goes on from, the nearest first, as far as they are there."""
    while record.parent is not None and (record.ns, record.parent) in there:
        record = there[record.ns, record.parent]
        yield record
