"""Lines that a person types, or that come through a pipe."""

import sys
from typing import TextIO

from agent_runtime_adapters.cli import late


class Lines:
    """The lines of standard input. On a terminal they can be edited, where Python has readline.

    Attributes:
        typed: Whether a person types them.
    """

    def __init__(self) -> None:
        self._input: TextIO | None = sys.stdin  # `None` when it was closed by whoever started us
        self.typed = self._input is not None and self._input.isatty()
        self._edited = self.typed and sys.stdout.isatty()
        if self._edited:
            late.line_editing()

    def next(self, prompt: str) -> str | None:
        """The next line without its end, `None` when there is no more. A person sees `prompt`; Ctrl-C is passed on."""
        if self._input is None:
            return None
        if self._edited:
            try:
                return input(prompt)
            except EOFError:
                sys.stdout.write("\n")
                return None
        if self.typed:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = self._input.readline()
        return line.rstrip("\r\n") if line else None
