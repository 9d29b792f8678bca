"""Markdown into passages and blocks, words, the search, and the client that quotes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import FunctionCall, Message, ModelRequest, StreamEvent, TextDelta
from agent_runtime_adapters.cli.extractive import ExtractiveClient
from agent_runtime_adapters.cli.markdown import Passage, blocks, is_code, passages
from agent_runtime_adapters.cli.search import PassageIndex
from agent_runtime_adapters.cli.words import words

PAGE = """\
Before any heading.

# Tools ##

Text about tools.

```sh
# not a heading
run it
```

## Kinds

- pure: again
  and again
- effect: once

| kind | again |
|---|---|
| pure | yes |

# Empty

# Last
The end.""".split("\n")


def test_a_passage_is_a_section_with_its_headings_and_first_line() -> None:
    assert [(passage.line, passage.heading) for passage in passages("x.md", PAGE)] == [
        (1, ""),
        (3, "Tools"),
        (12, "Tools › Kinds"),
        (24, "Last"),
    ]


def test_a_long_section_is_cut_at_a_blank_line_and_never_in_a_code_block() -> None:
    prose = ["word " * 100, ""] * 10
    code = ["```", *["x" * 100, ""] * 40, "```"]
    found = list(passages("x.md", ["# Long", *prose, *code, "", "end"]))
    assert len(found) > 2
    assert {passage.heading for passage in found} == {"Long"}
    fences = [[line for line in passage.text if line == "```"] for passage in found]
    assert sorted(map(len, fences))[-2:] == [0, 2]


@given(st.lists(st.sampled_from(["", "# A", "## B", "text", "```", "~~~", "- item", "| row |", "    code", "x" * 900])))
def test_no_line_is_lost_or_doubled_and_every_line_number_is_right(lines: list[str]) -> None:
    last = 0
    for passage in passages("x.md", lines):
        assert passage.line > last
        last = passage.line + len(passage.text) - 1
        assert tuple(lines[passage.line - 1 : last]) == passage.text
    for start, block in blocks(lines):
        assert tuple(lines[start : start + len(block)]) == block
    assert [line for _, block in blocks(lines) for line in block if line == "text"] == [x for x in lines if x == "text"]


def test_blocks_are_paragraphs_items_rows_and_code() -> None:
    assert [(start + 1, block[0], len(block)) for start, block in blocks(PAGE)] == [
        (1, "Before any heading.", 1),
        (5, "Text about tools.", 1),
        (7, "```sh", 4),
        (14, "- pure: again", 2),
        (16, "- effect: once", 1),
        (18, "| kind | again |", 1),
        (20, "| pure | yes |", 1),
        (25, "The end.", 1),
    ]
    assert is_code(("```sh", "x", "```"))
    assert is_code(("    x = 1", "    y = 2"))
    assert not is_code(("Text", "    more"))


def test_words_are_stems_without_what_questions_are_made_of() -> None:
    assert words("How do I stream the answers?") == ["stream", "answer"]
    assert words("streaming streams streamed") == ["stream"] * 3
    assert words("AgentContext.current_task") == ["agentcontext", "agent", "context", "current_task", "current", "task"]
    assert words("is as was") == []


def test_the_search_finds_by_text_and_by_heading_and_nothing_without_a_word_in_common() -> None:
    index = PassageIndex(tuple(passages("x.md", PAGE)))
    assert [passage.line for passage, _ in index.best("kinds", 5)] == [12]
    assert [passage.line for passage, _ in index.best("run it", 5)] == [3]
    assert len(list(index.best("tools pure end", 2))) == 2
    assert list(index.best("unheard-of", 5)) == []
    assert list(index.best("", 5)) == []


def test_the_search_of_one_passage_works() -> None:
    index = PassageIndex([Passage(file="x.md", line=1, heading="", text=("only this",))])
    assert [passage.text for passage, _ in index.best("this only", 5)] == [("only this",)]


def search_result(content: str) -> list[Message]:
    """A conversation up to the result of a search."""
    call = FunctionCall(id="c1", name="search", arguments='{"query": "pure tools"}')
    return [
        Message(role="user", content="An earlier question"),
        Message(role="assistant", content="An earlier answer"),
        Message(role="user", content="What are pure tools?"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", name="search", tool_call_id="c1", content=content),
    ]


async def test_the_client_searches_for_the_last_question_first() -> None:
    response = await ExtractiveClient().complete(ModelRequest(messages=tuple(search_result("[]")[:3])))
    [call] = response.message.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("search", {"query": "What are pure tools?"})


async def test_the_client_reads_what_was_found() -> None:
    found = json.dumps([{"file": "x.md", "line": 12, "lines": 10, "heading": "", "score": 1.0, "excerpt": ""}])
    response = await ExtractiveClient().complete(ModelRequest(messages=tuple(search_result(found))))
    [call] = response.message.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("read", {"file": "x.md", "start_line": 12, "lines": 10})


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("[]", "I found nothing in these documents that answers this."),
        ('{"error": "it took too long"}', "The search failed, and without it there is no answer."),
    ],
)
async def test_without_passages_the_client_says_so(content: str, answer: str) -> None:
    response = await ExtractiveClient().complete(ModelRequest(messages=tuple(search_result(content))))
    assert (response.text, response.message.tool_calls) == (answer, ())


async def test_the_client_quotes_the_best_block_and_streams_it_word_by_word() -> None:
    pieces: list[str] = []

    async def emit(event: StreamEvent) -> None:
        assert isinstance(event, TextDelta)
        pieces.append(event.text)

    text = "## Tools\n\nOther words.\n\nPure tools may run\nagain."
    call = FunctionCall(id="c2", name="read", arguments='{"file": "x.md", "start_line": 12, "lines": 6}')
    conversation = [
        *search_result("[]"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", name="read", tool_call_id="c2", content=text),
    ]
    request = ModelRequest(messages=tuple(conversation), stream=True, emit=emit)
    response = await ExtractiveClient().complete(request)
    assert response.text == "x.md:16\nPure tools may run again."
    assert pieces == ["x.md:16", "\nPure", " tools", " may", " run", " again."]


async def test_passages_that_hold_too_little_of_the_question_are_no_answer() -> None:
    call = FunctionCall(id="c2", name="read", arguments='{"file": "x.md", "start_line": 1, "lines": 1}')
    conversation = [
        Message(role="user", content="Which pure green vegetable grows tallest?"),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", name="search", content="[]"),
        Message(role="tool", name="read", tool_call_id="c2", content="A pure tool."),
    ]
    response = await ExtractiveClient().complete(ModelRequest(messages=tuple(conversation)))
    assert response.text.startswith("I found nothing")
