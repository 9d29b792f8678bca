"""Several Redis servers that belong together: a cluster, and a primary with its replica and a Sentinel."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from tests.servers.program import HOST, free_port
from tests.servers.redis_server import RedisProgram

SLOTS = 16_384
SERVICE = "mine"
_PATIENCE = 30.0  # seconds for servers to agree


class ClusterNode(RedisProgram):
    """A server that is to be a node of a cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = free_port()

    def command(self) -> Sequence[str]:
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", "1000")
        return (*super().command(), *cluster)


class SentinelProgram(RedisProgram):
    """One that alone decides that `primary` is gone, after 0.2 s."""

    def __init__(self, primary: RedisProgram) -> None:
        super().__init__()
        self._primary = primary

    def command(self) -> Sequence[str]:
        file = self.folder / "sentinel.conf"
        file.write_text(
            f"bind {HOST}\nport {self.port}\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} {HOST} {self._primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 200\nsentinel failover-timeout {SERVICE} 1000\n"
        )
        program, *_ = super().command()
        return (program, str(file), "--sentinel")


@contextmanager
def cluster(masters: int) -> Generator[Sequence[ClusterNode]]:
    """Nodes, each a primary of as many slots."""
    with ExitStack() as stack:
        nodes = [ClusterNode() for _ in range(masters)]
        for number, node in enumerate(nodes):
            stack.callback(node.remove)
            node.start()
            first, after = number * SLOTS // masters, (number + 1) * SLOTS // masters
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            ask(node, "CLUSTER", "MEET", HOST, nodes[0].port, nodes[0].bus)
        agreed(lambda: all("cluster_state:ok" in text(ask(node, "CLUSTER", "INFO")) for node in nodes))
        agreed(lambda: all(text(ask(node, "CLUSTER", "NODES")).count("connected") == masters for node in nodes))
        yield nodes


@contextmanager
def watched() -> Generator[tuple[RedisProgram, RedisProgram, SentinelProgram]]:
    """A primary, its replica, and a Sentinel that knows both."""
    with ExitStack() as stack:
        primary, replica = RedisProgram(), RedisProgram()
        sentinel = SentinelProgram(primary)
        for program in (primary, replica):
            stack.callback(program.remove)
            program.start()
        ask(replica, "REPLICAOF", HOST, primary.port)
        agreed(lambda: "master_link_status:up" in text(ask(replica, "INFO", "replication")))
        stack.callback(sentinel.remove)
        sentinel.start()
        agreed(lambda: len(ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)) == 1)
        yield primary, replica, sentinel


def ask(program: RedisProgram, *command: str | int) -> Any:
    with Redis(host=HOST, port=program.port, protocol=2) as client:
        client.response_callbacks.clear()
        return cast(Any, client.execute_command(*command))


def text(reply: bytes) -> str:
    return reply.decode()


def agreed(is_so: Callable[[], bool]) -> None:
    """Return when it is so."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        with suppress(RedisError):
            if is_so():
                return
        assert time.monotonic() < give_up, "the servers do not agree"
        time.sleep(0.02)
