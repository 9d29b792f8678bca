"""LangGraph's checkpoints in our sessions: owners, expiry, quotas, and any backend."""

import copy
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, Self
from uuid import uuid4

from agent_runtime import Checkpoint as Stored
from agent_runtime import ConfigurationError, InvalidInput, Owner, SessionConflict, SessionManager
from agent_runtime_adapters.langgraph.contents import ancestors, merged
from agent_runtime_adapters.langgraph.names import branch_name, first_name, next_name
from agent_runtime_adapters.langgraph.places import Place, place_of, thread_of
from agent_runtime_adapters.langgraph.records import CheckpointRecord, WritesRecord, pack, unpack
from agent_runtime_adapters.langgraph.threads import Threads

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        get_checkpoint_metadata,
    )
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
except ImportError as error:
    raise ImportError("LangGraphSaver needs LangGraph: pip install 'onion-agent-runtime[langgraph]'") from error

_STEPS = frozenset({"input", "loop"})  # what a run puts; "update" and "fork" are asked for, and may branch


class LangGraphSaver(BaseCheckpointSaver[str]):
    """A LangGraph checkpointer over `sessions`: a thread, with all its namespaces, is a session of its owner.

    Whose a thread is: `owner`'s; where that is `None`, `configurable["user_id"]` and `["tenant_id"]` say so, which your service
    sets from who is authenticated, never from what the caller sends. Another owner's thread is like one that is not there.

    A thread lives as a session does, by the manager's `ttl` since the last write, and its limits hold. The order of
    checkpoints is the store's sequence, never a clock. Each put is one atomic step of the store.

    Of two runs that go on from the same latest checkpoint, the one that is later to store its first step fails with
    `SessionConflict`. By then both have run the nodes of that step; `turn` keeps the second from beginning.

    Nothing that is read makes objects, but of the types that LangGraph takes for safe and the classes in `allowed`: those of
    your state. An object of another class comes back as plain data, and LangGraph logs a warning.

    Asynchronous only: `ainvoke`, `astream`, `aget_state`. Raises the runtime's errors; an outage is `StoreUnavailable`.
    """

    def __init__(
        self,
        sessions: SessionManager,
        *,
        owner: Owner | None = None,
        allowed: Iterable[type] = (),
        agent_id: str = "langgraph",
    ) -> None:
        super().__init__(serde=JsonPlusSerializer(allowed_msgpack_modules=tuple(allowed)))
        self._threads = Threads(sessions, agent_id)
        self._owner = owner

    def of(self, owner: Owner) -> Self:
        """The same for one owner, as the calls need that have no configuration."""
        bound = copy.copy(self)
        bound._owner = owner
        return bound

    @asynccontextmanager
    async def turn(self, config: RunnableConfig, *, ttl: float = 30.0, wait: float = 0.0) -> AsyncGenerator[None]:
        """Inside, no other turn of the thread begins: `async with saver.turn(config): await graph.ainvoke(..., config)`.

        It is the lease of the thread's session: see `SessionManager.lease` for `ttl`, `wait` and the errors.
        """
        async with self._threads.turn(place_of(config, self._owner), ttl=ttl, wait=wait):
            yield

    # Reading

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that is named, or the namespace's latest.

        The latest costs what it holds; an earlier one, and one that is not there, what was stored since.
        """
        place = place_of(config, self._owner)
        found = await self._threads.find(place)
        return None if found is None else self._tuple(place, found.record, found.writes, is_latest=found.is_latest)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of a thread, or without `config` of all the owner's, the newest first.

        `before` leaves out what was stored from that checkpoint on, which may be of any namespace; one that is not there leaves
        nothing out. A thread is read at once: nothing is held while the caller works between two items.
        """
        bound = None if before is None else before.get("configurable", {}).get("checkpoint_id")
        left = limit
        for place in await self._places(config):
            contents = await self._threads.read(place)
            for record, is_latest in contents.listed(place.listed_ns, place.checkpoint_id, bound):
                if left is not None and left <= 0:
                    return
                if self._fits(record, filter):
                    yield self._tuple(place, record, contents.writes(record), is_latest=is_latest)
                    left = None if left is None else left - 1

    def get_tuple(self, config: RunnableConfig) -> NoReturn:
        """Refused: see the class."""
        raise _asynchronous("get_tuple")

    def list(self, config: RunnableConfig | None, **options: Any) -> NoReturn:
        """Refused: see the class."""
        raise _asynchronous("list")

    # Writing

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint after the one that `config` names. The same again changes nothing.

        Raises `SessionConflict` when another run has gone on from that one, `NotFound` when the thread is gone.
        """
        place = place_of(config, self._owner)
        record = CheckpointRecord(
            ns=place.ns,
            id=checkpoint["id"],
            parent=place.checkpoint_id,
            checkpoint=pack(self.serde, checkpoint, "the checkpoint"),
            metadata=pack(self.serde, get_checkpoint_metadata(config, metadata), "the metadata"),
        )
        if place.checkpoint_id is None:
            await self._threads.begin(place)
        try:
            await self._threads.add(place, _name(place, record, metadata), record)
        except SessionConflict as error:
            raise SessionConflict(
                f"another run has gone on with thread {place.thread_id!r} from the same checkpoint, or the thread is "
                "closed; nothing was stored: read the state again"
            ) from error
        return place.config(record.ns, record.id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task gave, beside the checkpoint that `config` names, all of it or nothing.

        What is there stays as it is, but for errors, interrupts and resume values: of those the last counts.
        """
        place = place_of(config, self._owner)
        if place.checkpoint_id is None:
            raise InvalidInput("the configuration names no checkpoint_id", details={"field": "checkpoint_id"})
        record = WritesRecord(
            ns=place.ns,
            id=place.checkpoint_id,
            task=task_id,
            path=task_path,
            nonce=uuid4().hex,
            writes=tuple(
                (WRITES_IDX_MAP.get(channel, number), channel, pack(self.serde, value, f"the write to {channel!r}"))
                for number, (channel, value) in enumerate(writes)
            ),
        )
        await self._threads.add_writes(place, record)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Make a thread that has all that the other has, as one step. The same again changes nothing.

        Raises `NotFound` without the source, `SessionConflict` when the target is there and no copy of what the source has now.
        """
        await self._threads.copy(source_thread_id, target_thread_id, self._bound())

    # Removing

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove all of a thread, as one step."""
        await self._threads.delete(thread_id, self._bound())

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of these runs with their writes. Reads all threads of the owner.

        Each checkpoint is a step: cancelled, call it again.
        """
        for place in await self._places(None) if run_ids else ():
            contents = await self._threads.read(place)
            for name, record in contents.checkpoints():
                if self._metadata(record).get("run_id") in run_ids:
                    await self._threads.remove(place, name, contents.writes(record))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove the threads (`"delete"`), or all but each namespace's latest checkpoint and what that is made from.

        The oldest goes first, and each checkpoint is a step: cancelled, call it again.
        """
        if strategy not in ("keep_latest", "delete"):
            raise InvalidInput(f"strategy is {strategy!r}; it must be 'keep_latest' or 'delete'")
        owner = self._bound()
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread_id)
            else:
                await self._keep_latest(thread_of(thread_id, owner))

    async def _keep_latest(self, place: Place) -> None:
        contents = await self._threads.read(place)
        checkpoints = [*contents.checkpoints()]
        kept = self._needed([record for _, record in checkpoints])
        for name, record in reversed(checkpoints):
            if (record.ns, record.id) not in kept:
                await self._threads.remove(place, name, contents.writes(record))

    def _needed(self, newest_first: Sequence[CheckpointRecord]) -> set[tuple[str, str]]:
        """The latest of each namespace, and those before it that its delta channels are made from."""
        there = {(record.ns, record.id): record for record in newest_first}
        latest = {record.ns: record for record in reversed(newest_first)}
        kept = {(record.ns, record.id) for record in latest.values()}
        for record in latest.values():
            missing = {*self._metadata(record).get("counters_since_delta_snapshot", ())}
            for ancestor in ancestors(record, there):
                if not missing:
                    break
                kept.add((ancestor.ns, ancestor.id))
                missing -= self._checkpoint(ancestor)["channel_values"].keys()
        return kept

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """A version above `current`, in the form that LangGraph's own savers have; two branches never get the same."""
        number = int(str(current or 0).partition(".")[0]) + 1
        return f"{number:032}.{random.random():016}"

    # Records

    async def _places(self, config: RunnableConfig | None) -> Sequence[Place]:
        return [place_of(config, self._owner)] if config is not None else await self._threads.of(self._bound())

    def _tuple(
        self, place: Place, record: CheckpointRecord, writes: Iterable[Stored], *, is_latest: bool
    ) -> CheckpointTuple:
        return CheckpointTuple(
            config=place.loaded(record.ns, record.id, is_latest=is_latest),
            checkpoint=self._checkpoint(record),
            metadata=self._metadata(record),
            parent_config=None if record.parent is None else place.config(record.ns, record.parent),
            pending_writes=[
                (task, channel, unpack(self.serde, value, f"a write of checkpoint {record.id!r}"))
                for task, channel, value in merged(writes)
            ],
        )

    def _checkpoint(self, record: CheckpointRecord) -> Checkpoint:
        checkpoint: Checkpoint = unpack(self.serde, record.checkpoint, f"checkpoint {record.id!r}")
        return checkpoint

    def _metadata(self, record: CheckpointRecord) -> CheckpointMetadata:
        metadata: CheckpointMetadata = unpack(self.serde, record.metadata, f"metadata of checkpoint {record.id!r}")
        return metadata

    def _fits(self, record: CheckpointRecord, wanted: Mapping[str, Any] | None) -> bool:
        if not wanted:
            return True
        metadata: Mapping[str, Any] = {**self._metadata(record)}
        return all(metadata.get(key) == value for key, value in wanted.items())

    def _bound(self) -> Owner:
        if self._owner is None:
            raise ConfigurationError("whose threads? This call has no configuration: use saver.of(owner)")
        return self._owner


def _name(place: Place, record: CheckpointRecord, metadata: CheckpointMetadata) -> str:
    """The name that a checkpoint is stored under, of which there is one: this is the compare-and-set on its parent."""
    if metadata.get("source") in _STEPS and not place.branches:
        if record.parent is not None:
            return next_name(record.ns, record.parent)
        if metadata.get("step") == -1:
            return first_name(record.ns)
    return branch_name(record.ns, record.id)


def _asynchronous(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"LangGraphSaver.{name}: use the graph's asynchronous methods, as ainvoke and aget_state"
    )
