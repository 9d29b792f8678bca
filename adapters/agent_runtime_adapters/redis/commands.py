"""A command as the bytes that are sent."""

from collections.abc import Callable
from typing import TypeAlias, cast

try:
    import hiredis
except ImportError as error:
    raise ImportError("stores in Redis need hiredis: pip install 'onion-agent-runtime[redis]'") from error

from agent_runtime_adapters.redis.lua import Argument

Command: TypeAlias = tuple[Argument, ...]

packed = cast(
    "Callable[[Command], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType] - its stub says a tuple of one, and no result
)
"""Raises `TypeError` for what is neither bytes, text nor a number."""
