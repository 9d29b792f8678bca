"""Whether a Redis is fit to keep what must not be lost."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from agent_runtime import ConfigurationError, StoreUnavailable

Durability: TypeAlias = Literal["durable", "volatile"]

_VERSION = 7
_ANYWAY = "or say durability='volatile', where all of it may be lost"


def facts_of(info: bytes) -> Mapping[str, str]:
    """What the server answers to INFO."""
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def check(facts: Mapping[str, str], name: str, durability: Durability, *, in_cluster: bool) -> None:
    """Raise `ConfigurationError` with what is to be set, or `StoreUnavailable` while the server loads its data."""
    if facts.get("loading") == "1":  # when INFO says that there is no append-only file
        raise StoreUnavailable(f"{name} is still loading its data")
    major = facts.get("redis_version", "0").partition(".")[0]
    if not major.isdecimal() or int(major) < _VERSION:
        raise ConfigurationError(f"{name} is older than Redis {_VERSION}, which stores need")
    if (facts.get("redis_mode") == "cluster") != in_cluster:
        kind, scheme = ("no cluster", "redis") if in_cluster else ("a node of a cluster", "redis+cluster")
        raise ConfigurationError(f"{name} is {kind}: its URL begins with {scheme}://")
    if durability == "durable":
        _check_durable(facts, name)


def check_primary(facts: Mapping[str, str], name: str) -> None:
    if facts.get("role") != "master":
        raise StoreUnavailable(
            f"{name} is a replica, and stores need the primary: give its URL, or those of the Sentinels"
        )


def unknown(name: str) -> ConfigurationError:
    """For a server that does not let this user ask."""
    return ConfigurationError(
        f"{name} does not tell whether it is fit: let this user call INFO, {_ANYWAY}; then see to it that it has"
        " appendonly yes and maxmemory-policy noeviction"
    )


def _check_durable(facts: Mapping[str, str], name: str) -> None:
    if facts.get("aof_enabled") != "1":
        raise ConfigurationError(f"{name} loses what it has acknowledged when it ends: set appendonly yes, {_ANYWAY}")
    policy = facts.get("maxmemory_policy")
    if policy != "noeviction":
        raise ConfigurationError(
            f"{name} drops keys when its memory is full (maxmemory-policy): set noeviction, {_ANYWAY}"
        )
