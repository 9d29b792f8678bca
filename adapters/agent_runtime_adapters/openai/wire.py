"""What comes over the wire: events cut out of a stream, and an answer put together from their data."""

import json
from collections.abc import Iterator

import msgspec

from agent_runtime import (
    AgentRuntimeError,
    ChatChoice,
    ChatUsage,
    ModelAnswer,
    ProviderUnavailable,
    ReasoningDelta,
    TextDelta,
)

_MARK = b"\xef\xbb\xbf"  # with which a stream may begin


class Events:
    """Cuts a stream into the data of its server-sent events (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._rest: list[
            bytes
        ] = []  # of a line whose end has not come: joined once, so that a long one costs its length
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of each event that `piece` completes."""
        if b"\n" not in piece and b"\r" not in piece:
            self._rest.append(piece)
            return
        lines = b"".join([*self._rest, piece]).splitlines(keepends=True)
        # A carriage return may be half of a line end.
        self._rest = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            name, _, value = line.rstrip(b"\r\n").removeprefix(_MARK).partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not name and not value and self._data:
                yield b"\n".join(self._data)
                self._data = []


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[ChatChoice] | None = None
    usage: ChatUsage | None = None
    model: str | None = None
    error: _Error | str | None = None


class Answer(ModelAnswer):
    """An answer from its chunks; a whole answer is one chunk. `done` after the stream's end mark."""

    done = False

    def take(self, data: bytes) -> list[TextDelta | ReasoningDelta]:
        """What the chunk `data` adds for a reader; raises when it is not a chunk, or the provider's error."""
        if self.done or data == b"[DONE]":
            self.done = True
            return []
        try:
            # `json`, because msgspec refuses the lone surrogates of an emoji that was cut in two.
            chunk = msgspec.convert(json.loads(data), _Chunk)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise self.errors.malformed() from error
        if chunk.error is not None:
            raise self._reported(chunk.error)
        if chunk.usage is not None:
            self.usage = chunk.usage.counted()
        self.model = chunk.model or self.model
        return [delta for choice in chunk.choices or () for delta in choice.add_to(self)]

    def _reported(self, error: _Error | str) -> AgentRuntimeError:
        words = (error.code, error.type) if isinstance(error, _Error) else ()
        return self.errors.reported(words) or ProviderUnavailable(
            f"{self.errors.who} sent an error in the place of an answer"
        )
