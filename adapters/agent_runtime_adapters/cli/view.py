"""How sessions, messages and unfinished runs are shown to a person."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from agent_runtime import Message, RunStatus, Session, UnfinishedRun
from agent_runtime_adapters.cli.terminal import entry

_COLUMN = 12
_TOOL = 160  # characters of what a tool gave, where not all is wanted
_LONGEST = 1_000  # characters of a message, where not all is wanted
_UNITS = (("day", 86_400), ("h", 3_600), ("min", 60))
_ENDS = {
    RunStatus.CANCELLED: "was cancelled",
    RunStatus.TIMEOUT: "ran out of time",
    RunStatus.SUSPENDED: "waits for an answer",
}


def ago(moment: datetime) -> str:
    """How long ago, or how long until, in one unit: `3 min ago`, `in 2 days`."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, size in _UNITS:
        count = round(abs(seconds) / size)
        if count:
            what = f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
            return f"{what} ago" if seconds > 0 else f"in {what}"
    return "just now"


def when(moment: datetime) -> str:
    """The local time, and how long ago."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M} ({ago(moment)})"


def state(run: UnfinishedRun) -> str:
    """Why the run is unfinished."""
    if run.status is RunStatus.RUNNING:
        return "is under way, or its process died a moment ago" if run.held else "was cut off, its process is gone"
    return _ENDS.get(run.status) or f"failed ({run.error_type or 'a bug'})"


def at_stake(run: UnfinishedRun) -> Iterator[str]:
    """What a person should know before the run is deleted."""
    if run.status is RunStatus.RUNNING and run.held:
        yield "a run is at work on it"
    if run.questions:
        yield "a run waits for an answer"
    for name in run.in_doubt:
        yield f"a call of {name!r} is in doubt"


def table(rows: Sequence[Sequence[str]], out: Console) -> None:
    """Print rows, the first of them a heading, in columns; lines are cut at the width."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        line = Text(style="" if place else "dim")
        for cell, width in zip(row[:-1], widths, strict=False):
            line.append(cell + " " * (width - cell_len(cell) + 2))
        line.append(row[-1])
        line.rstrip()
        out.print(line, no_wrap=True, overflow="ellipsis")


def facts(out: Console, items: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    for name, value in items:
        entry(out, Text(name, style="dim"), value, column=_COLUMN)


def session_facts(session: Session) -> Iterator[tuple[str, str]]:
    """What is known of a session."""
    yield "session", session.session_id
    yield "agent", session.agent_id
    yield (
        "user",
        session.owner.user_id
        if session.owner.tenant_id is None
        else f"{session.owner.user_id} of {session.owner.tenant_id}",
    )
    yield "messages", f"{session.message_count:,}"
    yield "created", when(session.created_at)
    yield "last write", when(session.updated_at)
    yield "kept until", when(session.expires_at) + (", closed" if session.closed else "")


def unfinished_facts(run: UnfinishedRun, go_on: str) -> Iterator[tuple[str, str]]:
    """What is known of an unfinished run, and the command that goes on with it."""
    yield "run", f"{run.run_id} {state(run)}"
    yield "task", shortened(run.task)
    yield "begun", when(run.created_at)
    yield "recorded", f"{run.steps} answers of models and results of tools"
    if run.in_doubt:
        yield "in doubt", f"{', '.join(run.in_doubt)}: started, and nobody knows whether it ended"
    for question in run.questions:
        yield "asks", f"{question.key}: {question.text}"
    yield "go on with", go_on


def messages(out: Console, shown: Iterable[Message], *, whole: bool = False) -> None:
    """Print messages; what a tool gave in one line, and all that is very long cut, unless the `whole` is wanted."""
    for message in shown:
        label = Text(message.role, style="bold" if message.role == "user" else "dim")
        for words in _said(message, whole=whole):
            entry(out, label, words, column=_COLUMN)
            label = Text()


def _said(message: Message, *, whole: bool) -> Iterator[str]:
    if message.role == "tool" and not whole:
        yield shortened(f"{message.name}: {' '.join(message.content.split())}", _TOOL)
        return
    words = f"{message.name}: {message.content}" if message.role == "tool" else message.content
    if words or not message.tool_calls:
        yield words if whole else shortened(words)
    for call in message.tool_calls:
        yield shortened(f"calls {call.name} {call.arguments}", _LONGEST if whole else _TOOL)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """`text`, or its beginning and how much is missing."""
    more = len(text) - longest
    return text if more <= 0 else f"{text[:longest]}… ({more:,} characters more)"
