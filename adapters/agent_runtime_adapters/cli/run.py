"""`agent-runtime run`: one task through an executor of yours."""

import math
from contextlib import suppress
from functools import partial
from typing import Annotated

import anyio
import msgspec
import typer

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    Owner,
    Secret,
)
from agent_runtime_adapters.cli.exits import EXIT_CODES, FAILED, WAITS, CommandFailed, Interrupted
from agent_runtime_adapters.cli.place import DEFAULT_USER, Database, Place, Tenant, credential, remembering
from agent_runtime_adapters.cli.questions import told
from agent_runtime_adapters.cli.streaming import run_to_end, streamed
from agent_runtime_adapters.cli.target import load_executor
from agent_runtime_adapters.cli.terminal import Answer, Progress, keep_logs_out

Target = Annotated[
    str, typer.Argument(metavar="MODULE:ATTRIBUTE", help="An AgentExecutor, or a function that makes one.")
]

User = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="Whose run it is. [default: local, or the key's owner]")
]
Key = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="The environment variable that holds the credential."),
]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="When the run must have ended.")]


def run(
    target: Target,
    task: Annotated[str, typer.Argument(metavar="TASK", help="What the user asks.")],
    user: User = None,
    tenant: Tenant = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="The conversation to go on with.")] = None,
    db: Database = None,
    api_key_env: Key = None,
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document at the end.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer at the end, in one piece.")] = False,
) -> None:
    """Run a task through an executor of yours."""
    keep_logs_out()
    executor = load_executor(target) if session is None else remembering(target, db)
    check_timeout(timeout)
    key = None if api_key_env is None else credential(api_key_env)
    context = asked_by(user, tenant, key).replace(current_task=task, session_id=session)
    whose = _Whose(Owner(tenant_id=tenant, user_id=user or DEFAULT_USER))
    if key is not None:
        with suppress(ConfigurationError):  # a pipeline that is sealed: what is told names the owner that was given
            executor.pipeline.add(whose)
    resume = partial(_resume_command, session or "", whose, target=target, db=db, api_key_env=api_key_env)
    try:
        result = run_to_end(_execute, executor, context, timeout, not (as_json or no_stream))
    except Interrupted as error:
        go_on = f"; to go on from what it has finished:\n{resume()}" if session else ""
        raise Interrupted(f"{error}{go_on}", code=error.code) from None
    if as_json:
        print_json(result)
    elif no_stream and result.success:
        answer = Answer()
        answer.write(result.output)
        answer.end()
    if result.questions:
        told(result.questions, resume())
        raise typer.Exit(WAITS)
    if not result.success:
        raise failure(result)


run.__doc__ = f"{run.__doc__}\n\n{EXIT_CODES}"


def check_timeout(seconds: float | None) -> None:
    """Raise `CommandFailed` for a timeout that is none."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise CommandFailed(f"--timeout: {seconds:g} is not a number of seconds above zero")


def asked_by(user: str | None, tenant: str | None, key: Secret | None) -> AgentContext:
    """A context for whom the options name; with a key and no user, its owner."""
    return AgentContext(user_id=user or ("" if key else DEFAULT_USER), tenant_id=tenant, credential=key)


class _Whose(BaseMiddleware):
    """The innermost layer: it sees whose run it is, also where an Auth layer says so."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.owner = context.owner
        return await call_next(context)


def _resume_command(session_id: str, whose: _Whose, *, target: str, db: str | None, api_key_env: str | None) -> str:
    owner = whose.owner
    place = Place(session_id, user=owner.user_id, tenant=owner.tenant_id, target=target, db=db, api_key_env=api_key_env)
    return place.command("resume")


async def _execute(executor: AgentExecutor, context: AgentContext, seconds: float | None, stream: bool) -> AgentResult:
    if seconds is not None:
        context = context.replace(deadline=anyio.current_time() + seconds)
    async with executor:
        return await (streamed(executor, context, Answer(), Progress()) if stream else executor.execute(context))


def failure(result: AgentResult) -> CommandFailed:
    """What a failed run has to say."""
    wait = "" if result.retry_after is None else f"try again in {result.retry_after:g} s"
    again = wait or ("the same call may succeed later" if result.retryable else "")
    return CommandFailed(f"{result.error} ({result.error_type})", hint=again or None, code=FAILED)


def print_json(result: AgentResult) -> None:
    """Print a result as one JSON document."""
    record = msgspec.to_builtins(result.to_record())  # leaves out what has its default, and a success is one
    typer.echo(msgspec.json.encode({"success": result.success, **record}).decode())
