"""Typed values that the layers of one run share."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, overload

from agent_runtime.payload import copy_json, plain_json

T = TypeVar("T")
D = TypeVar("D")

_MAX_BYTES = 8 << 20


class StateKey(Generic[T]):
    """A typed name for one value in `context.run.state`; two keys are equal only when they are the same object.

    The value of a `durable` key holds JSON values; it is kept with the run's checkpoints and there again, under the key's
    name, when the run is resumed.
    """

    __slots__ = ("durable", "name")

    def __init__(self, name: str, *, durable: bool = False) -> None:
        self.name = name
        self.durable = durable

    def __repr__(self) -> str:
        return f"StateKey({self.name!r})"


class State:
    """What layers of one run tell each other; gone when the run ends, except for the values of durable keys.

    The value of a durable key is taken as it is when it is set: set it again after a change. What is not JSON is
    `InvalidInput`, and more than 8 MiB of it `LimitExceeded`.
    """

    __slots__ = ("_changed", "_restored", "_values")

    def __init__(self) -> None:
        self._values: dict[StateKey[Any], Any] = {}
        self._changed: dict[str, Any] = {}
        self._restored: dict[str, Any] = {}

    def __getitem__(self, key: StateKey[T]) -> T:
        if key.durable and key not in self._values and key.name in self._restored:
            self._values[key] = self._restored[key.name]
        value: T = self._values[key]
        return value

    def __setitem__(self, key: StateKey[T], value: T) -> None:
        if key.durable:
            self._changed |= plain_json(copy_json({key.name: value}, "checkpoint", max_bytes=_MAX_BYTES))
        self._values[key] = value

    def __contains__(self, key: StateKey[Any]) -> bool:
        return key in self._values or (key.durable and key.name in self._restored)

    @overload
    def get(self, key: StateKey[T]) -> T | None: ...
    @overload
    def get(self, key: StateKey[T], default: D) -> T | D: ...
    def get(self, key: StateKey[Any], default: object = None) -> object:
        return self[key] if key in self else default

    def durable_changes(self) -> dict[str, Any]:
        """What durable keys were set to since the last call, by name."""
        changed, self._changed = self._changed, {}
        return changed

    def restore(self, values: Mapping[str, Any]) -> None:
        """Have durable keys of these names give these values, unless this run has set them already."""
        self._restored |= values
