"""What every run's input must be like, checked once, before the first layer sees it."""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from agent_runtime.context import AgentContext, ContextChanges
from agent_runtime.errors import InvalidInput, LimitExceeded, PermissionDenied
from agent_runtime.limits import Limits
from agent_runtime.types import Message, Principal

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def admit(context: AgentContext, limits: Limits, principal: Principal | None) -> ContextChanges:
    """Check `context` against `limits` and return what must change in it; `InvalidInput` or `LimitExceeded` otherwise.

    Lone surrogates in text become U+FFFD; metadata is copied, and its copy is read-only.
    """
    if context.depth > limits.depth:
        raise LimitExceeded(
            f"run depth {context.depth} is over the limit of {limits.depth} (Limits.depth)",
            details={"limit": limits.depth, "actual": context.depth},
        )
    if context.session_id is not None and _ID.fullmatch(context.session_id) is None:
        raise InvalidInput("session_id must match [A-Za-z0-9_-]{1,128}", details={"field": "session_id"})
    changes = _identity(context, principal)
    task = checked_text(context.current_task, limits, "current_task")
    if not task or task.isspace():
        raise InvalidInput("current_task is empty", details={"field": "current_task"})
    if task is not context.current_task:
        changes["current_task"] = task
    if context.messages:
        changes["messages"] = checked_messages(context.messages, limits)
    if context.metadata:
        changes["metadata"] = checked_metadata(context.metadata, limits)
    return changes


def checked_text(text: str, limits: Limits, field: str) -> str:
    """`text` as valid Unicode of at most `limits.message_bytes` bytes in UTF-8."""
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            size = len(text.encode())
    if size > limits.message_bytes:
        raise LimitExceeded(
            f"{field} has {size} bytes, the limit is {limits.message_bytes} (Limits.message_bytes)",
            details={"field": field, "limit": limits.message_bytes, "actual": size},
        )
    return text


def checked_messages(messages: tuple[Message, ...], limits: Limits) -> tuple[Message, ...]:
    """`messages` within the limits on count and size, as valid Unicode."""
    if len(messages) > limits.history_messages:
        raise LimitExceeded(
            f"{len(messages)} messages, the limit is {limits.history_messages} (Limits.history_messages)",
            details={"field": "messages", "limit": limits.history_messages, "actual": len(messages)},
        )
    checked: list[Message] = []
    total = 0
    for message in messages:
        content = checked_text(message.content, limits, "message")
        total += len(content.encode())
        checked.append(message if content is message.content else msgspec.structs.replace(message, content=content))
    if total > limits.history_bytes:
        raise LimitExceeded(
            f"the messages have {total} bytes, the limit is {limits.history_bytes} (Limits.history_bytes)",
            details={"field": "messages", "limit": limits.history_bytes, "actual": total},
        )
    return tuple(checked)


def checked_metadata(metadata: Mapping[str, Any], limits: Limits) -> Mapping[str, Any]:
    """A read-only copy of `metadata`: JSON values only, within the limits on size and depth."""
    budget = _Budget(limits)
    copy: Mapping[str, Any] = budget.copied(metadata, "metadata", 1)
    return copy


class _Budget:
    """Copies JSON values while it counts their bytes, roughly as compact JSON would have them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.metadata_bytes

    def copied(self, value: Any, path: str, depth: int) -> Any:
        if depth > self._limits.metadata_depth:
            limit = self._limits.metadata_depth
            raise LimitExceeded(
                f"{path} is nested deeper than {limit} (Limits.metadata_depth)", details={"field": path, "limit": limit}
            )
        kind: Any = value.__class__  # isinstance() would narrow to containers of unknown types
        if issubclass(kind, str):
            return self._text(value, path)
        if value is None or issubclass(kind, int | float):
            return self._number(value, path)
        if issubclass(kind, Mapping):
            items: Mapping[Any, Any] = value
            copy = {self._key(key, path): self.copied(item, f"{path}.{key}", depth + 1) for key, item in items.items()}
            return MappingProxyType(copy)
        if issubclass(kind, list | tuple):
            array: Sequence[Any] = value
            return tuple(self.copied(item, f"{path}[{place}]", depth + 1) for place, item in enumerate(array))
        raise InvalidInput(f"{path} is {kind.__name__}, which is no JSON value", details={"field": path})

    def _key(self, key: Any, path: str) -> str:
        if not isinstance(key, str):
            raise InvalidInput(f"a key of {path} is {type(key).__name__}, not str", details={"field": path})
        return self._text(key, path)

    def _text(self, text: str, path: str) -> str:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._spend(len(text.encode()) + 2, path)
        return text

    def _number(self, value: float | None, path: str) -> float | None:
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"{path} is {value!r}, which JSON does not have", details={"field": path})
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise InvalidInput(f"{path} is an integer of more than 64 bits", details={"field": path})
        self._spend(len(repr(value)), path)
        return value

    def _spend(self, size: int, path: str) -> None:
        self._left -= size + 1
        if self._left < 0:
            limit = self._limits.metadata_bytes
            raise LimitExceeded(
                f"metadata has more than {limit} bytes (Limits.metadata_bytes), reached at {path}",
                details={"field": "metadata", "limit": limit},
            )


def _identity(context: AgentContext, principal: Principal | None) -> ContextChanges:
    if principal is None:
        if context.user_id:
            _check_name("user_id", context.user_id)
        if context.tenant_id is not None:
            _check_name("tenant_id", context.tenant_id)
        return {}
    _check_name("principal.subject", principal.subject)
    if context.user_id not in ("", principal.subject) or context.tenant_id not in (None, principal.tenant):
        raise PermissionDenied("the context names another user or tenant than the principal; leave both out")
    return {"user_id": principal.subject, "tenant_id": principal.tenant}


def _check_name(field: str, name: str) -> None:
    if not (0 < len(name) <= 255 and name.isprintable()):
        raise InvalidInput(f"{field} must be 1 to 255 printable characters", details={"field": field})
