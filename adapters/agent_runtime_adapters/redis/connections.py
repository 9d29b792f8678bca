"""Connections to one Redis: whichever the URL names, or is the primary by what Sentinels say."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

import agent_runtime_adapters.redis.fitness as fitness
from agent_runtime import StoreUnavailable
from agent_runtime_adapters.redis.failures import REFUSED, is_demoted, unselected
from agent_runtime_adapters.redis.fitness import Durability
from agent_runtime_adapters.redis.pipeline import Call
from agent_runtime_adapters.redis.place import Place

_SENTINEL_ANSWERS_IN = 1.0  # seconds, before the next one is asked


class Connections:
    """All connections to the Redis of one `Place`. Each is looked at when it is made: a fail-over may lead to another server."""

    def __init__(self, place: Place, durability: Durability) -> None:
        self._place = place
        self._durability: Durability = durability
        self._wires: list[Wire] = []
        self._unused: list[Wire] = []
        self._is_open = False
        self.era = 0

    async def open(self) -> None:
        """Connect once. Raises what `fitness.check` does."""
        wire = self.wire()
        await wire.open()
        self._unused.append(wire)

    def wire(self) -> "Wire":
        """A lane of its own, that connects when it is used."""
        if self._unused:
            return self._unused.pop()
        self._wires.append(Wire(self))
        return self._wires[-1]

    async def connect(self) -> Connection:
        """A connection to a server that is fit. Cancelled or failing, it is closed again."""
        place = self._place
        address = await self._primary() if place.kind == "sentinel" else place.hosts[0]
        connection = _connection(place, address, username=place.username, password=place.password, db=place.database)
        try:
            await _connect(connection)
            await self._check(connection)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, ResponseError) and (ours := unselected(error, place.name, place.database)):
                raise ours from error
            raise
        return connection

    async def aclose(self) -> None:
        for wire in self._wires:
            await wire.close()

    async def _primary(self) -> tuple[str, int]:
        """What the first Sentinel says that knows. They are asked without the user and password, which are of Redis."""
        for address in self._place.hosts:
            connection = _connection(self._place, address)
            with anyio.move_on_after(_SENTINEL_ANSWERS_IN), suppress(RedisError, OSError):
                try:
                    await _connect(connection)
                    found = await _asked(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._place.service)
                finally:
                    await connection.disconnect(nowait=True)
                if found is not None:
                    return found[0].decode(), int(found[1])
        raise StoreUnavailable(f"{self._place.name}: no Sentinel that answers knows a primary of that name")

    async def _check(self, connection: Connection) -> None:
        try:
            facts = fitness.facts_of(await _asked(connection, "INFO"))
        except NoPermissionError as error:
            if self._durability == "volatile":
                return
            raise fitness.unknown(self._place.name) from error
        fitness.check(facts, self._place.name, self._durability, in_cluster=False)
        if not self._is_open or self._place.kind == "sentinel":
            fitness.check_primary(facts, self._place.name)
        self._is_open = True  # one that has become a replica is still read, and says so itself to who writes


class Wire:
    """A connection that carries one pipeline after another."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection: Connection | None = None
        self._era = 0

    async def exchange(self, calls: Sequence[Call]) -> None:
        connection = await self.open()
        waited_for = [
            call for call in calls if not call.outcome.done()
        ]  # whoever was told that it was not sent, was not
        if not waited_for:
            return
        try:
            for call in waited_for:
                call.is_sent = True
            await connection.send_packed_command([call.data for call in waited_for], check_health=False)
            for call in waited_for:
                await self._read(connection, call)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _read(self, connection: Connection, call: Call) -> None:
        try:
            call.answer(await _replies(connection, len(call.then)) if call.then else await _reply(connection))
        except NoScriptError:
            call.spell_out()
        except (ResponseError, *REFUSED) as error:
            call.fail(error)
            if is_demoted(error):
                self._connections.era = self._era + 1  # all are made anew

    async def open(self) -> Connection:
        """The connection, made anew where it is over, or another server is the primary."""
        connection = self._connection
        if connection is not None and self._era == self._connections.era and not await _is_over(connection):
            return connection
        await self.close()
        self._era = self._connections.era
        self._connection = await self._connections.connect()
        return self._connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


async def _reply(connection: Connection) -> object:
    return cast(object, await connection.read_response(disconnect_on_error=False))


async def _replies(connection: Connection, more: int) -> list[object]:
    """What a script and so many commands behind it answer; the first error, when all have been read."""
    errors: list[Exception] = []
    replies: list[object] = []
    for _ in range(1 + more):
        try:
            replies.append(await _reply(connection))
        except (ResponseError, *REFUSED) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return replies


async def _is_over(connection: Connection) -> bool:
    """Whether the server has closed it, or said something that nobody asked for: then nothing is sent on it."""
    try:
        return await connection.can_read()
    except RedisError:
        return True


def _connection(place: Place, address: tuple[str, int], **options: Any) -> Connection:
    """Its own time limits are off: a call has one, whatever it waits for."""
    kind = SSLConnection if place.is_encrypted else Connection
    host, port = address
    return kind(
        host=host, port=port, protocol=2, socket_timeout=None, socket_connect_timeout=None, **options, **place.tls
    )


async def _connect(connection: Connection) -> None:
    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types there


async def _asked(connection: Connection, *command: str) -> Any:
    await connection.send_command(*command, check_health=False)
    return cast(Any, await connection.read_response())
