"""How much an object holds on to."""

import gc
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any, cast

_ELSEWHERE = (type, ModuleType, CodeType, FrameType, BuiltinFunctionType)
_CONTAINERS = (dict, list, set, deque)
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
_MACHINERY = frozenset({"anyio", "asyncio", "_asyncio", "trio", "logging", "threading"})  # of it a way leads anywhere


def sizes(root: object) -> dict[str, int]:
    """How many objects can be reached from `root`, by the name that leads to them first.

    Names are those of its attributes, those of its classes, and the containers of its module.
    """
    seen = {id(root)}
    found: dict[str, int] = {}
    for name, value in _attributes(root):
        found[name] = found.get(name, 0) + _count(value, seen)
    return found


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """By how many objects each attribute has grown."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def _attributes(root: object) -> Iterable[tuple[str, object]]:
    if isinstance(root, FunctionType):
        yield from ((f"closure {place}", cell) for place, cell in enumerate(root.__closure__ or ()))
    yield from getattr(root, "__dict__", {}).items()
    for kind in type(root).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, MemberDescriptorType):
                yield name, getattr(root, name, None)
            elif not callable(value):
                yield name, value
    module = sys.modules.get(getattr(root, "__module__", ""))
    for name, value in getattr(module, "__dict__", {}).items():
        if isinstance(value, _CONTAINERS) and not name.startswith("__"):
            yield name, value


def _count(value: object, seen: set[int]) -> int:
    count, waiting = 0, deque([value])
    while waiting:
        thing = waiting.popleft()
        if type(thing) in _ATOMS:  # counted where it is held: whether two counters share one `3` says nothing of growth
            count += 1
            continue
        if id(thing) in seen or isinstance(thing, _ELSEWHERE) or _root(type(thing)) in _MACHINERY:
            continue
        seen.add(id(thing))
        count += 1
        waiting.extend(_parts(thing))
    return count


def _parts(thing: object) -> Iterable[Any]:
    if isinstance(thing, FunctionType):
        return (*(thing.__closure__ or ()), thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
    if isinstance(thing, dict):  # whose keys the collector does not follow when all of them are text
        return (*cast("dict[object, object]", thing), *gc.get_referents(thing))
    return gc.get_referents(thing)


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]
