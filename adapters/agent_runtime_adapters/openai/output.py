"""Which schemas of an answer OpenAI's strict mode takes."""

from collections.abc import Mapping
from typing import Any

# What every model with strict mode takes (OpenAI, "Structured model outputs", "Supported schemas").
_STRICT = frozenset(
    {
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "description",
        "enum",
        "items",
        "properties",
        "required",
        "title",
        "type",
    }
)


def is_strict(schema: Mapping[str, Any] | bool) -> bool:
    """Whether strict mode takes `schema`: each object closed, all its properties required, every keyword known to it."""
    if isinstance(schema, bool):
        return False
    if not _STRICT.issuperset(schema) or not _is_typed(schema):
        return False
    if "object" in schema.get("type", ()) and not _is_closed(schema):  # one type, or a list of them
        return False
    parts: list[Mapping[str, Any] | bool] = [*schema.get("anyOf", ())]
    for named in (schema.get("properties", {}), schema.get("$defs", {})):
        parts += named.values()
    if "items" in schema:
        parts.append(schema["items"])
    return all(map(is_strict, parts))


def _is_typed(schema: Mapping[str, Any]) -> bool:
    """Whether it says what it takes; beside a reference nothing else may stand."""
    return len(schema) == 1 if "$ref" in schema else "type" in schema or "anyOf" in schema


def _is_closed(schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties", {})
    return schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(properties)
