"""What a suspended run asks: shown, and answered at the terminal or on the command line."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
from rich.cells import cell_len
from rich.text import Text

from agent_runtime import Question, UnfinishedRun
from agent_runtime_adapters.cli.exits import CommandFailed
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.terminal import console, entry, notice, printable

NOT_DONE = "not_done"
_KINDS = {"1": "result", "2": "error", "3": NOT_DONE}
_INDENT = 2
_LONGEST = 400  # characters of a question's details


def open_questions(questions: Iterable[Question], answers: Mapping[str, Any]) -> list[Question]:
    """Those that nobody has answered."""
    return [question for question in questions if question.key not in answers]


def ask(questions: Sequence[Question], lines: Lines) -> dict[str, Any] | None:
    """What the person says to each; `None` when one is left open for later."""
    answers: dict[str, Any] = {}
    try:
        for question in questions:
            show(question)
            answers[question.key] = (_decision if question.kind == "in_doubt" else _answer)(question, lines)
    except _Later:
        return None
    return answers


def show(question: Question) -> None:
    """Print the question on standard error, with what belongs to it."""
    out = console(stderr=True)
    out.print()
    entry(out, Text("? ", style="bold"), question.text, column=2)
    hidden = "tool" if question.kind == "in_doubt" else "choices"  # the text names the one, the prompt the others
    details = {name: value for name, value in question.details.items() if name != hidden}
    column = max(map(cell_len, details), default=0) + 2
    for name, value in details.items():
        entry(out, Text(printable(name), style="dim"), _shortened(value), column=column, indent=_INDENT)


def told(questions: Sequence[Question], command: str, *, shown: int = 0) -> None:
    """Say on standard error what the run waits for, without the first ones that were `shown`, and the command that answers."""
    for question in questions[shown:]:
        show(question)
    words = " ".join(f"--answer {shlex.quote(f'{question.key}={_example(question)}')}" for question in questions)
    notice(f"\nthe run waits for an answer; go on with\n{command} {words}")
    if any(question.kind == "in_doubt" for question in questions):
        notice(
            'the answer is {"result": "..."} for a call that happened, {"error": "..."} for one that failed, '
            f'"{NOT_DONE}" for one that did not happen and is to be started'
        )


def given(words: Iterable[str]) -> dict[str, Any]:
    """The answers of `KEY=JSON`. Raises `CommandFailed`."""
    answers: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CommandFailed(f"--answer: {word!r} is not KEY=JSON", hint="""such as --answer 'approve="yes"'""")
        if key in answers:
            raise CommandFailed(f"--answer: {key!r} is answered twice")
        try:
            answers[key] = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            example = shlex.quote(f"{key}={json.dumps(value, ensure_ascii=False)}")
            raise CommandFailed(
                f"--answer: {value!r} is not JSON", hint=f"text goes into quotes: --answer {example}"
            ) from None
    return answers


def check(answers: Mapping[str, Any], run: UnfinishedRun | None) -> None:
    """Refuse with `CommandFailed` an answer that no question of the run takes, as far as that is known."""
    if run is None:
        return
    asked = {question.key: question for question in run.questions}
    if answers and not asked:
        raise CommandFailed("--answer: no question is open yet", hint="resume without --answer first")
    for key, value in answers.items():
        question = asked.get(key)
        if question is None:
            keys = ", ".join(map(repr, asked))
            raise CommandFailed(f"--answer: nobody asked for {key!r}; the run waits for {keys}")
        choices = _choices(question)
        if choices and value not in choices:
            raise CommandFailed(f"--answer: {key!r} takes one of {', '.join(map(_json, choices))}")
        if question.kind == "in_doubt" and not _decides(value):
            raise CommandFailed(
                f"--answer: {_json(value)} decides nothing about a tool call in doubt",
                hint=f'say {{"result": "..."}}, {{"error": "..."}} or "{NOT_DONE}"',
            )


class _Later(Exception):
    """The person leaves the question open."""


def _answer(question: Question, lines: Lines) -> Any:
    choices = {_word(choice).casefold(): choice for choice in _choices(question)}
    if not choices:
        return _until(lines, "answer: ", _value)
    words = ", ".join(_word(choice) for choice in _choices(question))
    return _until(lines, f"answer ({printable(words)}): ", lambda text: choices[text.casefold()])


def _decision(question: Question, lines: Lines) -> Any:
    out = console(stderr=True)
    for number, what, then in (
        ("1", "it happened", "the run goes on with the result that you type"),
        ("2", "it failed", "the model is told why, in your words"),
        ("3", "it did not happen", "the tool is started again"),
    ):
        out.print(Text.assemble("  ", (number, "bold"), f"  {what:<19}", (then, "dim")))
    kind = _until(lines, "answer (1, 2 or 3; empty decides later): ", lambda text: _KINDS[text])
    if kind == NOT_DONE:
        return kind
    what = "what came back" if kind == "result" else "why it failed"
    return {kind: _until(lines, f"{what} (empty decides later): ", str)}


def _until(lines: Lines, prompt: str, read: Callable[[str], Any]) -> Any:
    """What `read` makes of the first line for which it raises no `KeyError`."""
    while text := (lines.next(prompt) or "").strip():
        try:
            return read(text)
        except KeyError:
            notice(f"{text!r} is none of them; an empty line leaves the question open")
    raise _Later


def _value(text: str) -> Any:
    """JSON where it is JSON, text otherwise."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _choices(question: Question) -> list[Any]:
    """The answers that it takes, if its details say so: JSON values."""
    match question:
        case Question(kind="question", details={"choices": [*choices]}):
            return choices
        case _:
            return []


def _decides(value: Any) -> bool:
    decision = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    told = len(decision) == 1 and isinstance(decision.get("result", decision.get("error")), str)
    return told or bool(value == NOT_DONE)


def _example(question: Question) -> str:
    choices = _choices(question)
    if choices:
        return _json(choices[0])
    return '{"result": "..."}' if question.kind == "in_doubt" else '"..."'


def _word(choice: Any) -> str:
    return choice if isinstance(choice, str) else _json(choice)


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
