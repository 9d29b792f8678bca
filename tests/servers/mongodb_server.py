"""A server that speaks MongoDB's protocol over MongoDB's storage engine, in a process of its own.

It is not MongoDB: a real one is used where the environment names it.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.program import HOST, Program, executable, takes_connections


class MongoDBProgram(Program):
    """It says that it is a replica set of one, and has transactions."""

    variable = "AGENT_RUNTIME_TEST_MONGODB_URL"
    ends_on = signal.SIGKILL  # it heeds nothing milder
    options: Sequence[str] = ()

    @property
    def url(self) -> str:
        return f"mongodb://{HOST}:{self.port}/?directConnection=true"

    def command(self) -> Sequence[str]:
        program = executable("secantusd-py", Path(sys.executable).parent, variable=self.variable)
        place = ("--host", HOST, "--port", str(self.port), "--storage-path", str(self.folder / "data"))
        return (program, *place, "--sync-on-commit", "--enable-test-commands", "--log-level", "WARNING", *self.options)

    def answers(self) -> bool:
        return takes_connections(self.port)


class StandaloneMongoDB(MongoDBProgram):
    """A deployment without transactions."""

    options = ("--standalone",)
