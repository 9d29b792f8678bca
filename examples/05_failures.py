"""What can go wrong, and what you get: a result, the error itself, a second attempt, or an end in time."""

import asyncio

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    ProviderUnavailable,
    RunCancelled,
    RunStarted,
    RunTimeout,
)
from agent_runtime.testing import ScriptedLLMClient
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

CONTEXT = AgentContext(user_id="ann", current_task="Say hello.")


async def sleepy(context: AgentContext) -> str:
    try:
        await asyncio.sleep(60)
        return "never said"
    finally:
        print("   cleaned up")


async def broken(context: AgentContext) -> str:
    return str(1 / 0)


async def main() -> None:
    print("1. a failure that the runtime knows is a result")
    executor = AgentExecutor(sleepy, middleware=[TimeoutMiddleware(run=0.05)])
    result = await executor.execute(CONTEXT)
    print("  ", result.success, result.error_type, result.retryable, result.error_details)

    print("2. or an exception, when you ask for it")
    try:
        await executor.execute(CONTEXT, raise_on_error=True)
    except RunTimeout as error:
        print("  ", type(error).__name__, "-", error.details)

    print("3. a bug is raised as it is, always")
    try:
        await AgentExecutor(broken).execute(CONTEXT)
    except ZeroDivisionError as error:
        print("  ", error)

    print("4. what may pass is tried again")
    client = ScriptedLLMClient([ProviderUnavailable("the model is overloaded"), "Hello."])
    retry = RetryMiddleware(attempts=3, delay=0.01)
    result = await AgentExecutor(config=AgentConfig(name="host"), llm_client=client, middleware=[retry]).execute(
        CONTEXT
    )
    print("  ", result.output, result.attempts, "attempts,", result.usage.requests, "requests")

    print("5. one run is cancelled by its id")
    executor = AgentExecutor(sleepy)
    async with executor.stream(CONTEXT) as stream:
        try:
            async for event in stream:
                if isinstance(event, RunStarted):
                    executor.cancel(event.run_id)  # from anywhere; `executor.runs` lists those in flight
        except RunCancelled as error:
            print("  ", type(error).__name__)

    print("6. a cancelled caller ends cancelled, after the clean-up")
    try:
        async with asyncio.timeout(0.05):
            await executor.execute(CONTEXT)
    except TimeoutError:
        print("   the caller's own timeout;", len(executor.runs), "runs left")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 1. a failure that the runtime knows is a result
#    cleaned up
#    False timeout False {'limit': 0.05, 'which': 'run'}
# 2. or an exception, when you ask for it
#    cleaned up
#    RunTimeout - {'limit': 0.05, 'which': 'run'}
# 3. a bug is raised as it is, always
#    division by zero
# 4. what may pass is tried again
#    Hello. 2 attempts, 2 requests
# 5. one run is cancelled by its id
#    cleaned up
#    RunCancelled
# 6. a cancelled caller ends cancelled, after the clean-up
#    cleaned up
#    the caller's own timeout; 0 runs left
