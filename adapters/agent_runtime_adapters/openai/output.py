"""The schema of the answer, as the protocol takes it."""

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


def response_format(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameter for `schema`; `None` for one that is not of an object, which the protocol refuses.

    It is strict where the schema allows that: every object closed and all its properties required, and no keyword of which
    strict mode knows nothing.
    """
    if schema.get("type") != "object":
        return None
    format = {"name": "output", "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": format}


def _is_strict(schema: Mapping[str, Any]) -> bool:
    if not _STRICT.issuperset(schema) or not _is_typed(schema):
        return False
    if schema.get("type") == "object" and not _is_closed(schema):
        return False
    parts: list[Mapping[str, Any]] = [*schema.get("anyOf", ())]
    for named in (schema.get("properties", {}), schema.get("$defs", {})):
        parts += named.values()
    if "items" in schema:
        parts.append(schema["items"])
    return all(map(_is_strict, parts))


def _is_typed(schema: Mapping[str, Any]) -> bool:
    """Whether it says what it takes; beside a reference nothing else may stand."""
    return len(schema) == 1 if "$ref" in schema else "type" in schema or "anyOf" in schema


def _is_closed(schema: Mapping[str, Any]) -> bool:
    properties = schema.get("properties", {})
    return schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(properties)
