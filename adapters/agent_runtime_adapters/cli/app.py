"""The commands, put together."""

import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agent_runtime_adapters.cli.batch import batch
from agent_runtime_adapters.cli.chat import chat
from agent_runtime_adapters.cli.demo import demo
from agent_runtime_adapters.cli.doctor import doctor
from agent_runtime_adapters.cli.exits import EXIT_CODES, end_on_signals, leave, told
from agent_runtime_adapters.cli.explain import explain
from agent_runtime_adapters.cli.lint import lint
from agent_runtime_adapters.cli.plugins import plugins
from agent_runtime_adapters.cli.resume import resume
from agent_runtime_adapters.cli.run import run
from agent_runtime_adapters.cli.sessions import sessions


class _Commands(TyperGroup):
    """Every command ends as `exits` says."""

    def invoke(self, ctx: Any) -> Any:
        with told():
            return super().invoke(ctx)


app = typer.Typer(
    name="agent-runtime",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agent-runtime {version('onion-agent-runtime')}")
        raise typer.Exit


@app.callback(help=f"Run agents through an onion of layers.\n\n{EXIT_CODES}")
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(run)
app.command()(batch)
app.command()(chat)
app.command()(resume)
app.add_typer(sessions, name="sessions")
app.command()(demo)
app.command()(explain)
app.command()(lint)
app.command()(plugins)
app.command()(doctor)


def start() -> None:
    """Run the command of this process's arguments, and exit."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # closed by whoever started us
    sys.stderr = sys.stderr or Path(os.devnull).open("w")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a letter that cannot be read or shown becomes a question mark
    try:
        with told():
            end_on_signals()
            app(prog_name="agent-runtime")
    except typer.Exit as error:
        leave(error.exit_code)
    except SystemExit as error:
        leave(error.code if isinstance(error.code, int) else 0)
