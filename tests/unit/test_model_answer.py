"""An answer from its pieces: what a reader gets on the way, and the whole at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    FunctionCall,
    ModelAnswer,
    ProviderErrors,
    ProviderUnavailable,
    ReasoningDelta,
    TextDelta,
    Usage,
    repair_text,
)

ERRORS = ProviderErrors("the provider at models.example", model="m1")


def answer(finish: str = "stop", *, max_bytes: int | None = None) -> ModelAnswer:
    made = ModelAnswer(ERRORS, step=3, max_bytes=max_bytes)
    made.finish_reason = finish
    return made


def test_the_pieces_are_passed_on_and_make_the_whole() -> None:
    made = answer("length")
    given = [*made.add_reasoning("hm"), *made.add_text("Hel"), *made.add_text(""), *made.add_text("lo"), *made.end()]
    assert given == [
        ReasoningDelta(text="hm", step=3),
        TextDelta(text="Hel", step=3),
        TextDelta(text="lo", step=3),
    ]
    made.model, made.usage = "served", Usage(input_tokens=1, requests=1)
    response = made.response()
    assert (response.text, response.finish_reason, response.model) == ("Hello", "length", "served")
    assert response.usage == Usage(input_tokens=1, requests=1)
    assert response.message.role == "assistant"


def test_what_the_provider_does_not_say_is_what_was_asked_for() -> None:
    made = answer()
    assert made.end() == []
    assert (made.response().model, made.response().usage) == ("m1", Usage(requests=1))


@given(st.lists(st.text(st.characters(categories=["L", "Cs"]), max_size=4)))
def test_the_deltas_join_to_the_text_of_the_response(pieces: list[str]) -> None:
    made = answer()
    given = [delta for piece in pieces for delta in made.add_text(piece)] + made.end()
    assert "".join(delta.text for delta in given) == made.response().text == repair_text("".join(pieces))


def test_half_an_emoji_is_held_back_and_at_the_end_replaced() -> None:
    made = answer()
    assert made.add_text("\ud83d") == []
    assert made.add_text("\ude00") == [TextDelta(text="😀", step=3)]
    assert made.add_text("\ud83d") == []
    assert made.add_reasoning("\ud83d") == []
    assert made.end() == [ReasoningDelta(text="\ufffd", step=3), TextDelta(text="\ufffd", step=3)]
    assert made.response().text == "😀\ufffd"


def test_everything_in_the_response_can_be_encoded() -> None:
    made = answer("\ud83d")
    made.model = "m\ud83d"
    made.add_call(0, id="\ud83d", name="\ud83d", arguments='"\ud83d')
    made.add_call(0, arguments='\ude00"')
    response = made.response()
    assert (response.finish_reason, response.model) == ("\ufffd", "m\ufffd")
    assert response.message.tool_calls == (FunctionCall(id="\ufffd", name="\ufffd", arguments='"😀"'),)


def test_the_fragments_of_a_call_are_found_by_their_index() -> None:
    made = answer("tool_calls")
    made.add_call(0, id="a", name="search", arguments='{"q":')
    made.add_call(1, id="b", name="now")
    made.add_call(0, id="a", name="ignored", arguments=" 1}")
    made.end()
    assert made.calls == made.response().message.tool_calls
    assert made.calls == (FunctionCall(id="a", name="search", arguments='{"q": 1}'), FunctionCall(id="b", name="now"))


@pytest.mark.parametrize("index", [0, None])
def test_another_id_begins_another_call(index: int | None) -> None:
    made = answer("tool_calls")
    made.add_call(index, name="first")
    made.add_call(index, id="a", arguments="1")
    made.add_call(index, id="b", name="second")
    made.add_call(index, arguments="2")
    assert [(call.id, call.name, call.arguments) for call in made.calls] == [("a", "first", "1"), ("b", "second", "2")]


def test_without_a_finish_reason_it_broke_off() -> None:
    made = answer("")
    made.add_text("par")
    with pytest.raises(ProviderUnavailable, match="ended early"):
        made.end()


@pytest.mark.parametrize(("id", "name"), [("", "search"), ("a", "")])
def test_a_call_without_id_or_name_makes_no_sense(id: str, name: str) -> None:
    made = answer("tool_calls")
    made.add_call(0, id="a", name="search")
    made.add_call(1, id=id, name=name)
    with pytest.raises(ProviderUnavailable, match="makes no sense"):
        made.end()


def test_text_reasoning_and_arguments_together_are_bounded() -> None:
    made = answer(max_bytes=9)
    made.add_text("äb")
    made.add_reasoning("\ud83d")
    made.add_call(0, id="a", name="n", arguments="{}")
    made.add_text("c")
    with pytest.raises(ProviderUnavailable, match="larger than 9 bytes"):
        made.add_text("d")
