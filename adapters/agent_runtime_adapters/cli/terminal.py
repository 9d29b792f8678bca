"""What a person sees: wrapped words and calm colours on a terminal, plain text in a file or a pipe."""

import logging
import os
import sys

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_NEVER_WRAPPED = 10_000
_LOGGERS = ("agent_runtime", "agent_runtime_middleware", "agent_runtime_adapters")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Called where a broken pipe is handled: let it through, how the command ends is not for a console to say."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console for standard output or error. Lines that go into a file or a pipe are as long as they are."""
    made = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _NEVER_WRAPPED
    return made


def keep_logs_out() -> None:
    """On a terminal, no line of the runtime's log comes between the words; a handler that somebody has set gets them."""
    if sys.stderr.isatty():
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(logging.NullHandler())


def complain(message: str, *, hint: str | None = None) -> None:
    """Say on standard error what went wrong and, on a line of its own, what to do."""
    lines = [("error: ", "bold red", message)] + ([("hint:  ", "bold", hint)] if hint else [])
    for label, style, words in lines:
        console(stderr=True).print(Text.assemble((label, style), printable(words)))


def notice(message: str) -> None:
    """Say something on standard error that is no error."""
    console(stderr=True).print(Text(printable(message)))


def entry(out: Console, label: Text, words: str, *, column: int, indent: int = 0) -> None:
    """Print `label`, and `words` from `column` on, wrapped there; no line ends in spaces."""
    lines = Text(printable(words)).wrap(out, max(out.width - indent - column, 20))
    for place, line in enumerate(lines):
        start = label.copy() if place == 0 else Text()
        start.pad_right(column - start.cell_len)
        whole = Text(" " * indent) + start + line
        whole.rstrip()
        out.print(whole, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without what could steer a terminal; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


class Answer:
    """Writes text to standard output as it comes, each piece at once.

    On a terminal words are wrapped, lines start after `indent` spaces and control characters are left out; into a file or
    a pipe the text goes as it is.
    """

    def __init__(self, indent: int = 0) -> None:
        self._console = console()
        self._wraps = self._console.is_terminal
        self._width = self._console.width
        self._indent = " " * indent
        self._column = 0
        self._word = ""
        self._space = ""
        self._apart = False

    def write(self, text: str) -> None:
        """Write the next piece; on a terminal its last word waits until it is known to be whole."""
        if not text:
            return
        if self._apart:
            self._put("\n")
            self._apart = False
        if self._wraps:
            for character in printable(text):
                self._take(character)
        else:
            self._put(text)
            self._column = 0 if text.endswith("\n") else 1
        sys.stdout.flush()

    def end(self) -> None:
        """Finish the last line."""
        self._flush_word()
        self._space = ""
        if self._column:
            self._put("\n")
            self._column = 0
        sys.stdout.flush()

    def end_apart(self) -> None:
        """Finish the last line; an empty one comes before the next text."""
        self.end()
        self._apart = True

    def _take(self, character: str) -> None:
        if not character.isspace():
            self._word += character
            return
        self._flush_word()
        if character == "\n":
            self._put("\n")
            self._column = 0
            self._space = ""
        else:
            self._space += " "

    def _flush_word(self) -> None:
        if not self._word:
            return
        if not self._column:
            self._put(self._indent)
            self._column = len(self._indent)
        wanted = len(self._space) + cell_len(self._word)
        if self._column > len(self._indent) and self._column + wanted > self._width:
            self._put(f"\n{self._indent}")
            self._column, self._space = len(self._indent), ""
        self._put(f"{self._space}{self._word}")
        self._column += len(self._space) + cell_len(self._word)
        self._word = self._space = ""

    def _put(self, text: str) -> None:
        sys.stdout.write(text)


class Progress:
    """Dim lines on standard error about what goes on, on a terminal only."""

    def __init__(self, indent: int = 0) -> None:
        self._console = console(stderr=True)
        self._indent = " " * indent

    def say(self, *words: str) -> None:
        if self._console.is_terminal:
            line = Text(f"{self._indent}{'  '.join(map(printable, words))}", style="dim")
            self._console.print(line, no_wrap=True, overflow="ellipsis")
