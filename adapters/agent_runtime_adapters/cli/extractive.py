"""A language model's place taken by a rule: it searches, reads, and quotes. No text is made up."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import msgspec

from agent_runtime import FunctionCall, Message, ModelRequest, ModelResponse, TextDelta
from agent_runtime_adapters.cli.markdown import blocks, is_code
from agent_runtime_adapters.cli.words import words

_READ = 3  # passages
_QUOTED = 2  # passages
_LONGEST = 12  # lines of one quotation


class _Found(msgspec.Struct, frozen=True):
    """What a search says about a passage, as far as it matters here."""

    file: str
    line: int
    lines: int


class _Quotation(msgspec.Struct, frozen=True, kw_only=True):
    """A block of a file, and how many different words of the question it and its heading hold."""

    file: str
    line: int
    lines: tuple[str, ...]
    hits: int


class ExtractiveClient:
    """An `LLMClient` without a model: calls `search`, then `read`, then answers with the best passages, word for word.

    It says plainly when the documents hold less than half of the question's words. Streamed, it waits `pace` seconds
    after each word, so that a person can see the stream.
    """

    def __init__(self, *, pace: float = 0.0) -> None:
        self._pace = pace

    async def complete(self, request: ModelRequest, /) -> ModelResponse:
        """Answer as a model would: first with wishes for tools, in the end with text."""
        turn = _turn(request.messages)
        question = turn[0].content
        if len(turn) == 1:
            return _wants(("search", {"query": question}))
        found = [message for message in turn if message.role == "tool" and message.name == "search"]
        read = [message for message in turn if message.role == "tool" and message.name == "read"]
        if not read:
            try:
                places = _places(found[-1].content)
            except msgspec.ValidationError:
                return await self._say(request, "The search failed, and without it there is no answer.")
            if places:
                return _wants(*(("read", place) for place in places[:_READ]))
        return await self._say(request, _answer(question, _read(turn)))

    async def _say(self, request: ModelRequest, text: str) -> ModelResponse:
        if request.stream:
            for piece in _pieces(text):
                await request.emit(TextDelta(text=piece, step=request.step))
                await anyio.sleep(self._pace)
        return ModelResponse.of(text, model="extractive")


def _turn(messages: Sequence[Message]) -> Sequence[Message]:
    """The last question and what followed it."""
    asked = max(place for place, message in enumerate(messages) if message.role == "user")
    return messages[asked:]


def _wants(*calls: tuple[str, dict[str, Any]]) -> ModelResponse:
    wanted = tuple(
        FunctionCall(id=f"call_{place}_{name}", name=name, arguments=json.dumps(arguments))
        for place, (name, arguments) in enumerate(calls)
    )
    message = Message(role="assistant", tool_calls=wanted)
    return ModelResponse(message=message, finish_reason="tool_calls", model="extractive")


def _places(found: str) -> list[dict[str, Any]]:
    """What to read, from the result of a search. Raises `msgspec.ValidationError` for the report of a failed one."""
    results = msgspec.json.decode(found, type=list[_Found])
    return [{"file": item.file, "start_line": item.line, "lines": item.lines} for item in results]


def _read(turn: Sequence[Message]) -> Iterator[tuple[str, int, list[str]]]:
    """File, first line and lines of everything that was read in this turn."""
    asked = {call.id: json.loads(call.arguments) for message in turn for call in message.tool_calls}
    for message in turn:
        if message.role == "tool" and message.name == "read" and message.tool_call_id in asked:
            place = asked[message.tool_call_id]
            yield place["file"], place["start_line"], message.content.split("\n")


def _answer(question: str, passages: Iterator[tuple[str, int, list[str]]]) -> str:
    wanted = set(words(question))
    quotations = [best for file, line, lines in passages if (best := _best(wanted, file, line, lines))]
    good = [quotation for quotation in quotations if 2 * quotation.hits >= len(wanted)]
    if not good:
        return "I found nothing in these documents that answers this."
    prose = [quotation for quotation in good if not is_code(quotation.lines)]
    return "\n\n".join(_quoted(quotation) for quotation in (prose or good)[:_QUOTED])


def _best(wanted: set[str], file: str, line: int, lines: list[str]) -> _Quotation | None:
    """The block of the passage that holds most of the wanted words."""
    heading = lines[0] if lines[0].startswith("#") else ""
    best: _Quotation | None = None
    for start, block in blocks(lines):
        hits = len(wanted & set(words("\n".join((heading, *block)))))
        if best is None or hits > best.hits:
            best = _Quotation(file=file, line=line + start, lines=block, hits=hits)
    return best


def _quoted(quotation: _Quotation) -> str:
    cut = quotation.lines[:_LONGEST]
    more = ["…"] if len(cut) < len(quotation.lines) else []
    end = "\n" if is_code(quotation.lines) else " "  # prose is one paragraph, however its source was wrapped
    return f"{quotation.file}:{quotation.line}\n" + end.join(
        [*(line if end == "\n" else line.strip() for line in cut), *more]
    )


def _pieces(text: str) -> Iterator[str]:
    """`text` word by word, each with the space before it."""
    start = 0
    for place in range(1, len(text)):
        if text[place].isspace() and not text[place - 1].isspace():
            yield text[start:place]
            start = place
    yield text[start:]
