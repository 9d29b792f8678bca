"""Markdown cut into what a search finds and what an answer quotes: line by line, and nothing is rendered."""

import re
from collections.abc import Iterator, Sequence

import msgspec

_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.+?)\s*#*\s*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r" {0,3}(?:[-*+]|\d+[.)])\s.*|\s*\|.*")
_RULE = re.compile(r"[\s|:+-]*")
_PASSAGE = 1_500  # characters after which a passage ends at the next blank line


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """Some lines of one file. `line` is the first of them, from 1; `heading` is the path of headings above."""

    file: str
    line: int
    heading: str
    text: tuple[str, ...]


def passages(file: str, lines: Sequence[str]) -> Iterator[Passage]:
    """Cut at headings, and long sections at blank lines; never inside a code block."""
    headings: list[tuple[int, str]] = []
    start = 0
    for end in [*_cuts(lines), len(lines)]:
        heading = _HEADING.fullmatch(lines[start]) if start < end else None
        if heading is not None:
            level = len(heading[1])
            headings = [*(known for known in headings if known[0] < level), (level, heading[2])]
        if any(line.strip() and not _HEADING.fullmatch(line) for line in lines[start:end]):
            path = " › ".join(title for _, title in headings)
            yield Passage(file=file, line=start + 1, heading=path, text=tuple(lines[start:end]))
        start = end


def blocks(lines: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Paragraphs, list items, table rows and code blocks, each with the index of its first line; no headings."""
    start: int | None = None
    for index, (line, in_code) in enumerate([*_marked(lines), ("", False)]):
        is_between = not in_code and (_RULE.fullmatch(line) is not None or _HEADING.fullmatch(line) is not None)
        is_item = not in_code and _ITEM.fullmatch(line) is not None
        if start is not None and (is_between or is_item):
            yield start, tuple(lines[start:index])
            start = None
        if start is None and not is_between:
            start = index


def is_code(block: Sequence[str]) -> bool:
    """Whether a block is code, in which line ends and spaces mean something."""
    return _FENCE.match(block[0]) is not None or all(line.startswith(("    ", "\t")) for line in block)


def _cuts(lines: Sequence[str]) -> Iterator[int]:
    """Where a passage begins, after the first."""
    size = 0
    for index, (line, in_code) in enumerate(_marked(lines)):
        is_heading = not in_code and _HEADING.fullmatch(line) is not None
        is_long = size > _PASSAGE and not in_code and not line.strip()
        if index and (is_heading or is_long):
            yield index
            size = 0
        size += len(line)


def _marked(lines: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to a fenced code block."""
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        if fence:
            yield line, True
            if match is not None and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        else:
            fence = match[1] if match is not None else ""
            yield line, bool(fence)
