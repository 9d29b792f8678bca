"""What was said, in the JSON form of the GenAI conventions: only for spans, and only where the user asks for it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent_runtime import Message


def messages_json(messages: Iterable[Message], limit: int) -> str:
    """The newest of `messages` with at most `limit` characters of text together, the rest cut or left out."""
    shown: list[dict[str, Any]] = []
    for message in reversed(tuple(messages)):
        if limit <= 0:
            break
        parts, limit = _parts(message, limit)
        shown.append({"role": message.role, "parts": parts})
    return json.dumps(shown[::-1])


def arguments_json(arguments: Mapping[str, Any], limit: int) -> str:
    """The arguments of a tool call as JSON text, cut; what is no JSON is named by its type only."""
    return json.dumps(dict(arguments), default=lambda value: f"<{type(value).__name__}>")[:limit]


def _parts(message: Message, limit: int) -> tuple[list[dict[str, str | None]], int]:
    parts: list[dict[str, str | None]] = []
    text, limit = message.content[:limit], limit - len(message.content)
    if message.role == "tool":
        parts.append({"type": "tool_call_response", "id": message.tool_call_id, "response": text})
    elif text:
        parts.append({"type": "text", "content": text})
    for call in message.tool_calls:
        arguments, limit = call.arguments[: max(limit, 0)], limit - len(call.arguments)
        parts.append({"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments})
    return parts, limit
