"""How a value becomes the bytes that a store keeps, and back: MessagePack in a frame that shows damage.

A frame is magic (2 bytes), schema version (1), payload length (4), CRC-32 of version and payload (4), payload. Only
declared types are decoded, so a stored record can never make code run.
"""

import struct
import zlib
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from agent_runtime.errors import CorruptRecord

T = TypeVar("T")

SCHEMA = 1
_MAGIC = b"OR"
_HEADER = struct.Struct(">2sBII")
_SIZE, _pack = _HEADER.size, _HEADER.pack


def _plain(value: object) -> object:
    if isinstance(value, MappingProxyType):
        return dict(cast("MappingProxyType[str, object]", value))
    raise TypeError(f"a {type(value).__name__} cannot be stored")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode_payload(value: object) -> bytes:
    """Encode what the caller has checked, without a frame; what MessagePack cannot hold is a `TypeError`."""
    return _encode(value)


def frame(payload: bytes) -> bytes:
    """Put the frame around an encoded value."""
    return _pack(_MAGIC, SCHEMA, len(payload), zlib.crc32(payload, SCHEMA)) + payload


def encode_record(value: object) -> bytes:
    """Encode and frame; see `encode_payload`."""
    return frame(_encode(value))


def decoder_of(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Decodes values of this type, and refuses the extension types of MessagePack, which no record of ours has."""
    return msgspec.msgpack.Decoder(kind, ext_hook=_no_extension)


def _no_extension(code: int, data: memoryview) -> NoReturn:
    raise msgspec.DecodeError(f"extension type {code}")


def decode_record(data: bytes, decoder: msgspec.msgpack.Decoder[T], what: str) -> T:
    """Check the frame and decode its payload. Raises `CorruptRecord`, with `what` in the message."""
    payload = data[_SIZE:]
    if data[:_SIZE] != _pack(_MAGIC, SCHEMA, len(payload), zlib.crc32(payload, SCHEMA)):
        raise CorruptRecord(f"{what} {_damage(data)}")
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptRecord(f"{what} cannot be read: it is a record of something else") from error


def _damage(data: bytes) -> str:
    """What is wrong with the frame."""
    if len(data) < _SIZE:
        return f"cannot be read: {len(data)} bytes are no record"
    if not data.startswith(_MAGIC):
        return "cannot be read: it does not start like a record"
    schema = data[len(_MAGIC)]
    if schema != SCHEMA:
        return f"cannot be read: its schema is {schema}, and this version reads {SCHEMA}"
    return "is damaged: length or checksum is wrong"
