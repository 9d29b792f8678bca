"""The part of the session manager that takes a session out as bytes and puts it into a store again."""

from hashlib import sha256
from typing import Any

import msgspec

from agent_runtime.errors import CorruptRecord, InvalidInput
from agent_runtime.ids import new_secret_id
from agent_runtime.payload import check_id, copy_json
from agent_runtime.records import decode_record, decoder_of, encode_record
from agent_runtime.session_access import SessionAccess, check_session
from agent_runtime.session_data import Session, session_of, values_of
from agent_runtime.session_store import MessageBatch, Refusal, SessionContent, StoredCheckpoint
from agent_runtime.types import Message, Owner, Value

_WHAT = "the exported session"


class ExportedCheckpoint(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint in an exported session, the oldest first."""

    checkpoint_id: str
    state: dict[str, Any]
    message_count: int


class ExportedSession(Value, frozen=True, kw_only=True, tag="session", forbid_unknown_fields=True):
    """A session outside of a store: no owner, no times, no unfinished runs. `schema` is the version of this form."""

    schema: int = 1
    session_id: str
    agent_id: str
    metadata: dict[str, Any]
    messages: tuple[Message, ...]
    checkpoints: tuple[ExportedCheckpoint, ...]
    closed: bool = False


class _Named(Value, frozen=True, tag="session"):
    session_id: str


_decoder: msgspec.msgpack.Decoder[ExportedSession] = decoder_of(ExportedSession)
_names: msgspec.msgpack.Decoder[_Named] = decoder_of(_Named)


def exported_session_id(data: bytes) -> str:
    """The id that a session had where it was exported. Raises `CorruptRecord` for what is no export."""
    return decode_record(data, _names, _WHAT).session_id


class SessionTransfer(SessionAccess):
    """See `SessionManager`."""

    async def export(self, session_id: str, *, owner: Owner) -> bytes:
        """The session with its messages and checkpoints, for `import_session`; its unfinished runs stay behind.

        Messages and checkpoints that are added while it reads may be missing. Raises `NotFound`.
        """
        check_session(owner, session_id)
        stored = await self._ask(self._store.read(owner, session_id))
        checkpoints = await self._ask(self._store.checkpoints(owner, session_id))
        messages = await self._ask(self._store.messages(owner, session_id))
        if stored is None or messages is None:
            self._refuse(Refusal.MISSING, session_id)
        return encode_record(
            ExportedSession(
                session_id=session_id,
                agent_id=stored.fields.agent_id,
                metadata=values_of(stored.fields.data, f"session {session_id!r}"),
                closed=stored.fields.closed,
                messages=tuple(messages),
                checkpoints=tuple(
                    ExportedCheckpoint(
                        checkpoint_id=item.checkpoint_id,
                        state=values_of(item.data, f"checkpoint {item.checkpoint_id!r} of session {session_id!r}"),
                        message_count=item.message_count,
                    )
                    for item in reversed(checkpoints)
                ),
            )
        )

    async def import_session(self, data: bytes, *, owner: Owner, session_id: str | None = None) -> Session:
        """Make a session of what `export` gave, under a new id or the one that is asked for, as one step.

        Its checkpoints are numbered anew, in their order. The same `data` under the same id again changes nothing, and
        gives the session as it is now, whatever happened to it since: an import that was cut short can be done again.

        Raises `CorruptRecord` for what is no such export, `InvalidInput` and `LimitExceeded` for content that could not
        have been stored, `SessionConflict` when the owner has a session of this id that was not made of this `data`.
        """
        exported = decode_record(data, _decoder, _WHAT)
        if exported.schema != 1:
            raise CorruptRecord(f"the exported session has schema {exported.schema}, and this version reads 1")
        name = new_secret_id() if session_id is None else session_id
        check_session(owner, name)
        fields = msgspec.structs.replace(self._fields(exported.agent_id, exported.metadata), closed=exported.closed)
        content = SessionContent(
            messages=self._whole(exported.messages), checkpoints=tuple(map(self._stored, exported.checkpoints))
        )
        ids = {item.checkpoint_id for item in content.checkpoints}
        if len(ids) < len(content.checkpoints) or any(
            item.message_count > len(exported.messages) for item in content.checkpoints
        ):
            raise InvalidInput("the exported session has checkpoints that do not fit together")
        await self._sweep()
        there = session_id is not None and await self._ask(self._store.read(owner, name)) is not None
        operation = sha256(data).hexdigest()
        outcome = await self._do(
            lambda: self._store.create(owner, name, fields, self._quota, operation=operation, content=content)
        )
        return session_of(owner, self._granted(outcome, name)) if there else await self._created(owner, name, outcome)

    def _whole(self, messages: tuple[Message, ...]) -> MessageBatch | None:
        if not messages:
            return None
        batch = MessageBatch.of(messages)
        for message in messages:
            self._batch((message,))
        return batch

    def _stored(self, checkpoint: ExportedCheckpoint) -> StoredCheckpoint:
        check_id(checkpoint.checkpoint_id, "checkpoint_id")
        if checkpoint.message_count < 0:
            raise InvalidInput("a checkpoint's message_count is below 0", details={"field": "message_count"})
        state = copy_json(checkpoint.state, "checkpoint", max_bytes=self._limits.checkpoint_bytes)
        return StoredCheckpoint(
            checkpoint_id=checkpoint.checkpoint_id,
            data=encode_record(state),
            sequence=0,
            message_count=checkpoint.message_count,
            created_at=0.0,
        )
