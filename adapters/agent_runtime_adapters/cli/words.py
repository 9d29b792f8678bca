"""Text as the words that a search compares."""

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ENDINGS = ("ings", "ing", "ies", "ed", "es", "s", "e")
_STEM = 3  # letters that an ending leaves over

# What questions are made of; it says nothing about what they ask for.
_EMPTY = frozenset(
    "a about all an and any are as at be been but by can could did do does for from had happen happens has have how i if in into is it "
    "its me my no not of on or should so such than that the their them then there these they this to was we were what "
    "when where which while who why will with would you your".split()
)


def words(text: str) -> list[str]:
    """The stems of `text` in their order, without empty words; names of code also in their parts."""
    return list(_stems(text))


def _stems(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        word = match.group()
        if word.lower() in _EMPTY:
            continue
        yield _stem(word.lower())
        parts = _PART.findall(word)
        if len(parts) > 1:
            yield from (_stem(part.lower()) for part in parts)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            return word.removesuffix(ending)
    return word
