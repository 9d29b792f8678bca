"""The layers around an agent stand in `pipeline.toml`; the program gives the objects that a file cannot hold."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_runtime import AgentConfig, AgentContext, AgentExecutor, ConfigurationError, MiddlewarePipeline
from agent_runtime.testing import ScriptedLLMClient
from agent_runtime_middleware.auth import ApiKeys
from agent_runtime_middleware.logging import LogRecord

FILE = Path(__file__).with_name("pipeline.toml")


def log(record: LogRecord) -> None:
    if record.event == "agent_run":
        print("   [log]", record.user_id, record.outcome, record.error_type or "")


KEY, RECORD = ApiKeys.generate("ann")
RESOURCES = {"log": log, "keys": ApiKeys({RECORD.prefix: RECORD})}


async def answered() -> None:
    pipeline = MiddlewarePipeline.from_config(FILE, resources=RESOURCES)
    client = ScriptedLLMClient(["Hello."], repeat=True)
    executor = AgentExecutor(config=AgentConfig(name="host"), llm_client=client, middleware=pipeline)
    print(executor.explain().replace(str(FILE), FILE.name))
    print(executor.lint(), "findings")
    for task in ("Hi", "Hi" * 200, "Hi", "Hi"):
        result = await executor.execute(AgentContext(credential=KEY, current_task=task))
        print("  ", result.output or (result.error or "").partition(";")[0])


def refused(wrong: str, right: str) -> None:
    """What is wrong in a file is said when it is loaded, with its line."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.toml")
        file.write_text(FILE.read_text("utf-8").replace(right, wrong), "utf-8")
        try:
            MiddlewarePipeline.from_config(file, resources=RESOURCES)
        except ConfigurationError as error:
            print(str(error).replace(str(file), file.name).partition(";")[0])


if __name__ == "__main__":
    asyncio.run(answered())
    refused('use = "timeuot"', 'use = "timeout"')
    refused("max_character = 200", "max_characters = 200")
    refused('per = "an hour"', "per = 3_600")

# Output:
# agent host
# run stage
#   LoggingMiddleware (logging) from agent_runtime_middleware.logging.LoggingMiddleware, declared in pipeline.toml:3
#     AuthMiddleware (auth) from agent_runtime_middleware.auth.AuthMiddleware, declared in pipeline.toml:7
#       ValidationMiddleware (validation) from agent_runtime_middleware.validation.ValidationMiddleware, declared in pipeline.toml:11
#         RateLimitMiddleware (rate_limit) from agent_runtime_middleware.rate_limit.layer.RateLimitMiddleware, declared in pipeline.toml:15
#           TimeoutMiddleware (timeout) from agent_runtime_middleware.timeout.TimeoutMiddleware, declared in pipeline.toml:22
#             = the agent
# model stage
#   LoggingMiddleware (logging) from agent_runtime_middleware.logging.LoggingMiddleware, declared in pipeline.toml:3
#     RateLimitMiddleware (rate_limit) from agent_runtime_middleware.rate_limit.layer.RateLimitMiddleware, declared in pipeline.toml:15
#       = the model client
# [] findings
#    [log] ann success
#    Hello.
#    [log] ann failure limit
#    current_task has 400 characters
#    [log] ann success
#    Hello.
#    [log] ann failure rate_limit
#    quota '2 requests per 3600 s by user' is used up (limit 2 per 3600 s)
# pipeline.toml:23: layer 5 ('timeuot'): no installed distribution offers a layer 'timeuot' (did you mean 'timeout'?)
# pipeline.toml:13: layer 3 ('validation'): option 'max_character' is unknown (did you mean 'max_characters'?)
# pipeline.toml:17: layer 4 ('rate_limit'): option 'quotas': expected `float`, got `str` at [0].per
