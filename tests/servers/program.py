"""A server's own program, on a private port of this machine and a folder of its own, that a test stops, kills and starts again."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

HOST = "127.0.0.1"
_PATIENCE = 60.0  # seconds for a server to begin or to end


class Program(ABC):
    """One server: `start`, `stop` (in good order), `kill` (as if it had crashed), `pause` and `go_on`.

    Its data stay in `folder` until `remove`.
    """

    variable: ClassVar[str]
    """The environment variable whose URL is used in the place of a server of our own."""
    ends_on: ClassVar[signal.Signals] = signal.SIGTERM
    """What its keeper sends it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agent-runtime-")) if folder is None else folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it is."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What starts it, in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes commands."""

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Return when it takes commands."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder, process_group=0)
        give_up = time.monotonic() + _PATIENCE
        while not self.answers():
            assert self._process.poll() is None, f"{self.command()[0]} ended:\n{self.log.read_text()[-4_000:]}"
            assert time.monotonic() < give_up, f"{self.command()[0]} does not answer:\n{self.log.read_text()[-4_000:]}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as its keeper would."""
        self._end(self.ends_on)

    def kill(self) -> None:
        """End it, and all processes that it has started, without a warning."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """From now on it takes connections and says nothing."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            os.waitpid(self._process.pid, os.WUNTRACED)  # until then it may still answer

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill it where it runs, and its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        self._process.wait(_PATIENCE)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


@contextmanager
def served(kind: type[Program], url: str | None = None) -> Generator[str]:
    """`url`, or that of the server that the environment names, or of one that runs until the end of the block."""
    given = url or os.environ.get(kind.variable)
    if given:
        yield given
        return
    with running(kind) as program:
        yield program.url


@contextmanager
def running(kind: type[Program]) -> Generator[Program]:
    """A server of the test's own, whatever the environment names: it may be stopped and killed."""
    program = kind()
    try:
        program.start()
        yield program
    finally:
        program.remove()


def executable(name: str, *elsewhere: Path, variable: str) -> str:
    """Where the server's program is. Fails with what can be done where there is none."""
    found = shutil.which(name) or next((str(path / name) for path in elsewhere if (path / name).is_file()), None)
    assert found is not None, (
        f"no {name} on this machine: `make servers` installs it on Debian as root; elsewhere install it, or set {variable}"
    )
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def takes_connections(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
