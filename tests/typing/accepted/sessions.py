"""A store says what became of a call in its type."""

from collections.abc import Sequence
from typing import assert_type

from agent_runtime import (
    AgentContext,
    Message,
    Refusal,
    Session,
    SessionFields,
    SessionManager,
    SessionQuota,
    SessionStore,
    StoredSession,
)


async def calls(store: SessionStore, context: AgentContext, fields: SessionFields) -> int:
    assert_type(await store.read(context.owner, "s1"), StoredSession | None)
    assert_type(await store.messages(context.owner, "s1", last=1), Sequence[Message] | None)
    session = await store.create(context.owner, "s1", fields, SessionQuota(ttl=60.0))
    if isinstance(session, Refusal):
        return 0
    return session.version


async def managed(sessions: SessionManager, context: AgentContext) -> None:
    session = await sessions.create(owner=context.owner, agent_id="support")
    assert_type(await sessions.get(session.session_id, owner=context.owner), Session | None)
    assert_type(await sessions.messages(session.session_id, owner=context.owner, window=20), tuple[Message, ...])
