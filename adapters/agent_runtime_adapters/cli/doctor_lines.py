"""What the process that tries stores says of each promise, and what becomes of it."""

from collections.abc import Iterable

import msgspec


class Found(msgspec.Struct, frozen=True, tag="found"):
    """How many trials there will be."""

    total: int


class Tried(msgspec.Struct, frozen=True, tag="tried"):
    """One trial of a promise of a part of the stores. `why` it was not kept is empty where it was."""

    part: str
    promise: str
    seconds: float
    why: str = ""


Line = Found | Tried


def promises(trials: Iterable[Tried]) -> list[Tried]:
    """One for each promise: all its seconds, and the first reason why it was not kept."""
    found: dict[tuple[str, str], Tried] = {}
    for trial in trials:
        before = found.get((trial.part, trial.promise), Tried(trial.part, trial.promise, 0.0))
        found[trial.part, trial.promise] = Tried(
            trial.part, trial.promise, before.seconds + trial.seconds, before.why or trial.why
        )
    return list(found.values())
