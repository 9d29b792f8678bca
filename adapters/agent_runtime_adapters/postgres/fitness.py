"""Whether a server keeps what it acknowledges."""

from typing import Literal, TypeAlias

from agent_runtime import ConfigurationError, StoreUnavailable
from agent_runtime_adapters.postgres.connections import Connection

Durability: TypeAlias = Literal["durable", "volatile"]

_OLDEST = 13
_SETTINGS = """
SELECT current_setting('server_version_num')::int / 10000 AS version,
       current_setting('server_encoding') AS encoding,
       current_setting('default_transaction_isolation') AS isolation,
       pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool AS read_only,
       current_setting('fsync')::bool AND current_setting('synchronous_commit') <> 'off' AS durable
"""


async def check(connection: Connection, name: str, durability: Durability) -> None:
    """Raise `ConfigurationError` where it is not fit, `StoreUnavailable` where it takes no writes now."""
    found = await connection.fetchrow(_SETTINGS)
    assert found is not None
    if found["version"] < _OLDEST:
        raise ConfigurationError(f"{name} is version {found['version']}; the stores need {_OLDEST} or later")
    if found["encoding"] != "UTF8":
        raise ConfigurationError(f"the database at {name} is encoded in {found['encoding']}; the stores need UTF8")
    if found["read_only"]:
        raise StoreUnavailable(f"{name} takes no writes: it is a replica, or was made read-only")
    if found["isolation"] != "read committed":
        raise ConfigurationError(
            f"{name} has default_transaction_isolation {found['isolation']!r}; the stores lock what they change, and need"
            " 'read committed': ALTER ROLE … SET default_transaction_isolation = 'read committed'"
        )
    if durability == "durable" and not found["durable"]:
        raise ConfigurationError(
            f"{name} may lose what it acknowledges: set fsync and synchronous_commit on, or say durability='volatile'"
        )


async def is_pooled(connection: Connection) -> bool:
    """Whether something stands between, and gives each transaction to any process of the server's."""
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())
