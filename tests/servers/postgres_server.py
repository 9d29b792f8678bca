"""PostgreSQL, which does not run as root: there it runs as the user `postgres` of the distribution's package."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.servers.program import HOST, Program, executable

_INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class PostgresProgram(Program):
    variable = "AGENT_RUNTIME_TEST_POSTGRES_URL"
    ends_on = signal.SIGINT  # without waiting for its clients to leave

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            if os.geteuid() == 0:
                shutil.chown(self.folder, "postgres")
            made = (
                _program("initdb"),
                "--auth=trust",
                "--username=postgres",
                "--no-sync",
                "--encoding=UTF8",
                str(data),
            )
            subprocess.run(_as_postgres(made), check=True, capture_output=True, cwd=self.folder)
        super().start()

    def command(self) -> Sequence[str]:
        options = (
            "-c",
            f"listen_addresses={HOST}",
            "-c",
            f"unix_socket_directories={self.folder}",
            "-c",
            "max_connections=200",
            "-c",
            "shared_preload_libraries=pg_stat_statements",
        )
        return _as_postgres((_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options))

    def answers(self) -> bool:
        asked = subprocess.run([_program("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)], check=False)
        return asked.returncode == 0

    def _signal(self, number: signal.Signals) -> None:
        # Each of its processes is a group of its own, and only what nobody can catch is not passed on by the first.
        children = _children(self._process.pid) if self._process is not None and number != self.ends_on else ()
        super()._signal(number)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, number)


def _children(process: int) -> Sequence[int]:
    found = subprocess.run(("pgrep", "-P", str(process)), check=False, capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def _program(name: str) -> str:
    return executable(name, *_INSTALLED, variable=PostgresProgram.variable)


def _as_postgres(command: Sequence[str]) -> Sequence[str]:
    return (
        ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command) if os.geteuid() == 0 else command
    )
