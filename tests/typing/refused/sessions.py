"""Whose data it is has to be said, as an `Owner`, in every call to a store."""

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    MessageBatch,
    Owner,
    Resume,
    SessionFields,
    SessionManager,
    SessionQuota,
    SessionStore,
)


async def without_owner(store: SessionStore, fields: SessionFields) -> None:
    await store.read("s1")  # E: arg-type, call-arg
    await store.read(session_id="s1")  # E: call-arg
    await store.delete("s1")  # E: arg-type, call-arg
    await store.sessions()  # E: call-arg
    await store.messages("s1", last=1)  # E: arg-type, call-arg


async def with_a_name(store: SessionStore, context: AgentContext, batch: MessageBatch) -> None:
    await store.read("ann", "s1")  # E: arg-type
    await store.count(context.user_id)  # E: arg-type
    await store.append(Owner(tenant_id=None, user_id="ann"), "s1", batch, ttl=60.0)  # E: call-arg


async def unchecked(store: SessionStore, owner: Owner, fields: SessionFields) -> int:
    await store.write(owner, "s1", fields, ttl=60.0)  # E: call-arg
    session = await store.create(owner, "s1", fields, SessionQuota(ttl=60.0), operation="o1")
    return session.version  # E: union-attr


async def managed(sessions: SessionManager, owner: Owner) -> str:
    await sessions.get("s1")  # E: call-arg
    await sessions.get("s1", owner="ann")  # E: arg-type
    await sessions.get("s1", owner)  # E: call-arg
    await sessions.messages("s1", window=20)  # E: call-arg
    await sessions.count()  # E: call-arg
    session = await sessions.get("s1", owner=owner)
    return session.agent_id  # E: union-attr


async def leased(sessions: SessionManager, owner: Owner) -> None:
    async with sessions.lease("s1") as lease:  # E: call-arg
        await sessions.append_messages("s1", [], owner=owner, lease=lease.fence)  # E: arg-type


async def asked(context: AgentContext, executor: AgentExecutor) -> None:
    await context.ask("really?")  # E: call-arg
    await executor.execute(context, resume=True)  # E: arg-type
    await executor.execute(context, resume=Resume("s1"))  # E: arg-type, call-arg
