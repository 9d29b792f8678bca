"""A conversation of the OpenAI Agents SDK in our sessions. Needs the `openai-agents` extra."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, cast

from agent_runtime import (
    CorruptRecord,
    InvalidInput,
    Lease,
    Message,
    NotFound,
    Owner,
    Session,
    SessionConflict,
    SessionManager,
)

try:
    from agents import TResponseInputItem
    from agents.memory import SessionSettings
except ImportError as error:
    raise ImportError(
        "OpenAIAgentsSession needs the OpenAI Agents SDK: pip install 'onion-agent-runtime[openai-agents]'"
    ) from error

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

_ITEM = "openai_agents.item"  # a message's name: its content is an item, as JSON
_POPPED = "openai_agents.popped"  # the item before it is taken back; the content is its digest
_ROLES: dict[str, Role] = {"user": "user", "system": "system", "developer": "system"}
_ATTEMPTS = 200  # of a compare-and-set; each failed one means that somebody else's write succeeded


class OpenAIAgentsSession:
    """The SDK's `Session` protocol over `sessions`: `Runner.run(agent, "Hello", session=OpenAIAgentsSession(...))`.

    It is one session of `owner`, whose id matches `[A-Za-z0-9_-]{1,128}`; it is made by the first item, and lives for the
    manager's `ttl` since the last one. The manager's limits hold: on messages for items, on sessions.

    What several processes add at once is all there, each call's items together. An item is popped by one. A popped item is no
    longer part of the conversation; it is erased with it, by `clear_session` or expiry.

    Under a `lease` of the session nobody else adds and pops, and nothing is written when it is over.

    Raises the runtime's errors: `StoreUnavailable` for an outage, which is never an empty conversation; `SessionConflict` while
    somebody holds the session's lease.
    """

    def __init__(
        self,
        session_id: str,
        sessions: SessionManager,
        *,
        owner: Owner,
        agent_id: str = "openai-agents",
        session_settings: SessionSettings | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.session_id = session_id
        self.session_settings: SessionSettings | None = session_settings or SessionSettings()
        self._sessions = sessions
        self._owner = owner
        self._agent_id = agent_id
        self._lease = lease

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """The conversation, or its last `limit` items, by default those that `session_settings` says; the oldest first."""
        if limit is None and self.session_settings is not None:
            limit = self.session_settings.limit
        if limit is not None and limit < 0:
            raise InvalidInput(f"limit is {limit!r}; it must be 0 or more items", details={"field": "limit"})
        return [_item(message) for message in await self._last(limit)]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Add all of the items or, cancelled or failing, none. Raises `InvalidInput` for what is no JSON."""
        messages = [_message(item) for item in items]
        if not messages:
            return
        for _ in range(_ATTEMPTS):
            try:
                await self._append(messages)
            except NotFound:  # new, or cleared, or expired
                await self._sessions.open(self.session_id, owner=self._owner, agent_id=self._agent_id)
                continue
            return
        raise self._busy()

    async def pop_item(self) -> TResponseInputItem | None:
        """Take the last item back, and return it; `None` when there is none."""
        for _ in range(_ATTEMPTS):
            session = await self._sessions.get(self.session_id, owner=self._owner)
            messages = await self._last(1)
            if session is None or not messages:
                return None
            popped = Message(role="tool", name=_POPPED, content=_digest(messages[-1]))
            try:
                await self._append([popped], expected=session.message_count)
            except (NotFound, SessionConflict):
                if not await self._has_changed(session):
                    raise
                continue
            return _item(messages[-1])
        raise self._busy()

    async def clear_session(self) -> None:
        """Erase the conversation, as one step."""
        await self._sessions.delete(self.session_id, owner=self._owner)

    async def _last(self, count: int | None) -> Sequence[Message]:
        """The last messages that are items and not popped; reads the end of the conversation only."""
        window = count
        while True:
            try:
                found = await self._sessions.messages(self.session_id, owner=self._owner, window=window)
            except NotFound:
                return []
            left = _left(found, self.session_id)
            if count is None or window is None:
                return left
            if len(found) < window or len(left) >= count:
                return left[max(0, len(left) - count) :]
            window *= 2

    async def _append(self, messages: Sequence[Message], *, expected: int | None = None) -> None:
        await self._sessions.append_messages(
            self.session_id, messages, owner=self._owner, expected=expected, lease=self._lease
        )

    async def _has_changed(self, before: Session) -> bool:
        now = await self._sessions.get(self.session_id, owner=self._owner)
        return now is None or (now.message_count, now.created_at) != (before.message_count, before.created_at)

    def _busy(self) -> SessionConflict:
        return SessionConflict(f"session {self.session_id!r} changes all the time", retryable=True)


def _left(messages: Iterable[Message], session_id: str) -> list[Message]:
    """The items that are not popped.

    Read from the end, so that the part of a conversation gives the end of what the whole does. What takes back another item
    than the one before it was meant for a conversation that has been cleared since.
    """
    left: list[Message] = []
    popped: list[str] = []
    for message in reversed([*messages]):
        if message.name == _POPPED:
            popped.append(message.content)
        elif message.name != _ITEM:
            raise InvalidInput(
                f"session {session_id!r} has messages of something else; give the conversation a session of its own"
            )
        elif not _is_popped(message, popped):
            left.append(message)
    return left[::-1]


def _is_popped(message: Message, popped: list[str]) -> bool:
    digest = _digest(message) if popped else ""
    while popped:
        if popped.pop() == digest:
            return True
    return False


def _message(item: TResponseInputItem) -> Message:
    try:
        text = json.dumps(item, ensure_ascii=False)
        if not _is_unicode(text):
            text = json.dumps(item)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("an item is not JSON", details={"field": "items"}) from error
    return Message(role=_role(cast("object", item)), name=_ITEM, content=text)


def _role(item: object) -> Role:
    """What the item is called where people read the session."""
    if not isinstance(item, dict):
        raise InvalidInput("an item is no mapping", details={"field": "items"})
    fields = cast("dict[str, object]", item)
    if "output" in fields:
        return "tool"
    return _ROLES.get(str(fields.get("role")), "assistant")


def _item(message: Message) -> TResponseInputItem:
    try:
        item: TResponseInputItem = json.loads(message.content)
    except (ValueError, RecursionError) as error:
        raise CorruptRecord("an item of the conversation is damaged") from error
    return item


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(message: Message) -> str:
    return hashlib.sha256(message.content.encode()).hexdigest()[:32]
