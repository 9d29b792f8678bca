"""Refuse tasks and metadata that are empty, too long, too deep, or not what the service takes."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from agent_runtime import (
    AgentContext,
    AgentResult,
    BaseMiddleware,
    CallNext,
    ConfigurationError,
    InvalidInput,
    LayerKind,
    LimitExceeded,
)

_SHOWN_PLACES = 5
_SHOWN = 40  # characters of one step of a place


class ValidationMiddleware(BaseMiddleware):
    """Lets a run in when its task, its conversation and its metadata are within their bounds; `None` sets no bound.

    Args:
        max_characters: Of the task, counted as code points: an emoji may be several.
        max_bytes: Of the task in UTF-8.
        max_messages: That the context brings along; those of a session do not count.
        max_depth: Of the metadata; the mapping itself is the first level.
        metadata: What the metadata must be: any type that pydantic takes. What it does with unknown keys is its own
            business, and so is whether `"3"` is an integer. Layers and agent see the metadata as it came.

    Refuses an empty task and metadata of another form with `InvalidInput`, and what is over a bound with `LimitExceeded`;
    the error names places, bounds and counts, and shows nothing of a value. It judges no content, and never the model's
    answer.

    Cost: a few comparisons; where `metadata` is given, one pass over the metadata.
    Order: outside everything that costs, inside auth. The executor's `Limits` hold in any case, before the first layer.
    """

    kind = LayerKind.VALIDATION

    def __init__(
        self,
        *,
        max_characters: int | None = 10_000,
        max_bytes: int | None = None,
        max_messages: int | None = None,
        max_depth: int | None = None,
        metadata: Any = None,
    ) -> None:
        limits = {"max_characters": max_characters, "max_bytes": max_bytes, "max_depth": max_depth}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ConfigurationError(f"ValidationMiddleware({name}={limit!r}): at least 1")
        if max_messages is not None and max_messages < 0:
            raise ConfigurationError(f"ValidationMiddleware(max_messages={max_messages!r}): at least 0")
        self.max_characters = max_characters
        self.max_bytes = max_bytes
        self.max_messages = max_messages
        self.max_depth = max_depth
        self.metadata = metadata
        self._metadata = None if metadata is None else _adapter(metadata)

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        task = context.current_task
        resumed = context.run.resume is not None  # may leave both out: those that it began with are used
        if not resumed and (not task or task.isspace()):
            raise InvalidInput("current_task is empty", details={"field": "current_task"})
        _check("current_task", "characters", len(task), self.max_characters, "max_characters")
        if self.max_bytes is not None:
            _check("current_task", "bytes", len(task.encode()), self.max_bytes, "max_bytes")
        _check("messages", "messages", len(context.messages), self.max_messages, "max_messages")
        if self.max_depth is not None:
            _check("metadata", "levels", _depth(context.metadata), self.max_depth, "max_depth")
        if self._metadata is not None and (context.metadata or not resumed):
            _check_form(context.metadata, self._metadata)
        return await call_next(context)


def _adapter(metadata: Any) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(metadata)
        adapter.rebuild(raise_errors=True)
    except (PydanticUserError, NameError, SyntaxError, TypeError) as error:
        raise ConfigurationError(
            f"ValidationMiddleware(metadata={metadata!r}) is no type for pydantic: {error}"
        ) from error
    return adapter


def _check(field: str, unit: str, actual: int, limit: int | None, option: str) -> None:
    if limit is not None and actual > limit:
        raise LimitExceeded(
            f"{field} has {actual} {unit}; the maximum is {limit} (ValidationMiddleware.{option})",
            details={"field": field, "limit": limit, "actual": actual},
        )


def _depth(value: Any) -> int:
    """How many levels of containers; the executor has bounded them (Limits.metadata_depth)."""
    kind: Any = value.__class__  # isinstance() would narrow to containers of unknown types
    if issubclass(kind, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if issubclass(kind, list | tuple) else 0


def _check_form(metadata: Mapping[str, Any], adapter: TypeAdapter[Any]) -> None:
    try:
        adapter.validate_json(json.dumps(metadata, default=dict))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    else:
        return
    places = ["metadata" + "".join(f"[{step!r:.{_SHOWN}}]" for step in problem["loc"]) for problem in problems]
    shown = ", ".join(places[:_SHOWN_PLACES])
    more = f" and at {len(places) - _SHOWN_PLACES} more places" if len(places) > _SHOWN_PLACES else ""
    raise InvalidInput(
        f"the metadata does not fit at {shown}{more}", details={"field": places[0], "problems": places[:_SHOWN_PLACES]}
    )
