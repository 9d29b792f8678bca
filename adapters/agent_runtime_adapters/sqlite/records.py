"""What a row holds, sealed: a damaged byte is found when the row is read."""

import zlib
from typing import TypeVar

import msgspec

from agent_runtime import CorruptRecord

T = TypeVar("T")

_SEAL = 4  # bytes, the CRC-32 of the others
_PLACES = 1 << 32
_encode = msgspec.msgpack.Encoder().encode


def encode(record: msgspec.Struct) -> bytes:
    data = _encode(record)
    return data + zlib.crc32(data).to_bytes(_SEAL)


def decode(data: object, decoder: msgspec.msgpack.Decoder[T], what: str) -> T:
    """The record. Raises `CorruptRecord`, with `what` in the message."""
    if not isinstance(data, bytes) or zlib.crc32(data[:-_SEAL]) != int.from_bytes(data[-_SEAL:]):
        raise CorruptRecord(f"{what} is damaged: its checksum is wrong")
    try:
        return decoder.decode(memoryview(data)[:-_SEAL])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptRecord(f"{what} cannot be read: it is a record of something else") from error


def parts(whole: int) -> range:
    """The ids of the parts of `whole`: they are side by side in their table, in order, and found without an index."""
    return range(whole * _PLACES, (whole + 1) * _PLACES)
