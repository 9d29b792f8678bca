"""`agent-runtime lint`: what is unsafe in an executor's onion, or a pipeline file."""

from typing import Annotated

import msgspec
import typer
from rich.text import Text

from agent_runtime import Finding
from agent_runtime_adapters.cli.exits import FAILED
from agent_runtime_adapters.cli.target import Onion, load_onion
from agent_runtime_adapters.cli.terminal import console, entry, printable

_STYLES = {"error": "bold red", "warning": "bold yellow"}


def lint(
    target: Onion, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False
) -> None:
    """Report unsafe orders of layers.

    Each with its code, its reason and what to do. Exit code 1 when one of them is an error.
    """
    findings = load_onion(target).lint()
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        typer.echo(msgspec.json.encode({"errors": errors, "findings": findings}).decode())
    else:
        _print(findings, errors)
    if errors:
        raise typer.Exit(FAILED)


def _print(findings: list[Finding], errors: int) -> None:
    out = console()
    for finding in findings:
        where = f"  {finding.stage} stage: {' outside '.join(finding.layers)}"
        out.print(Text.assemble((f"{finding.code} {finding.severity}", _STYLES[finding.severity]), printable(where)))
        entry(out, Text(), finding.reason, column=2)
        entry(out, Text(), f"Fix: {finding.fix}", column=2)
        out.print()
    warnings = len(findings) - errors
    out.print(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}" if findings else "Nothing found.")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
