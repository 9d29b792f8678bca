"""What data an option takes, as msgspec sees it: which structs and dataclasses, and what is right at a place inside."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec

from agent_runtime.plugins import suggestion

ANY_KEY = "..."
"""As a step into a mapping: msgspec does not say which key."""

_UNKNOWN = "Object contains unknown field "
_NO_MEMBER = "Invalid enum value "


def info_of(hint: Any) -> msgspec.inspect.Type | None:
    """What msgspec makes of `hint`; `None` for what it cannot take."""
    try:
        return msgspec.inspect.type_info(hint)
    except TypeError:
        return None


def nodes(info: object, *, fields: bool = True) -> Iterator[msgspec.inspect.Type]:
    """`info` and all types inside it, each once; those of the fields of a struct only with `fields`."""
    pending = [info]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, tuple):
            pending.extend(reversed(node))  # pyright: ignore[reportUnknownArgumentType]  # of types and fields
        elif isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field) and id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, msgspec.inspect.Type):
                yield node
            if fields or not hasattr(node, "fields"):
                pending.extend(getattr(node, name) for name in node.__struct_fields__)


def structs_in(hint: Any) -> list[msgspec.inspect.StructType | msgspec.inspect.DataclassType]:
    """The structs and dataclasses that `hint` takes; those inside of their fields are theirs."""
    found = nodes(info_of(hint), fields=False)
    return [node for node in found if isinstance(node, msgspec.inspect.StructType | msgspec.inspect.DataclassType)]


def advice(hint: Any, steps: Sequence[str | int], reason: str) -> tuple[str, tuple[str, ...]]:
    """What would be right where msgspec gives `reason` at `steps`, and the way on from there to what is wrong."""
    found = _at(info_of(hint), steps)
    if reason.startswith(_UNKNOWN):
        name = reason.removeprefix(_UNKNOWN).strip("`")
        return _known(name, [field.encode_name for node in found for field in getattr(node, "fields", ())]), (name,)
    if reason.startswith(_NO_MEMBER):
        return _known(reason.removeprefix(_NO_MEMBER).strip("'"), [word for node in found for word in _words(node)]), ()
    return "", ()


def _known(name: str, known: Sequence[str]) -> str:
    return f"{suggestion(name, known)}; there are: {', '.join(known)}" if known else ""


def _words(node: object) -> list[str]:
    if isinstance(node, msgspec.inspect.LiteralType):
        return [str(value) for value in node.values]
    if isinstance(node, msgspec.inspect.EnumType):
        members: list[Enum] = list(node.cls)
        return [str(member.value) for member in members]
    return []


def _at(info: object, steps: Sequence[str | int]) -> list[object]:
    """The types that a value at `steps` may have."""
    found = list(_members(info))
    for step in steps:
        found = [member for node in found for inner in _inner(node, step) for member in _members(inner)]
    return found


def _members(info: object) -> Iterator[object]:
    if isinstance(info, msgspec.inspect.UnionType):
        for member in info.types:
            yield from _members(member)
    elif isinstance(info, msgspec.inspect.Metadata):
        yield from _members(info.type)
    else:
        yield info


def _inner(node: object, step: str | int) -> list[object]:
    if step == ANY_KEY and isinstance(node, msgspec.inspect.DictType):
        return [node.value_type]
    if isinstance(step, str):
        return [field.type for field in getattr(node, "fields", ()) if field.encode_name == step]
    if isinstance(node, msgspec.inspect.TupleType):
        return [*node.item_types[step : step + 1]]
    return [getattr(node, "item_type", None)]
