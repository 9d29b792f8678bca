"""`agent-runtime batch`: a file of tasks through an executor, a few at a time, and on from where it was ended."""

import shlex
import sys
from contextlib import suppress
from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent_runtime import AgentExecutor
from agent_runtime_adapters.cli.batch_input import STANDARD, opened_input
from agent_runtime_adapters.cli.batch_output import Output, opened_output
from agent_runtime_adapters.cli.batch_plan import FINISHED, Plan
from agent_runtime_adapters.cli.batch_run import Batch, run_batch
from agent_runtime_adapters.cli.batch_summary import Summary, Tally, show
from agent_runtime_adapters.cli.built_in import built_in
from agent_runtime_adapters.cli.exits import EXIT_CODES, FAILED, CommandFailed, Interrupted
from agent_runtime_adapters.cli.place import Tenant, credential
from agent_runtime_adapters.cli.resume import Docs
from agent_runtime_adapters.cli.run import Key, Timeout, User, asked_by, check_timeout
from agent_runtime_adapters.cli.target import load_executor
from agent_runtime_adapters.cli.terminal import console, keep_logs_out, notice


def batch(
    words: Annotated[
        list[str], typer.Argument(metavar="[MODULE:ATTRIBUTE] INPUT", help="Your executor, and the file; - is a pipe.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; one that exists is gone on with.")
    ] = STANDARD,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many runs at once.")] = 8,
    retry_failed: Annotated[
        bool | None,
        typer.Option(
            "--retry-failed/--no-retry-failed",
            help="Going on, run failed lines again: all, or none. [default: those that may succeed later]",
        ),
    ] = None,
    docs: Docs = None,
    user: User = None,
    tenant: Tenant = None,
    api_key_env: Key = None,
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON document.")] = False,
) -> None:
    """Run a file of tasks, a few at a time.

    Each line of INPUT is a JSON object with a "task", and if need be "id", "metadata", "user_id" and "tenant_id"; or the
    task alone, as a JSON string. Each line of the output is a JSON object with the line's number, its id and the result,
    in the order in which the runs end.

    The same command goes on with an output that exists: it runs the lines that have no outcome there.
    """
    target, path = _parts(words)
    check_timeout(timeout)
    context = asked_by(user, tenant, None if api_key_env is None else credential(api_key_env))
    keep_logs_out()
    executor = _executor(target, docs)
    tally = Tally()
    with opened_input(path) as source, opened_output(output, source) as lines:
        plan = Plan(source, lines, tally, FINISHED[retry_failed])
        _warn(plan, source.name, lines.name)
        work = Batch(executor, source, plan, lines, tally, context=context, concurrency=concurrency, timeout=timeout)
        before = tally.ended
        code = run_batch(work, tally, plan.lines, bar=_has_bar(lines))
        summary = tally.summary(lines.name, left=plan.lines - (tally.ended - before))
        _tell(summary, lines, code, as_json=as_json)


batch.__doc__ = f"""{cleandoc(batch.__doc__ or "")}

Without MODULE:ATTRIBUTE it is the environment's model, as in the demo; with --docs, or where no model is set, the demo's
assistant.

{EXIT_CODES}"""


def _parts(words: list[str]) -> tuple[str | None, Path]:
    """The executor, if one is named, and the input."""
    if len(words) > 2 or (len(words) == 2 and ":" not in words[0]):
        raise CommandFailed(f"{' '.join(words)!r} is not [MODULE:ATTRIBUTE] INPUT")
    return (words[0] if len(words) == 2 else None), Path(words[-1])


def _executor(target: str | None, docs: Path | None) -> AgentExecutor:
    if target is None:
        return built_in(None, docs)[0]
    if docs is not None:
        raise CommandFailed(f"--docs: {target} has tools of its own")
    return load_executor(target)


def _warn(plan: Plan, source: str, output: str) -> None:
    """Tell what was found before the first run."""
    if plan.refused:
        notice(f"{plan.refused:,} of the lines cannot be run; the first is {plan.first_refusal}")
    if plan.strangers:
        notice(f"{plan.strangers:,} outcomes in {output} are of lines that {source} no longer has; they stay there")


def _has_bar(output: Output) -> bool:
    """On a terminal that does not show the results too."""
    return console(stderr=True).is_terminal and (output.lasting or not console().is_terminal)


def _tell(summary: Summary, output: Output, code: int, *, as_json: bool) -> None:
    """Print the summary, and end as the batch has ended."""
    if code:
        with suppress(OSError):  # a terminal that was closed takes none
            _print(summary, output, as_json=as_json)
        raise Interrupted(f"interrupted; {_go_on(summary, output)}", code=code)
    _print(summary, output, as_json=as_json)
    if not summary.flawless:
        if output.lasting:
            notice("the same command runs again what may succeed later; with --retry-failed, all that failed")
        raise typer.Exit(FAILED)


def _print(summary: Summary, output: Output, *, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(summary), err=not output.lasting)
    else:
        show(summary, console(stderr=not output.lasting))


def _go_on(summary: Summary, output: Output) -> str:
    if not summary.left:
        return "no line is left"
    if not output.lasting:
        return f"{summary.left:,} lines are left; with --output FILE a batch can be gone on with"
    return f"{summary.left:,} lines are left; to go on:\n{shlex.join(('agent-runtime', *sys.argv[1:]))}"
