"""How answers are kept: sealed with their key, and read back only as what they were declared to be."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from agent_runtime import AgentContext, AgentResult, AnswerKey, Message, ModelRequest, ModelResponse

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """An answer as it is kept, for `lifetime` seconds. `schema` is the version of this form."""

    schema: Literal[1] = 1
    lifetime: float


class KeptResponse(Entry, frozen=True, kw_only=True, tag="response"):
    message: Message
    finish_reason: str
    model: str | None


class KeptResult(Entry, frozen=True, kw_only=True, tag="result"):
    output: str
    messages: tuple[Message, ...]
    finish_reason: str | None
    model: str | None
    metadata: dict[str, Any]


class Form(Generic[T]):
    """How answers of one stage are kept. A kept answer is sealed with its key: read under another one it is damaged."""

    def __init__(self, kind: type[Entry], answer: Callable[[Any], T]) -> None:
        self.answer = answer
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def opened(self, sealed: bytes, key: AnswerKey) -> Entry | None:
        """What was kept; `None` when it cannot be read."""
        payload = sealed[_SEAL:]
        if sealed[:_SEAL] != _seal(payload, key):
            return None
        try:
            return self._decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


def sealed_entry(entry: Entry, key: AnswerKey) -> bytes | None:
    """The bytes to keep; `None` for what cannot be encoded."""
    try:
        payload = _encode(entry)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return _seal(payload, key) + payload


def _seal(payload: bytes, key: AnswerKey) -> bytes:
    return hashlib.blake2b(payload, digest_size=_SEAL, key=bytes.fromhex(key.digest)).digest()


_SEAL = 16  # bytes


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"a {type(value).__name__} is not kept")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def response_entry(request: ModelRequest, response: ModelResponse, lifetime: float) -> Entry | None:
    """What is kept of a model's answer: whole text that is new, and fits where something of a form was asked for."""
    if response.cached or response.finish_reason != "stop" or not response.text:
        return None
    if not _fits(request, response.text):
        return None
    return KeptResponse(
        lifetime=lifetime, message=response.message, finish_reason=response.finish_reason, model=response.model
    )


def result_entry(context: AgentContext, result: AgentResult, lifetime: float) -> Entry | None:
    """What is kept of a run: the agent's own answer, and nothing that a layer or another cache gave in its place."""
    made = context.run.answered and result.served_by == "agent"
    if not made or result.finish_reason not in ("stop", None) or not result.output:
        return None
    return KeptResult(
        lifetime=lifetime,
        output=result.output,
        messages=result.messages,
        finish_reason=result.finish_reason,
        model=result.model,
        metadata=dict(result.metadata),
    )


def _fits(request: ModelRequest, text: str) -> bool:
    if request.fits is not None:
        return request.fits(text)
    return request.output_schema is None or _is_json(text)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _response(entry: KeptResponse) -> ModelResponse:
    return ModelResponse(message=entry.message, finish_reason=entry.finish_reason, model=entry.model, cached=True)


def _result(entry: KeptResult) -> AgentResult:
    return AgentResult(
        output=entry.output,
        messages=entry.messages,
        finish_reason=entry.finish_reason,
        model=entry.model,
        metadata=entry.metadata,
        served_by="cache",
    )


RESPONSES = Form(KeptResponse, _response)
RESULTS = Form(KeptResult, _result)
