"""A command as the bytes that are sent."""

from collections.abc import Callable
from typing import cast

import hiredis

from agent_runtime_adapters.redis.lua import Argument

packed = cast(
    "Callable[[tuple[Argument, ...]], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType] - its stub says a tuple of one, and no result
)
"""Raises `TypeError` for what is neither bytes, text nor a number."""
