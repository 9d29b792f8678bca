"""Redis, that keeps what it has acknowledged."""

import socket
from collections.abc import Sequence
from contextlib import closing

from tests.servers.program import HOST, Program, executable


class RedisProgram(Program):
    variable = "AGENT_RUNTIME_TEST_REDIS_URL"
    options: Sequence[str] = ("--appendonly", "yes", "--appendfsync", "always")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def command(self) -> Sequence[str]:
        program = executable("redis-server", variable=self.variable)
        place = ("--bind", HOST, "--port", str(self.port), "--dir", str(self.folder))
        return (program, *place, "--save", "", "--enable-debug-command", "local", *self.options)

    def answers(self) -> bool:
        with closing(socket.socket()) as connection:
            connection.settimeout(1)
            if connection.connect_ex((HOST, self.port)) != 0:
                return False
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
