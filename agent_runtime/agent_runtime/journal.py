"""What a run has done so far, in the order in which it was done: the entries from which it can go on elsewhere."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import anyio

from agent_runtime.errors import ErrorType, InvalidInput, LimitExceeded, Suspended
from agent_runtime.journal_items import (
    Asked,
    Began,
    JournalItem,
    ModelAnswered,
    Restarted,
    Resumed,
    StateKept,
    Stopped,
    ToolEnded,
    ToolIntended,
    ToolWithdrawn,
    decode_entry,
    encode_entry,
)
from agent_runtime.known_calls import KnownCall, decides, decision_on, digest_of, suspension
from agent_runtime.payload import plain_json
from agent_runtime.state import State
from agent_runtime.types import ModelResponse, Question, RunStatus, ToolResult

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When a checkpoint is stored: before the run goes on, behind it, or when it stops."""

_WAITING = 100  # items that may wait to be written; then the run waits


Save: TypeAlias = Callable[[int, bytes], Awaitable[None]]
"""Stores entry `number`; the same number and entry again are harmless."""


def _refused(why: str) -> InvalidInput:
    return InvalidInput(why, details={"field": "answers"})


class Journal:
    """A run's memory of its steps. With `save` it is kept in a store, and the run can be resumed.

    Attributes:
        durable: Whether there is a store.
        calls: The tool calls, by idempotency key.
        answers: What was answered, by the key of the question.
        questions: What the run has asked in this execution and has no answer to.
        failure: The last error of the store.
    """

    def __init__(
        self,
        save: Save | None = None,
        *,
        durability: Durability = "sync",
        max_bytes: int = 8 << 20,
        state: State | None = None,
    ) -> None:
        self.durable = save is not None
        self.began: Began | None = None
        self.calls: dict[str, KnownCall] = {}
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, Question] = {}
        self.questions: dict[str, Question] = {}
        self.run_ids: list[str] = []
        self.stopped: Stopped | None = None
        self.failure: Exception | None = None
        self.steps = 0
        self._save = save
        self._durability = durability
        self._max_bytes = max_bytes
        self._state = state
        self._models: dict[int, list[ModelResponse]] = {}
        self._taken: dict[int, int] = {}
        self._number = 0
        self._pending: list[JournalItem] = []
        self._noted = 0
        self._written = 0
        self._sending: tuple[int, bytes] | None = None
        self._lock: anyio.Lock | None = None  # made when it is needed: that takes longer than all the rest
        self._more: anyio.Event | None = None

    # Reading

    def load(self, entries: Iterable[bytes], what: str) -> None:
        """Take in what a store has. Raises `CorruptRecord`, with `what` in the message."""
        for entry in entries:
            self._number += 1
            for item in decode_entry(entry, f"entry {self._number} of {what}"):
                self._fold(item)

    def _fold(self, item: JournalItem) -> None:  # noqa: C901 - one line per kind of item
        match item:
            case Began():
                self.began = item
            case ModelAnswered():
                self.steps += 1
                self._models.setdefault(item.step, []).append(item.response)
            case ToolIntended():
                known = self.calls.setdefault(item.key, KnownCall(item.name, digest=item.digest))
                self.asked.pop(decision_on(item.key, known), None)
                known.intended = known.in_doubt = True
                known.starts += 1
            case ToolEnded():
                self.steps += 1
                known = self.calls.setdefault(item.key, KnownCall(item.name, digest=item.digest))
                known.ended, known.in_doubt = item, False
            case ToolWithdrawn():
                self.calls.pop(item.key, None)
            case Asked():
                self.asked = {question.key: question for question in item.questions}
            case Resumed():
                self.run_ids.append(item.run_id)
                self.answers |= item.answers
                self.stopped = None
            case Restarted():
                self._models.clear()
            case StateKept():
                if self._state is not None:
                    self._state.restore(item.values)
            case _:
                self.stopped = item

    def recorded_answer(self, step: int) -> ModelResponse | None:
        """The next recorded answer of model step `step`, once."""
        recorded = self._models.get(step, ())
        place = self._taken.get(step, 0)
        if place >= len(recorded):
            return None
        self._taken[step] = place + 1
        return recorded[place]

    def known(self, key: str, name: str, arguments: Mapping[str, Any]) -> str:
        """The key for this call, which is `key` unless another call has it; from here on the call is known by it."""
        own, times = key, 1
        while (known := self.calls.get(own)) is not None:
            if known.name == name and known.digest == digest_of(arguments):
                known.made, known.arguments = True, arguments
                return own
            times += 1
            own = f"{key}:{times}"
        self.calls[own] = KnownCall(name, arguments=arguments)
        return own

    @property
    def worth_keeping(self) -> bool:
        """Whether anything has been done that a resumed run need not do again, or must not."""
        return self.durable and bool(self.steps or self.calls or self.questions)

    @property
    def doubtful(self) -> bool:
        """Whether nobody knows what became of some call."""
        return any(known.in_doubt for known in self.calls.values())

    # Writing

    def begin(self, began: Began) -> bytes | None:
        """The first entry, for the store that gives the lease; `None` where nothing is stored before the run stops."""
        self.began = began
        if self._durability == "exit":
            self._pending.append(began)
            self._noted += 1
            return None
        self._number = 1
        return encode_entry((began,))

    async def go_on(self, run_id: str, answers: dict[str, Any]) -> None:
        """Run `run_id` goes on, with `answers`."""
        self.run_ids.append(run_id)
        self.answers |= answers
        self.stopped = None
        await self.note(Resumed(run_id=run_id, answers=answers))

    async def begin_again(self) -> None:
        """The agent starts again in the same run: it asks its model anew; what tools gave is still known."""
        self._models.clear()
        self._taken.clear()
        self.questions.clear()
        for known in self.calls.values():
            known.fresh = known.made = False
        await self.note(Restarted())

    def ask_about_doubts(self) -> None:
        """The agent has answered: of calls that were given up in their middle, nobody knows yet what became of them.

        Of one that the agent has not made this time, it is enough that somebody has said it.
        """
        for key, known in self.calls.items():
            if self.durable and known.in_doubt and (known.made or self.decision(key) is None):
                asked = self.doubt(key)
                self.questions[asked.key] = asked if known.made else self.asked.get(asked.key, asked)

    def decision(self, key: str) -> Any:
        """What a person has said became of call `key`."""
        return self.answers.get(decision_on(key, self.calls[key]))

    def doubt(self, key: str) -> Question:
        """What is asked about a call that was started and did not end."""
        known = self.calls[key]
        return Question(
            key=decision_on(key, known),
            kind="in_doubt",
            text=f"Tool {known.name!r} was started, and nobody knows whether it ended. What became of it?",
            details={"tool": known.name, "arguments": plain_json(known.arguments)},
        )

    def check_answers(self, answers: Mapping[str, Any]) -> None:
        """Refuse with `InvalidInput` what nobody asked for since, what was answered otherwise, and what decides nothing."""
        for key, answer in answers.items():
            question = self.asked.get(key)
            if key in self.answers:
                if answer != self.answers[key]:
                    raise _refused(f"{key!r} has been answered already, and otherwise")
            elif question is None:
                waits = sorted(set(self.asked) - set(self.answers))
                open_now = (
                    f"the run waits for {waits}" if waits else "no question is open: resume it without answers first"
                )
                raise _refused(f"nobody asked for {key!r}; {open_now}")
            elif question.kind == "in_doubt" and not decides(answer):
                raise _refused(
                    f"the answer to {key!r} decides nothing about a tool call in doubt: "
                    'it is "not_done", {"result": text} or {"error": text}'
                )

    def ask(self, question: Question) -> Suspended:
        """The run cannot go on without an answer: the error to raise."""
        self.questions[question.key] = question
        return suspension((question,))

    async def model_answered(self, step: int, response: ModelResponse) -> None:
        """A model call gave `response`, as the agent gets it."""
        self._models.setdefault(step, []).append(response)
        self._taken[step] = self._taken.get(step, 0) + 1
        self.steps += 1
        await self.note(ModelAnswered(step=step, response=response), behind=True)

    async def tool_intended(self, key: str) -> None:
        """An `effect` tool is about to start; on return that is stored, unless the durability is `"exit"`."""
        known = self.calls[key]
        self.asked.pop(decision_on(key, known), None)
        known.starts += 1
        known.ended = known.failure = None
        known.in_doubt = False
        known.intended = True
        await self.note(ToolIntended(key=key, name=known.name, digest=known.digest))

    async def doubt_again(self, key: str) -> None:
        """Somebody said that the call has not happened, while it is at work: that answer holds no more."""
        known = self.calls[key]
        known.starts += 1
        await self.note(ToolIntended(key=key, name=known.name, digest=known.digest))

    async def told(self, key: str, result: ToolResult) -> None:
        """The model was told `result` of a call that did not come to its function, or failed in a way that is not recorded.

        In a resumed run it is told the same. Of a call in doubt that is not what became of it, and while a question is open no
        model hears of it.
        """
        known = self.calls[key]
        if known.ended is None and not known.in_doubt and not self.questions:
            await self.note(self.end(key, result), behind=True)

    def end(
        self, key: str, result: ToolResult | None, error: str = "", error_type: ErrorType | None = None
    ) -> ToolEnded:
        """The call gave `result`, or `error` for the model; whatever is in a store, this run knows it from here on."""
        known = self.calls[key]
        digest = known.digest if self.durable else ""
        known.in_doubt = False
        self.steps += 1
        ended = known.ended = ToolEnded(
            key=key, name=known.name, digest=digest, result=result, error=error, error_type=error_type
        )
        return ended

    async def note(self, *items: JournalItem, behind: bool = False) -> None:
        """Have `items` stored; `behind` says that the run need not wait for it where the durability allows that.

        Raises what the store raises; the items are then sent again, as the same entry, with the next ones. What is too
        large for an entry, or cannot be encoded, is raised once and given up.
        """
        if self._save is None:
            return
        self._pending += items
        self._noted += len(items)
        if self._state is not None and (changed := self._state.durable_changes()):
            self._pending.append(StateKept(values=changed))
            self._noted += 1
        if self._durability == "exit":
            return
        if self._durability == "async" and behind and len(self._pending) < _WAITING:
            if self._more is not None:
                self._more.set()
            return
        await self.flush()

    async def flush(self) -> None:
        """Store all that was noted before this call."""
        save = self._save
        assert save is not None
        until = self._noted
        lock = self._lock = self._lock or anyio.Lock(fast_acquire=True)
        try:
            async with lock:
                while self._written < until:
                    if self._sending is None:
                        self._sending = self._entry(len(self._pending))
                    count, entry = self._sending
                    await save(self._number + 1, entry)
                    self._number += 1
                    self._written += count
                    self._sending = None
        except Exception as error:
            self.failure = error
            raise

    def _entry(self, count: int) -> tuple[int, bytes]:
        """Take the next `count` items, or as many as go into one entry. One that goes into none is given up."""
        try:
            entry = encode_entry(self._pending[:count])
            self._check_size(entry)
        except (LimitExceeded, TypeError, ValueError, OverflowError, RecursionError):
            if count > 1:
                return self._entry(count // 2)
            del self._pending[0]
            self._written += 1
            raise
        del self._pending[:count]
        return count, entry

    def _check_size(self, entry: bytes) -> None:
        if len(entry) > self._max_bytes:
            raise LimitExceeded(
                f"a checkpoint of {len(entry)} bytes is over the limit of {self._max_bytes} (Limits.checkpoint_bytes)",
                details={"field": "checkpoint", "limit": self._max_bytes, "actual": len(entry)},
            )

    def detach(self) -> None:
        """Nothing is stored from here on; what the run has done is still known."""
        self.durable = False
        self._save = None

    async def write_behind(self) -> None:
        """Store what is noted, until cancelled. Runs beside the run; an error ends it, and is found by the next flush."""
        while True:
            self._more = anyio.Event()
            await self.flush()
            await self._more.wait()

    async def stop(self, status: RunStatus, error_type: ErrorType | None) -> None:
        """The run ends unfinished: store that, and which of the intended tools were never started."""
        withdrawn = [
            key for key, known in self.calls.items() if known.intended and not known.in_doubt and not known.ended
        ]
        await self.note(*(ToolWithdrawn(key=key) for key in withdrawn), Stopped(status=status, error_type=error_type))
        await self.flush()
