"""Any SQL over the connections of a `PostgresDatabase`."""

from agent_runtime_adapters.postgres import PostgresDatabase
from agent_runtime_adapters.postgres.connections import Connections


async def execute(database: PostgresDatabase, script: str) -> None:
    """Run it, with the schema in the place of `agent_runtime.`."""

    async def executed(connections: Connections) -> None:
        connection = await connections.take()
        try:
            await connection.execute(script.replace("agent_runtime.", f"{database.schema}."))
        finally:
            connections.give(connection)

    await database.do(executed)


async def fetch(database: PostgresDatabase, query: str) -> list[tuple[object, ...]]:
    """The rows, with the schema in the place of `agent_runtime.`."""

    async def fetched(connections: Connections) -> list[tuple[object, ...]]:
        connection = await connections.take()
        try:
            rows = await connection.fetch(query.replace("agent_runtime.", f"{database.schema}."))
            return [tuple(row) for row in rows]
        finally:
            connections.give(connection)

    return await database.do(fetched, writes=False)
