import json
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import find, given

from agent_runtime.testing import hostile_text, hostile_values, json_values, mutated, nested

VALID = b'{"name": "ann", "age": 41}'


@given(json_values())
def test_json_values_survive_every_codec(value: Any) -> None:
    assert json.loads(json.dumps(value)) == value
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value)) == value


def test_hostile_text_finds_half_a_character_and_a_line_break() -> None:
    with pytest.raises(UnicodeEncodeError):
        find(hostile_text(), lambda text: "\ud800" in text).encode()
    assert "\n" in find(hostile_text(), lambda text: "\n" in text)


@pytest.mark.parametrize("error", [TypeError, RecursionError, OverflowError, UnicodeEncodeError])
def test_hostile_values_find_an_encoder_that_checks_nothing(error: type[Exception]) -> None:
    def breaks(value: Any) -> bool:
        try:
            msgspec.msgpack.encode(value)
        except error:
            return True
        except Exception:  # noqa: BLE001 - other breakages are other parameters
            return False
        return False

    assert breaks(find(hostile_values(), breaks))


def test_mutated_bytes_find_a_reader_that_trusts_its_input() -> None:
    def misread(data: bytes) -> bool:
        return data != VALID and data.startswith(b'{"name"')

    assert misread(find(mutated(VALID), misread))


@given(mutated(VALID))
def test_a_checksum_finds_every_damage(data: bytes) -> None:
    assert data == VALID or zlib.crc32(data) != zlib.crc32(VALID)


def test_nested_is_as_deep_as_it_says() -> None:
    assert (nested(1), nested(3)) == ([], [[[]]])
