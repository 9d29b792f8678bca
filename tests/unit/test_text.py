from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import DeltaText, repair_text

# Every code point, surrogates included: `st.text` leaves them out unless asked.
ANY_TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=20)
PIECES = st.lists(st.one_of(ANY_TEXT, st.sampled_from(["\ud83d", "\ude00", "😀", "a"])), max_size=8)


def units(text: str) -> list[str]:
    """`text` as JavaScript has it: one string for each UTF-16 unit, surrogates alone."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [chr(int.from_bytes(data[at : at + 2], "little")) for at in range(0, len(data), 2)]


def fed(pieces: list[str]) -> list[str]:
    delta = DeltaText()
    return [*(delta.feed(piece) for piece in pieces), delta.flush()]


@given(st.text())
def test_text_without_surrogates_is_left_alone(text: str) -> None:
    assert repair_text(text) is text


@given(ANY_TEXT)
def test_repaired_text_can_be_encoded_and_needs_no_second_repair(text: str) -> None:
    repaired = repair_text(text)
    repaired.encode()
    assert repair_text(repaired) == repaired


@given(st.text())
def test_a_text_cut_into_units_is_joined_again(text: str) -> None:
    assert repair_text("".join(units(text))) == text


def test_a_lone_surrogate_becomes_one_replacement_character_and_its_neighbours_stay() -> None:
    for lone in ("\ud83d", "\ude00", "\ude00\ud83d"):
        assert repair_text(f"a{lone}b") == "a" + "\ufffd" * len(lone) + "b"
    assert repair_text("\ud83d\ud83d\ude00") == "\ufffd😀"


@given(st.text())
def test_split_at_every_unit_no_character_is_lost_and_each_piece_can_be_encoded(text: str) -> None:
    parts = units(text)
    for at in range(len(parts) + 1):
        pieces = fed(["".join(parts[:at]), "".join(parts[at:])])
        assert "".join(pieces) == text
        for piece in pieces:
            piece.encode()


@given(PIECES)
def test_pieces_join_to_the_repaired_whole(pieces: list[str]) -> None:
    assert "".join(fed(pieces)) == repair_text("".join(pieces))


def test_only_half_a_character_is_held_back() -> None:
    assert fed(["Hi \ud83d", "\ude00!"]) == ["Hi ", "😀!", ""]
    assert fed(["\ud83d", "", "x"]) == ["", "", "\ufffdx", ""]
    assert fed(["x\ud83d"]) == ["x", "\ufffd"]
