"""A pseudo-terminal of a given width, and what a program writes to it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cli.program import COMMAND, environment, heed_ctrl_c

_PATIENCE = 120.0
_UNHEEDED = 3.0


class Terminal:
    """What a program that runs in a terminal has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self.text = ""
        self._end = end
        self._seen = 0
        self._closed = False

    def read_until(self, words: str) -> None:
        """Read until `words` are there, or the program has ended."""
        while words not in self.text and self._read():
            pass

    def finish(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(timeout=30)

    def after(self, words: str, keys: bytes = b"") -> None:
        """Read until `words` are there anew, and type; a program that ends before is a failure."""
        while words not in self.text[self._seen :] and self._read():
            pass
        place = self.text.find(words, self._seen)
        assert place >= 0, f"the program has ended, and has not said {words!r}:\n{self.text}"
        self._seen = place + len(words)
        self.press(keys)

    def after_prompt_ctrl_c(self, prompt: str) -> None:
        """Press Ctrl-C at a prompt, and once more when nothing comes of it, as a person would.

        Python's readline heeds a signal only while it waits: not one that comes just before, when the prompt is there.
        """
        self.after(prompt, b"\x03")
        while not select.select([self._end], [], [], _UNHEEDED)[0]:
            self.press(b"\x03")

    def end(self, number: signal.Signals) -> None:
        """Send a signal that ends the program, and once more when nothing comes of it, for the same reason."""
        self.process.send_signal(number)
        while not select.select([self._end], [], [], _UNHEEDED)[0]:
            self.process.send_signal(number)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._end, keys)

    def close(self) -> None:
        """Close the terminal, as a person closes its window."""
        if not self._closed:
            self._closed = True
            os.close(self._end)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._end], [], [], _PATIENCE)
        assert ready, f"the program has said nothing for {_PATIENCE} s:\n{self.text}"
        with suppress(OSError):  # Linux says "input/output error" at the end
            data = os.read(self._end, 1 << 16)
            self.text += data.decode().replace("\r\n", "\n")
            return bool(data)
        return False


@contextmanager
def terminal(*arguments: str, cwd: Path, columns: int) -> Generator[Terminal]:
    """Run the program in a terminal that is `columns` wide."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(TERM="xterm-256color"),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(its)
    screen = Terminal(process, ours)
    try:
        yield screen
    finally:
        process.kill()
        process.wait(timeout=30)
        screen.close()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C, typed, is a signal
    heed_ctrl_c()


def shown(screen: Terminal) -> str:
    """What is on the screen, without colours and without what was erased in its line; a bar is there as it was last."""
    lines = screen.text.replace("\r", "").split("\n")
    return "\n".join(without_colours(line.rpartition("\x1b[2K")[2]) for line in lines)


def without_colours(line: str) -> str:
    """`line` without escape sequences: for colours, the cursor and the pasting of text."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line)
