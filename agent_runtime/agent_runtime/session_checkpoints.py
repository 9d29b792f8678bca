"""The part of the session manager that keeps checkpoints of an application's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent_runtime.events import EventType
from agent_runtime.ids import new_id, new_secret_id
from agent_runtime.payload import check_id, copy_json
from agent_runtime.records import encode_record
from agent_runtime.session_access import SessionAccess, check_session, checked_count
from agent_runtime.session_data import Checkpoint, Session, checkpoint_of
from agent_runtime.session_leases import Lease, token_of
from agent_runtime.session_store import StoredCheckpoint
from agent_runtime.types import Owner


class SessionCheckpoints(SessionAccess):
    """See `SessionManager`."""

    async def save_checkpoint(
        self,
        session_id: str,
        state: Mapping[str, Any],
        *,
        owner: Owner,
        checkpoint_id: str | None = None,
        lease: Lease | None = None,
    ) -> Checkpoint:
        """Keep `state` (JSON values). With an id of your own, saving the same again is harmless.

        Raises `SessionConflict` when the id has another state, the session is closed, or the lease is over.
        """
        check_session(owner, session_id)
        name = new_id() if checkpoint_id is None else checkpoint_id
        check_id(name, "checkpoint_id")
        data = encode_record(copy_json(state, "checkpoint", max_bytes=self._limits.checkpoint_bytes))
        token = token_of(lease)
        outcome = await self._do(
            lambda: self._store.put_checkpoint(owner, session_id, name, data, ttl=self._ttl, lease=token)
        )
        checkpoint = checkpoint_of(session_id, self._granted(outcome, session_id))
        await self._publish_checkpoint(EventType.CHECKPOINT_SAVED, owner, checkpoint)
        return checkpoint

    async def get_checkpoint(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> Checkpoint | None:
        """The checkpoint, to go on from; published as restored."""
        check_session(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        found = await self._ask(self._store.checkpoints(owner, session_id, checkpoint_id=checkpoint_id))
        return await self._restored(owner, session_id, found)

    async def latest_checkpoint(self, session_id: str, *, owner: Owner) -> Checkpoint | None:
        """The checkpoint with the highest sequence, to go on from; published as restored."""
        check_session(owner, session_id)
        return await self._restored(
            owner, session_id, await self._ask(self._store.checkpoints(owner, session_id, last=1))
        )

    async def list_checkpoints(
        self, session_id: str, *, owner: Owner, last: int | None = None
    ) -> tuple[Checkpoint, ...]:
        """All checkpoints of the session, or the `last` so many; the newest first."""
        check_session(owner, session_id)
        count = checked_count(last, "last", "checkpoints")
        found = await self._ask(self._store.checkpoints(owner, session_id, last=count))
        return tuple(checkpoint_of(session_id, stored) for stored in found)

    async def delete_checkpoint(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> bool:
        """Remove one checkpoint; whether there was one."""
        check_session(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        removed = await self._do(
            lambda: self._store.delete_checkpoints(owner, session_id, checkpoint_id=checkpoint_id), again=False
        )
        return removed > 0

    async def clear_checkpoints(self, session_id: str, *, owner: Owner) -> int:
        """Remove all checkpoints of the session; how many there were."""
        check_session(owner, session_id)
        return await self._do(lambda: self._store.delete_checkpoints(owner, session_id), again=False)

    async def fork(self, session_id: str, checkpoint_id: str, *, owner: Owner) -> Session:
        """Make a session that goes on from a checkpoint: its messages up to there, and the checkpoint as the first.

        Agent and metadata are those that the session has now. Raises `NotFound` without the checkpoint, `LimitExceeded`
        when there are too many sessions.
        """
        check_session(owner, session_id)
        check_id(checkpoint_id, "checkpoint_id")
        await self._sweep()
        new, operation = new_secret_id(), new_id()
        outcome = await self._do(
            lambda: self._store.fork(owner, session_id, checkpoint_id, new, self._quota, operation=operation)
        )
        session = await self._created(owner, session_id, outcome, part=f"checkpoint {checkpoint_id!r}")
        await self._publish(
            EventType.CHECKPOINT_RESTORED, owner, session_id, session.agent_id, checkpoint_id=checkpoint_id
        )
        return session

    async def _restored(self, owner: Owner, session_id: str, found: Sequence[StoredCheckpoint]) -> Checkpoint | None:
        if not found:
            return None
        checkpoint = checkpoint_of(session_id, found[0])
        await self._publish_checkpoint(EventType.CHECKPOINT_RESTORED, owner, checkpoint)
        return checkpoint

    async def _publish_checkpoint(self, event_type: EventType, owner: Owner, checkpoint: Checkpoint) -> None:
        await self._publish(event_type, owner, checkpoint.session_id, checkpoint_id=checkpoint.checkpoint_id)
