"""A store says what became of a call in its type."""

from collections.abc import Sequence
from typing import Any, assert_type

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    Lease,
    Message,
    Question,
    Refusal,
    Resume,
    Session,
    SessionFields,
    SessionManager,
    SessionQuota,
    SessionStore,
    StoredSession,
    UnfinishedRun,
)


async def calls(store: SessionStore, context: AgentContext, fields: SessionFields) -> int:
    assert_type(await store.read(context.owner, "s1"), StoredSession | None)
    assert_type(await store.messages(context.owner, "s1", last=1), Sequence[Message] | None)
    session = await store.create(context.owner, "s1", fields, SessionQuota(ttl=60.0), operation="o1")
    if isinstance(session, Refusal):
        return 0
    return session.version


async def managed(sessions: SessionManager, context: AgentContext) -> None:
    session = await sessions.create(owner=context.owner, agent_id="support")
    assert_type(await sessions.get(session.session_id, owner=context.owner), Session | None)
    assert_type(await sessions.messages(session.session_id, owner=context.owner, window=20), tuple[Message, ...])


async def leased(sessions: SessionManager, context: AgentContext) -> None:
    async with sessions.lease("s1", owner=context.owner, ttl=30, wait=1) as lease:
        assert_type(lease, Lease)
        assert_type(lease.fence, int)
        await sessions.append_messages("s1", [], owner=context.owner, lease=lease)


async def resumed(executor: AgentExecutor, sessions: SessionManager, context: AgentContext) -> None:
    result = await executor.execute(context, resume=Resume(answers={"k": {"yes": True}}))
    assert_type(result.questions, tuple[Question, ...])
    assert_type(await sessions.unfinished_runs("s1", owner=context.owner), tuple[UnfinishedRun, ...])
    assert_type(await context.ask("really?", key="k"), Any)
