"""Frames of the chat-completions protocol that were well formed once."""

import json
import random
from typing import Any, cast

from tests.servers.chat import USAGE

VALUES: list[Any] = [
    None,
    True,
    -1,
    2**70,
    0.5,
    "",
    "x",
    "\ud83d",
    [],
    [None],
    {},
    {"x": 1},
    [[[]]],
    float("nan"),
    "[DONE]",
]


def mutated(value: Any, rng: random.Random) -> Any:
    """`value` with one thing in it replaced, removed or doubled."""
    kind = cast("type[object]", type(value))
    if rng.random() < 0.25 or kind not in {dict, list} or not value:
        return rng.choice(VALUES)
    copy = value.copy()
    place = rng.choice(list(copy) if kind is dict else range(len(copy)))
    if rng.random() < 0.2:
        del copy[place]
    elif kind is list and rng.random() < 0.2:
        copy.insert(place, copy[place])
    else:
        copy[place] = mutated(copy[place], rng)
    return copy


def malformed(rng: random.Random) -> bytes:
    """One frame that once was well formed."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "delta": {"content": "a", "tool_calls": [call]}, "finish_reason": "stop"}
    value: Any = {"id": "x", "model": "m", "choices": [choice], "usage": dict(USAGE), "error": None}
    for _ in range(rng.randint(1, 3)):
        value = mutated(value, rng)
    data = bytearray(json.dumps(value).encode())
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)
