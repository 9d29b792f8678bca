"""The parts of the demo: titles, and facts in two columns under them."""

from rich.console import Console
from rich.text import Text

from agent_runtime_adapters.cli.terminal import entry, printable

INDENT = 3
_COLUMN = 12


def title(out: Console, words: str, note: str = "") -> None:
    """Begin a part."""
    out.print()
    out.print(Text(printable(words), style="bold"))
    if note:
        out.print(Text(note, style="dim"))
    out.print()


def facts(out: Console, *items: tuple[str, str], column: int = _COLUMN) -> None:
    """Print names and values."""
    for name, value in items:
        entry(out, Text(name, style="dim"), value, column=column, indent=INDENT)
