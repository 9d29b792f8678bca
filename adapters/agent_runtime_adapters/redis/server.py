"""One Redis, that the stores of this folder share."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypedDict

from typing_extensions import Unpack

import agent_runtime_adapters.redis.failures as failures
from agent_runtime import AgentRuntimeError, ConfigurationError, ServerStore, StoreServer
from agent_runtime_adapters.redis.cluster import Cluster
from agent_runtime_adapters.redis.commands import Command
from agent_runtime_adapters.redis.connections import Connections
from agent_runtime_adapters.redis.fitness import Durability
from agent_runtime_adapters.redis.keys import check_prefix
from agent_runtime_adapters.redis.lua import Argument, Script
from agent_runtime_adapters.redis.pipeline import MOST_CALLS, Call, Lane, Pipelines
from agent_runtime_adapters.redis.place import place_of

Link: TypeAlias = Connections | Cluster

_LANES = 4  # pipelines in flight
_CLUSTER_LANES = 64  # calls in flight, each of one command: what a node that is down holds up is for it
_CLUSTER_SHARDS = 64
_MOST_SHARDS = 16_384  # hash slots of a cluster


class ServerOptions(TypedDict, total=False):
    """What `RedisServer` takes besides the URL."""

    prefix: str
    shards: int | None
    timeout: float
    durability: Durability


class RedisServer(StoreServer[Link]):
    """A Redis that several stores of one process may share; `StoreServer` says when it connects, and what calls raise.

    It is asked for nothing but scripts, each one step of the server and one round trip, and those of one turn of the event
    loop are sent together. redis-py repeats nothing. A server that answers that it is a replica now is left, and the next
    call finds the primary.

    Args:
        url: `redis://host:6379/0`, `redis+sentinel://host:26379,host:26379/service/0` or
            `redis+cluster://host:6379,host:6379`, and `rediss…` for TLS, with `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
            `ssl_cert_reqs` and `ssl_check_hostname` as the query. User and password are those of Redis: Sentinels are asked
            without.
        prefix: Every key begins with `{prefix:n}`, where n is the number of the shard.
        shards: Over how many hash slots owners are spread; everything of one owner is in one. `None` is 1, and 64 in a
            cluster. Who changes it finds nothing of what there is.
        timeout: Seconds for each call.
        durability: With `"durable"`, a server without `appendonly yes`, or whose `maxmemory-policy` is not `noeviction`, is a
            `ConfigurationError`. With `appendfsync everysec`, a power loss may take the last second. `"volatile"` takes any.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "agent-runtime",
        shards: int | None = None,
        timeout: float = 5.0,
        durability: Durability = "durable",
    ) -> None:
        self._place = place_of(url)
        super().__init__(self._place.name, timeout=timeout)
        self._is_cluster = self._place.kind == "cluster"
        self.shards = (_CLUSTER_SHARDS if self._is_cluster else 1) if shards is None else shards
        if not 1 <= self.shards <= _MOST_SHARDS:
            raise ConfigurationError(f"shards is {shards!r}, and must be from 1 to {_MOST_SHARDS}")
        if durability not in ("durable", "volatile"):
            raise ConfigurationError(f"durability is {durability!r}, and must be 'durable' or 'volatile'")
        self._prefix = check_prefix(prefix)
        self._durability: Durability = durability
        self._pipelines: Pipelines | None = None

    def tag(self, part: bytes) -> bytes:
        """How all keys begin that belong together with those of this `part`, which is an owner's."""
        return self.shard(zlib.crc32(part) % self.shards)

    def shard(self, number: int) -> bytes:
        """How all keys of this shard begin."""
        return b"{%s:%d}" % (self._prefix, number)

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        then: Sequence[Command] = (),
        writes: bool = True,
        repeatable: bool = False,
    ) -> Any:
        """What the script returns, text as bytes. All keys begin with the same tag.

        With `then`, commands that read and are sent right behind it, it is a list of what the script and they return: much that is only
        read comes faster without passing through a script. Others may change something in between.

        One that only reads, or is `repeatable` (run twice, it does what it does once), is run again, once, when the connection
        was lost. Raises what `do` does.
        """
        self.check()
        call = Call(script, keys, arguments, then=then, writes=writes, again=repeatable or not writes)
        return await self._open_pipelines().answered(call)

    async def connect(self) -> Link:
        link = (Cluster if self._is_cluster else Connections)(self._place, self._durability)
        try:
            await link.open()
        except BaseException:
            await link.aclose()
            raise
        return link

    async def disconnect(self, connection: Link) -> None:
        self._pipelines = None
        await connection.aclose()

    def translated(self, error: Exception) -> AgentRuntimeError | None:
        return failures.translated(error, self.name)

    def _open_pipelines(self) -> Pipelines:
        loop = asyncio.get_running_loop()
        if self._pipelines is None or self._pipelines.loop is not loop:
            lanes = _CLUSTER_LANES if self._is_cluster else _LANES
            self._pipelines = Pipelines(self, self._lane, lanes=lanes, calls=1 if self._is_cluster else MOST_CALLS)
        return self._pipelines

    async def _lane(self) -> Lane:
        link = await self.connected()
        return link.wire() if isinstance(link, Connections) else link


class RedisStore(ServerStore[RedisServer]):
    """What each store of this folder is: a `RedisServer`, its own or a shared one, and a clock."""

    def __init__(
        self,
        server: str | RedisServer,
        *,
        clock: Callable[[], float] | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        if isinstance(server, RedisServer):
            if options:
                raise ConfigurationError(f"{', '.join(options)}: set where the server that is shared is made")
            super().__init__(server, owned=False)
        else:
            super().__init__(RedisServer(server, **options), owned=True)
        self._clock = clock

    def now(self) -> bytes:
        """What scripts get as the time (`clock.lua`): nothing, where it is the server's."""
        return b"" if self._clock is None else b"%r" % self._clock()
