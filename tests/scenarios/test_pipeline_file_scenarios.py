"""Scenario 31: a pipeline that is loaded from a file."""

import sys
from pathlib import Path

import pytest

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    ConfigurationError,
    MiddlewarePipeline,
    ProviderUnavailable,
    Secret,
    Stage,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord
from agent_runtime_middleware.rate_limit import Quota, RateLimitMiddleware
from agent_runtime_middleware.retry import RetryMiddleware
from agent_runtime_middleware.timeout import TimeoutMiddleware

FILE = """\
layers:
  - use: logging
    write: {resource: log}
    bodies: true
  - use: auth
    authenticators: [{resource: keys}]
  - use: rate_limit
    quotas:
      - {requests: 3, per: 3600}
  - use: retry
    attempts: 2
    delay: 0
  - use: timeout
    name: patience
    model: 0.05
"""
KEY, RECORD = ApiKeys.generate("ann")
KEYS = ApiKeys({RECORD.prefix: RECORD})


def in_code(log: list[str]) -> MiddlewarePipeline:
    return MiddlewarePipeline(
        [
            LoggingMiddleware(lambda record: log.append(told(record)), bodies=True),
            AuthMiddleware(KEYS),
            RateLimitMiddleware([Quota(requests=3, per=3600)]),
            RetryMiddleware(attempts=2, delay=0),
            TimeoutMiddleware(model=0.05).named("patience"),
        ]
    )


def from_file(file: Path, log: list[str]) -> MiddlewarePipeline:
    def write(record: LogRecord) -> None:
        log.append(told(record))

    return MiddlewarePipeline.from_config(file, resources={"keys": KEYS, "log": write})


def told(record: LogRecord) -> str:
    return f"{record.event} {record.outcome} {record.user_id} {record.attempts} {record.task} {record.output}"


def executor(pipeline: MiddlewarePipeline) -> AgentExecutor:
    script: list[str | Exception | ScriptedReply] = [
        ProviderUnavailable("overloaded"),
        "Hello.",
        ScriptedReply(chunks=("Wait", 5.0, "for it")),
        ScriptedReply(chunks=("Wait", 5.0, "for it")),
        ScriptedReply(chunks=("And ", "again.")),
    ]
    return AgentExecutor(config=AgentConfig(name="host"), llm_client=ScriptedLLMClient(script), middleware=pipeline)


def ask(credential: Secret | None) -> AgentContext:
    return AgentContext(current_task="Say it.", credential=credential)


async def behaviour(pipeline: MiddlewarePipeline, log: list[str]) -> list[object]:
    """What callers and the log see of five runs: retried, refused, too slow, streamed, over the limit."""
    seen: list[object] = []
    async with executor(pipeline) as host:
        seen += [outcome(await host.execute(ask(credential))) for credential in (KEY, None, KEY)]
        async with host.stream(ask(KEY)) as stream:
            seen.append([type(event).__name__ async for event in stream])
        seen.append(outcome(await host.execute(ask(KEY))))
    return [*seen, *log]


def outcome(result: AgentResult) -> tuple[object, ...]:
    return result.output, result.error_type, result.attempts, result.usage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(FILE, "utf-8")
    return path


async def test_s31_a_pipeline_from_a_file_behaves_as_the_same_in_code(file: Path) -> None:
    code_log: list[str] = []
    file_log: list[str] = []
    written = await behaviour(in_code(code_log), code_log)
    loaded = await behaviour(from_file(file, file_log), file_log)
    assert loaded == written
    assert [line.split()[1] for line in code_log if line.startswith("agent_run")] == [
        "success",
        "failure",
        "failure",
        "success",
        "failure",
    ]


def test_s31_it_has_the_same_layers_and_says_where_each_is_from(file: Path) -> None:
    for stage in Stage:
        here, there = in_code([]).layers(stage), from_file(file, []).layers(stage)
        assert [(one.name, one.kind, one.origin) for one in here] == [(one.name, one.kind, one.origin) for one in there]
        assert all(layer.declared.startswith(f"{file}:") for layer in there)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("use: retry", "use: retries", "10:5: layer 4 ('retries'): no installed distribution offers a layer 'retries'"),
        ("attempts: 2", "attempt: 2", "11:5: layer 4 ('retry'): option 'attempt' is unknown (did you mean 'attempts'?)"),
        ("attempts: 2", "attempts: two", "11:5: layer 4 ('retry'): option 'attempts': expected `int`, got `str`"),
        ("attempts: 2", "attempts: 0", "10:5: layer 4 ('retry'): RetryMiddleware(attempts=0): the first attempt counts"),
        ("requests: 3", "requets: 3", "9:10: layer 3 ('rate_limit'): option 'quotas': object contains unknown field `requets`"),
    ],
)  # fmt: skip
def test_s31_an_unknown_type_or_option_fails_at_load_with_its_place(
    file: Path, before: str, after: str, place: str
) -> None:
    file.write_text(FILE.replace(before, after, 1), "utf-8")
    with pytest.raises(ConfigurationError) as raised:
        from_file(file, [])
    assert str(raised.value).startswith(f"{file}:{place}")


@pytest.mark.parametrize(
    "use",
    [
        "os.system",
        "subprocess:run",
        "agent_runtime_middleware.timeout:TimeoutMiddleware",
        "TimeoutMiddleware",
        "!!python/object/apply:os.abort []",
        "antigravity",
    ],
)
def test_s31_only_what_is_registered_can_be_made(file: Path, use: str) -> None:
    file.write_text(f"layers:\n  - use: {use}\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"no installed distribution offers|tags such as .* are refused"):
        MiddlewarePipeline.from_config(file)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("option", ["write: print", "write: {resource: print}", "write: !!python/name:builtins.print"])
def test_s31_no_option_reaches_an_object_that_the_program_does_not_give(file: Path, option: str) -> None:
    file.write_text(f"layers:\n  - use: logging\n    {option}\n", "utf-8")
    with pytest.raises(ConfigurationError):
        MiddlewarePipeline.from_config(file)
