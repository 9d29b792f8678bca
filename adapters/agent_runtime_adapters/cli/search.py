"""BM25 over passages."""

from collections.abc import Iterator, Sequence
from typing import Any

import bm25s  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # it ships no types

from agent_runtime_adapters.cli.markdown import Passage
from agent_runtime_adapters.cli.words import words


class PassageIndex:
    """Finds the passages that fit a query best. A heading counts like text, once more."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)
        self._bm25: Any = bm25s.BM25()  # it is not typed
        texts = [[*words(p.heading), *words(" ".join(p.text))] for p in self._passages]
        self._vocabulary = {word for text in texts for word in text}
        self._bm25.index(texts, show_progress=False)

    def best(self, query: str, limit: int) -> Iterator[tuple[Passage, float]]:
        """At most `limit` passages with their scores, the best first; only such as hold a word of the query."""
        known = [word for word in words(query) if word in self._vocabulary]
        if not known:
            return
        scores: list[float] = self._bm25.get_scores(known).tolist()
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        yield from ((self._passages[place], scores[place]) for place in order[:limit] if scores[place] > 0)
