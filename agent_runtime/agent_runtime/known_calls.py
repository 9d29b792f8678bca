"""What a run knows of its tool calls, and what may be said of one that was started and did not end."""

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from agent_runtime.errors import Suspended, ToolFailed
from agent_runtime.journal_items import ToolEnded
from agent_runtime.types import Question, ToolResult

NOT_DONE = "not_done"


def digest_of(arguments: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that are the same for the same JSON object."""
    return hashlib.sha256(msgspec.json.encode(arguments, order="deterministic")).hexdigest()[:32]


def suspension(questions: tuple[Question, ...]) -> Suspended:
    """The error of a run that waits for answers."""
    keys = ", ".join(repr(question.key) for question in questions)
    return Suspended(f"the run waits for an answer to {keys}: go on with Resume(answers={{...}})", questions=questions)


def decision_on(key: str, known: "KnownCall") -> str:
    """The key under which is asked what became of call `key`: a new one for each start, which an older answer does not fit.

    It is not the call's own, by which a layer may ask about it.
    """
    return f"in_doubt:{key}:{known.starts}"


def decides(answer: object) -> bool:
    """Whether `answer` says what became of a call in doubt: `"not_done"`, `{"result": text}` or `{"error": text}`."""
    if not isinstance(answer, dict):
        return answer == NOT_DONE
    said = cast("dict[str, Any]", answer)
    return len(said) == 1 and isinstance(said.get("result", said.get("error")), str)


class KnownCall:
    """What is known of one tool call, by its idempotency key.

    Attributes:
        arguments: What the agent passed.
        ended: What it gave.
        failure: The error with which it ended, in the process where it did.
        in_doubt: Whether it was started, or may have been, and nobody knows how it ended.
        starts: How often it was started, or may have been.
        fresh: Whether it was first made in this execution of the agent.
        made: Whether it was made in this execution, first or again.
        running: Whether somebody is at work on it, here and now: of an effect, nobody else may be.
    """

    __slots__ = (
        "_digest",
        "arguments",
        "ended",
        "failure",
        "fresh",
        "in_doubt",
        "intended",
        "made",
        "name",
        "running",
        "starts",
    )

    def __init__(self, name: str, *, arguments: Mapping[str, Any] | None = None, digest: str = "") -> None:
        self.name = name
        self.ended: ToolEnded | None = None
        self.failure: Exception | None = None
        self.intended = False
        self.in_doubt = False
        self.starts = 0
        self.fresh = self.made = arguments is not None
        self.running = False
        self.arguments: Mapping[str, Any] = arguments or {}
        self._digest = digest

    @property
    def digest(self) -> str:
        """The digest of the arguments that the agent passed."""
        if not self._digest:
            self._digest = digest_of(self.arguments)
        return self._digest

    @property
    def recorded(self) -> bool:
        """Whether what it gave is known from before this execution of the agent."""
        return self.ended is not None and not self.fresh

    def replay(self) -> ToolResult:
        """The recorded result, or the recorded failure raised again."""
        if self.failure is not None:
            raise self.failure
        assert self.ended is not None
        if self.ended.result is not None:
            return self.ended.result
        failure = ToolFailed(self.ended.error)
        vars(failure)["error_type"] = self.ended.error_type or failure.error_type
        raise failure
