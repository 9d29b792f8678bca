"""A Redis Cluster: each call goes to the node that serves its keys, which redis-py knows."""

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

import agent_runtime_adapters.redis.fitness as fitness
from agent_runtime_adapters.redis.failures import LOST, is_unsent
from agent_runtime_adapters.redis.fitness import Durability
from agent_runtime_adapters.redis.pipeline import Call
from agent_runtime_adapters.redis.place import Place


class Cluster:
    """The nodes of a cluster, as one lane that takes any number of exchanges at once."""

    def __init__(self, place: Place, durability: Durability) -> None:
        options: dict[str, Any] = {"username": place.username, "password": place.password, **place.tls}
        self._name = place.name
        self._durability: Durability = durability
        self._client: RedisCluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in place.hosts],
            retry=Retry(NoBackoff(), 0),
            ssl=place.is_encrypted,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=None,
            **options,
        )

    async def open(self) -> None:
        """Learn who the nodes are. Raises what `fitness.check` does, of each primary."""
        client = await self._client.initialize()
        for node in client.get_primaries():
            try:
                info = cast("dict[str, object]", await node.execute_command("INFO"))
            except NoPermissionError as error:
                if self._durability == "volatile":
                    return
                raise fitness.unknown(self._name) from error
            facts = {name: str(value) for name, value in info.items()}
            fitness.check(facts, self._name, self._durability, in_cluster=True)

    async def exchange(self, calls: Sequence[Call]) -> None:
        for call in calls:
            if not call.outcome.done():
                await self._make(call)

    async def _make(self, call: Call) -> None:
        call.is_sent = True
        try:
            call.answer(await self._answer(call))
        except NoScriptError:
            call.spell_out()
        except ResponseError as error:
            call.fail(error)
        except LOST as error:
            call.is_sent = not is_unsent(error)
            raise

    async def _answer(self, call: Call) -> object:
        replies = [cast(object, await self._client.execute_command(*command)) for command in (call.command, *call.then)]
        return replies if call.then else replies[0]

    async def aclose(self) -> None:
        await self._client.aclose()
