from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import CorruptRecord, ErrorKind, ErrorType, MessageBatch
from agent_runtime.records import decode_record, decoder_of, encode_record, frame
from agent_runtime.types import Message

VALUES = msgspec.msgpack.Decoder(dict[str, int])


def decode(data: bytes) -> dict[str, int]:
    return decode_record(data, VALUES, "record 'r'")


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63)))
def test_a_value_comes_back_from_its_record(value: dict[str, int]) -> None:
    assert decode(encode_record(value)) == value


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_changed_byte_is_found_wherever_it_is(place: int, change: int) -> None:
    record = bytearray(encode_record({"a": 1, "b": 2}))
    record[place % len(record)] ^= change
    with pytest.raises(CorruptRecord, match="record 'r'"):
        decode(bytes(record))


RECORD = encode_record({"a": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        RECORD[:10],
        RECORD[:-1],
        RECORD + b"x",
        b'{"a": 1}' * 3,
        frame(msgspec.msgpack.encode(["a", 1])),
        frame(msgspec.msgpack.encode({"a": "text"})),
        frame(b""),
        frame(b"\x81\xa1\xff\x01"),  # text that is no UTF-8
        frame(b"\x81\xa3\xed\xa0\x80\x01"),  # half a surrogate pair
    ],
)
def test_what_is_no_record_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode(data)


@pytest.mark.parametrize("code", [0, 42, 127, -2, -128])
def test_an_extension_type_is_refused_also_where_any_value_may_stand(code: int) -> None:
    foreign = msgspec.msgpack.encode({"a": [msgspec.msgpack.Ext(code, b"x")]})
    with pytest.raises(CorruptRecord):
        decode_record(frame(foreign), decoder_of(dict[str, Any]), "it")


def test_a_nest_of_a_hundred_thousand_lists_is_refused() -> None:
    anything = msgspec.msgpack.Decoder()
    with pytest.raises(CorruptRecord) as refused:
        decode_record(frame(b"\x91" * 100_000 + b"\xc0"), anything, "it")
    assert isinstance(refused.value.__cause__, RecursionError)


def test_a_record_of_a_newer_version_is_refused_with_its_number() -> None:
    record = bytearray(encode_record({}))
    record[2] = 9
    with pytest.raises(CorruptRecord, match="schema is 9"):
        decode(bytes(record))


def test_a_damaged_record_is_the_stores_fault_and_trying_again_does_not_help() -> None:
    error = CorruptRecord("x")
    assert (error.kind, error.error_type, error.retryable) == (ErrorKind.UNAVAILABLE, ErrorType.STORE, False)


def test_an_object_is_not_stored() -> None:
    with pytest.raises(TypeError, match="object"):
        encode_record({"a": object()})


def test_messages_come_back_from_what_a_store_kept() -> None:
    messages = (Message(role="user", content="hi"), Message(role="assistant", content="ü"))
    batch = MessageBatch.of(messages)
    assert MessageBatch.stored(batch.data) == batch.messages == messages
    assert "hi" not in repr(batch)
    with pytest.raises(CorruptRecord, match="conversation"):
        MessageBatch.stored(batch.data[:-1])
