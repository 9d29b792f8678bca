"""Whether a deployment keeps what it acknowledges."""

from typing import Any, Literal, TypeAlias

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from agent_runtime import ConfigurationError, StoreUnavailable

Durability: TypeAlias = Literal["durable", "volatile"]

_OLDEST_WIRE = 13  # of MongoDB 5.0
_UNAUTHORIZED = 13


def is_replicated(hello: dict[str, Any]) -> bool:
    """Whether there may be a majority: a replica set, or a router before some. A standalone server knows no such thing."""
    return "setName" in hello or hello.get("msg") == "isdbgrid"


async def check(
    hello: dict[str, Any], collections: AsyncDatabase[dict[str, Any]], name: str, durability: Durability
) -> None:
    """Raise `ConfigurationError` where it is not fit, `StoreUnavailable` where it takes no writes now."""
    if hello.get("maxWireVersion", 0) < _OLDEST_WIRE:
        raise ConfigurationError(f"{name} is older than MongoDB 5.0, which the stores need")
    if not hello.get("isWritablePrimary"):
        raise StoreUnavailable(f"{name} takes no writes: it is a secondary, or has no primary")
    if not collections.write_concern.acknowledged:
        raise ConfigurationError(
            f"{name} is told by the URL not to answer writes (w=0); the stores need to be answered"
        )
    if durability == "durable" and not await _is_persistent(collections):
        raise ConfigurationError(
            f"{name} keeps its data in memory only: use another storage engine, or say durability='volatile'"
        )
    # A write that changes nothing, to see that the server takes the write concern, and this user's writes.
    await collections["counters"].update_one({"_id": "fitness"}, {"$set": {"value": 1}}, upsert=True)


async def _is_persistent(collections: AsyncDatabase[dict[str, Any]]) -> bool:
    """As the server says, where this user may ask it; routers do not know."""
    try:
        status = await collections.client.admin.command("serverStatus", repl=0, metrics=0, locks=0)
    except OperationFailure as error:
        if error.code == _UNAUTHORIZED:
            return True
        raise
    return bool(status.get("storageEngine", {}).get("persistent", True))
