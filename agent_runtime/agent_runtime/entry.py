"""What every run's input must be like, checked once, before the first layer sees it."""

from typing import get_args

import msgspec

from agent_runtime.context import AgentContext, ContextChanges
from agent_runtime.errors import InvalidInput, LimitExceeded, PermissionDenied
from agent_runtime.limits import Limits
from agent_runtime.payload import check_id, check_name, copy_json
from agent_runtime.text import repair_text
from agent_runtime.types import Message, Principal, Role, Secret

_ROLES: tuple[str, ...] = get_args(Role)


def admit(
    context: AgentContext, limits: Limits, principal: Principal | None, *, needs_task: bool = True
) -> ContextChanges:
    """Check `context` against `limits` and return what must change in it; `InvalidInput` or `LimitExceeded` otherwise.

    Lone surrogates in text become U+FFFD; metadata is copied, and its copy is read-only.
    """
    _check_place(context, limits)
    changes = _identity(context, principal)
    task = checked_text(context.current_task, "current_task", "message_bytes", limits.message_bytes)
    if needs_task and (not task or task.isspace()):
        raise InvalidInput("current_task is empty", details={"field": "current_task"})
    if task is not context.current_task:
        changes["current_task"] = task
    if context.messages != ():
        changes["messages"] = checked_messages(context.messages, limits)
    if context.metadata != {}:
        depth = limits.metadata_depth
        changes["metadata"] = copy_json(context.metadata, "metadata", max_bytes=limits.metadata_bytes, max_depth=depth)
    return changes


def _check_place(context: AgentContext, limits: Limits) -> None:
    _check_type(context.depth, int, "depth")
    if context.depth > limits.depth:
        raise _too_much("the run's depth", context.depth, "depth", limits.depth)
    check_name(context.agent_id, "agent_id")
    if context.session_id is not None:
        check_id(context.session_id, "session_id")
    if context.parent_run_id is not None:
        check_id(context.parent_run_id, "parent_run_id")


def checked_text(text: object, field: str, limit_name: str, limit: int) -> str:
    """`text` as valid Unicode of at most `limit` bytes in UTF-8."""
    if not isinstance(text, str):
        raise InvalidInput(f"{field} is a {type(text).__name__}; it must be text", details={"field": field})
    text = repair_text(text)
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise _too_much(field, size, limit_name, limit)
    return text


def checked_messages(messages: tuple[Message, ...], limits: Limits) -> tuple[Message, ...]:
    """`messages` within the limits on count and size, as valid Unicode. A tool's message may be as large as its result."""
    _check_type(messages, tuple, "messages")
    checked = tuple(_checked_message(message, limits) for message in messages)
    if len(checked) > limits.history_messages:
        raise _too_much("messages", len(checked), "history_messages", limits.history_messages)
    total = sum(len(message.content.encode()) for message in checked)
    if total > limits.history_bytes:
        raise _too_much("messages", total, "history_bytes", limits.history_bytes)
    return checked


def _checked_message(message: object, limits: Limits) -> Message:
    if not isinstance(message, Message):
        raise InvalidInput(f"messages holds a {type(message).__name__}", details={"field": "messages"})
    if message.role not in _ROLES:
        raise InvalidInput(f"a message's role must be one of {', '.join(_ROLES)}", details={"field": "messages"})
    _check_type(message.tool_calls, tuple, "tool_calls")
    if message.role == "tool":
        content = checked_text(message.content, "message", "tool_result_bytes", limits.tool_result_bytes)
    else:
        content = checked_text(message.content, "message", "message_bytes", limits.message_bytes)
    return message if content is message.content else msgspec.structs.replace(message, content=content)


def _identity(context: AgentContext, principal: Principal | None) -> ContextChanges:
    if context.credential is not None:
        _check_type(context.credential, Secret, "credential")
    if context.user_id:
        check_name(context.user_id, "user_id")
    if context.tenant_id is not None:
        check_name(context.tenant_id, "tenant_id")
    if principal is None:
        return {}
    if context.user_id not in ("", principal.subject) or context.tenant_id not in (None, principal.tenant):
        raise PermissionDenied("the context names another user or tenant than the principal; leave both out")
    return {"user_id": principal.subject, "tenant_id": principal.tenant}


def _check_type(value: object, kind: type, field: str) -> None:
    if not isinstance(value, kind):
        raise InvalidInput(f"{field} is a {type(value).__name__}, not a {kind.__name__}", details={"field": field})


def _too_much(what: str, actual: int, limit_name: str, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"{what}: {actual} is over the limit of {limit} (Limits.{limit_name})",
        details={"field": what, "limit": limit, "actual": actual},
    )
