"""Threads in sessions: what is stored under which name, and how it is found again."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from agent_runtime import Checkpoint, Owner, SessionConflict, SessionManager
from agent_runtime_adapters.langgraph.contents import Contents
from agent_runtime_adapters.langgraph.names import namespace_name, session_name, thread_name, writes_name
from agent_runtime_adapters.langgraph.places import Place, thread_of
from agent_runtime_adapters.langgraph.records import CheckpointRecord, NamespaceRecord, Record, WritesRecord

_FIRST_LOOK = 4  # records read at once, four times as many each time that what is meant is not among them
_COUNTERS_KEPT = 512  # of checkpoints that are written to; one that is forgotten costs calls, not data


class Found(msgspec.Struct, frozen=True):
    """A checkpoint, the records of its writes, and whether it is the latest of its namespace."""

    record: CheckpointRecord
    writes: Sequence[Checkpoint]
    is_latest: bool


class _Counter(msgspec.Struct):
    """How many records of writes a checkpoint has, as far as this process knows; they are added one at a time."""

    lock: anyio.Lock
    known: int = 0


class Threads:
    """The threads in `sessions`. Each call that writes is one atomic step, or says how many."""

    def __init__(self, sessions: SessionManager, agent_id: str) -> None:
        self._sessions = sessions
        self._agent_id = agent_id
        self._opening: dict[tuple[Owner, str], anyio.Event] = {}
        self._counters: OrderedDict[tuple[Owner, str, str], _Counter] = OrderedDict()

    @asynccontextmanager
    async def turn(self, place: Place, *, ttl: float, wait: float) -> AsyncGenerator[None]:
        """Holds the lease of the thread's session."""
        await self._sessions.open(place.session_id, owner=place.owner, agent_id=self._agent_id)
        async with self._sessions.lease(place.session_id, owner=place.owner, ttl=ttl, wait=wait):
            yield

    async def of(self, owner: Owner) -> Sequence[Place]:
        """All threads of an owner, the newest first."""
        threads = [thread_name(session.session_id) for session in await self._sessions.list_by_user(owner=owner)]
        return [thread_of(thread, owner) for thread in threads if thread is not None]

    async def read(self, place: Place, last: int | None = None) -> Contents:
        """All of a thread, or the `last` so many records."""
        return Contents(await self._sessions.list_checkpoints(place.session_id, owner=place.owner, last=last))

    async def find(self, place: Place) -> Found | None:
        """The checkpoint that is meant; reads the thread from its end, as far as needed."""
        if place.ns and await self._stored(place, namespace_name(place.ns)) is None:
            return None
        last = _FIRST_LOOK
        while True:
            contents = await self.read(place, last)
            for number, (_, record) in enumerate(contents.checkpoints(place.ns)):
                if place.checkpoint_id in (None, record.id):
                    return Found(record, await self._writes(place, record, contents), number == 0)
            if len(contents) < last:
                return None
            last *= 4

    async def begin(self, place: Place) -> None:
        """Make the session, and the namespace, where there are none: two steps."""
        key = (place.owner, place.session_id)
        opened = self._opening.setdefault(key, anyio.Event())
        try:
            await self._sessions.open(place.session_id, owner=place.owner, agent_id=self._agent_id)
        finally:
            self._opening.pop(key, None)
            opened.set()
        if place.ns:
            await self.add(place, namespace_name(place.ns), NamespaceRecord(ns=place.ns))

    async def add(self, place: Place, name: str, record: Record) -> None:
        """Store a record under a name, of which there is one. Raises `SessionConflict` when another one has it."""
        state: Mapping[str, Any] = msgspec.to_builtins(record)
        await self._sessions.save_checkpoint(place.session_id, state, owner=place.owner, checkpoint_id=name)

    async def add_writes(self, place: Place, record: WritesRecord) -> None:
        """Store it under the next number of its checkpoint, without a hole: that is how they are found."""
        if (opening := self._opening.get((place.owner, place.session_id))) is not None:
            await opening.wait()  # LangGraph runs the first task without waiting for the thread's first checkpoint
        counter = self._counter(place, record)
        async with counter.lock:
            while not await self._added(place, writes_name(record.ns, record.id, counter.known), record):
                counter.known += 1
            counter.known += 1

    async def copy(self, source: str, target: str, owner: Owner) -> None:
        """See `LangGraphSaver.acopy_thread`."""
        data = await self._sessions.export(session_name(source), owner=owner)
        with self._made_anew(session_name(target), owner):
            await self._sessions.import_session(data, owner=owner, session_id=session_name(target))

    async def delete(self, thread_id: str, owner: Owner) -> None:
        """Remove all of a thread."""
        with self._made_anew(session_name(thread_id), owner):
            await self._sessions.delete(session_name(thread_id), owner=owner)

    async def remove(self, place: Place, name: str, writes: Iterable[Checkpoint]) -> None:
        """Remove a checkpoint and then its writes, each a step; once begun, a cancellation waits until it is done."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True):  # each call has the store's time limit
            for each in (name, *(stored.checkpoint_id for stored in writes)):
                await self._sessions.delete_checkpoint(place.session_id, each, owner=place.owner)

    async def _stored(self, place: Place, name: str) -> Checkpoint | None:
        return await self._sessions.get_checkpoint(place.session_id, name, owner=place.owner)

    async def _writes(self, place: Place, record: CheckpointRecord, near: Contents) -> Sequence[Checkpoint]:
        """The records of a checkpoint's writes, of which some may be read already."""
        found: list[Checkpoint] = []
        while True:
            name = writes_name(record.ns, record.id, len(found))
            stored = near.named(name) or await self._stored(place, name)
            if stored is None:
                return found
            found.append(stored)

    async def _added(self, place: Place, name: str, record: WritesRecord) -> bool:
        """Whether it is stored under this name, which another may have."""
        try:
            await self.add(place, name, record)
        except SessionConflict:
            if await self._stored(place, name) is None:
                raise
            return False
        return True

    @contextmanager
    def _made_anew(self, session_id: str, owner: Owner) -> Generator[None]:
        """After it, however it ends, nothing is known of the checkpoints that the session had: others may have their ids."""
        try:
            yield
        finally:
            for key in [key for key in self._counters if key[:2] == (owner, session_id)]:
                del self._counters[key]

    def _counter(self, place: Place, record: WritesRecord) -> _Counter:
        key = (place.owner, place.session_id, writes_name(record.ns, record.id, 0))
        counter = self._counters.setdefault(key, _Counter(anyio.Lock()))
        self._counters.move_to_end(key)
        if len(self._counters) > _COUNTERS_KEPT:
            self._counters.popitem(last=False)
        return counter
