"""So many requests and so many tokens in a time: who is refused, by which quota, and when to come back."""

import asyncio

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, EventBus, EventType, SystemEvent, Usage
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware

QUOTAS = [
    Quota(requests=3, per=3_600),  # of each user, in an hour: one comes back every 20 minutes
    Quota(tokens=2_000, per=86_400, by="tenant", reserve=500, name="the tenant's plan"),
]


def on_refusal(event: SystemEvent) -> None:
    print("   event:", event.event_type, event.user_id, event.metadata["quota"])


async def main() -> None:
    reply = ScriptedReply(text="Hello.", usage=Usage(input_tokens=60, output_tokens=340))
    client = ScriptedLLMClient([reply], repeat=True)
    bus = EventBus()
    await bus.subscribe(EventType.RATE_LIMITED, on_refusal)
    executor = AgentExecutor(
        config=AgentConfig(
            name="host", timeout=5
        ),  # seconds: too few to wait for tokens, so the refusal is told at once
        llm_client=client,
        middleware=[RateLimitMiddleware(QUOTAS)],
        event_bus=bus,
    )

    async def ask(user: str, tenant: str) -> None:
        result = await executor.execute(AgentContext(user_id=user, tenant_id=tenant, current_task="Hi"))
        print(f"{user} of {tenant}:", result.output or result.error_type)
        if result.retry_after is not None:
            details = result.error_details
            minutes = round(result.retry_after / 60)
            print("  ", details["remaining"], "left of", details["limit"], "- try again in", minutes, "minutes")
        await bus.drain()  # only for a tidy output

    async with executor:
        for user in ("ann", "ann", "ann", "ann", "bob", "cid"):
            await ask(user, "acme")
        await ask("cid", "birch")  # a person of that name in another tenant
    print(len(client.requests), "calls of the model")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# ann of acme: Hello.
# ann of acme: Hello.
# ann of acme: Hello.
# ann of acme: rate_limit
#    0 left of 3 - try again in 20 minutes
#    event: rate_limited ann 3 requests per 3600 s by user
# bob of acme: Hello.
# cid of acme: rate_limit
#    400 left of 2000 - try again in 73 minutes
#    event: rate_limited cid the tenant's plan
# cid of birch: Hello.
# 5 calls of the model
