"""What must hold, whatever was killed when: a store compared with the witness."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.faults.figures import Tally
from tests.faults.witness import Line, Witness, digest
from tests.faults.worker import finished_turns
from tests.faults.workload import EFFECTS, OWNER, turn_messages

from agent_runtime import Message, SessionManager, SessionStore

LOST = "acknowledged checkpoints lost"
AGAIN = "completed tools run again"
TWICE = "effect tools run twice"
SILENT = "calls in doubt not reported"
BROKEN = "broken conversations"
HELD = "sessions held for longer than the lease"
HALF = "writes that were half done"
DAMAGED = "damaged files"
ENDED = "runs that ended badly"
AFTER_A_CRASH = (LOST, SILENT)
AT_THE_END = (AGAIN, TWICE, BROKEN)
# A figure lists what its program counts, and nothing else: a zero that nobody has counted says nothing.


async def after_a_crash(store: SessionStore, witness: Witness, session: str, tally: Tally) -> set[str]:
    """What was acknowledged is there, and what may have been started is known to be in doubt; the keys that are."""
    lines = witness.lines(session)
    sessions = SessionManager(store)
    stored = {
        run.run_id: [digest(entry) for entry in await store.entries(OWNER, session, run.run_id)]
        for run in await store.runs(OWNER, session)
    }
    acknowledged: dict[str, dict[int, str]] = defaultdict(dict)
    for line in lines:
        if line.what in ("acquired", "acknowledged") and line.number:
            acknowledged[line.run][line.number] = line.digests[0]
    turns = await finished_turns(sessions, session)
    gone = [max(entries) for run, entries in acknowledged.items() if run not in stored]
    sure = sum(last > 1 for last in gone)  # a run that had only begun when it failed is given up
    if not sure <= turns <= len(gone):
        tally.wrong(LOST, f"{session}: {sure} to {len(gone)} runs are gone, and the conversation has {turns} turns")
    for run, entries in stored.items():
        for number, value in acknowledged[run].items():
            if entries[number - 1 : number] != [value]:
                tally.wrong(LOST, f"{session}: entry {number} of run {run} of {len(entries)}")
    return await _in_doubt(sessions, session, lines, stored, tally)


async def _in_doubt(
    sessions: SessionManager, session: str, lines: Sequence[Line], runs: dict[str, list[str]], tally: Tally
) -> set[str]:
    doubtful: set[str] = set()
    ended: set[str] = set()
    for run in runs:
        journal = await sessions.journal(session, run, owner=OWNER)
        doubtful |= {key for key, known in journal.calls.items() if known.in_doubt}
        ended |= {key for key, known in journal.calls.items() if known.ended is not None}
    undecided = {line.keys[0]: line.what for line in lines if line.what == "decided" or line.tool in EFFECTS}
    for key, last in undecided.items():
        if last != "decided" and key.partition(":")[0] in runs and key not in doubtful | ended:
            tally.wrong(SILENT, f"{session}: {key} was started, and the store does not know")
    return doubtful


async def at_the_end(
    store: SessionStore, witness: Witness, session: str, turns: int, tally: Tally, *, stale: Collection[int] = ()
) -> None:
    """The conversation is whole and in order, and the world is as the conversation says.

    Processes that are `stale` have gone on for a while when another had taken over.
    """
    expected: list[Message] = [message for turn in range(turns) for message in turn_messages(turn)]
    found = list(await store.messages(OWNER, session) or ())
    if found != expected:
        tally.wrong(BROKEN, f"{session}: {len(found)} messages, {len(expected)} expected")
    left = await store.runs(OWNER, session)
    if left:
        tally.wrong(BROKEN, f"{session}: {len(left)} runs are left over")
    lines = witness.lines(session)
    _check_starts([line for line in lines if line.pid not in stale or line.tool in EFFECTS], session, tally)
    _check_effects(lines, expected, session, tally)


def _check_starts(lines: Sequence[Line], session: str, tally: Tally) -> None:
    """No call is made again that has ended, and no effect that may have happened, unless somebody decided so."""
    ended: set[str] = set()
    undecided: set[str] = set()
    for line in lines:
        if line.what == "acknowledged":
            ended.update(line.keys)
        elif line.what == "decided":
            undecided.difference_update(line.keys)
        elif line.what == "start":
            if not ended.isdisjoint(line.keys):
                tally.wrong(AGAIN, f"{session}: {line.tool} {line.keys[0]}")
            if not undecided.isdisjoint(line.keys):
                tally.wrong(
                    TWICE, f"{session}: {line.tool} {line.keys[0]} was started again, and nobody had decided so"
                )
            if line.tool in EFFECTS:
                undecided.update(line.keys)


def _check_effects(lines: Sequence[Line], expected: Sequence[Message], session: str, tally: Tally) -> None:
    """Each effect of the conversation has happened once, and each call had one key, however often it was started."""
    effects = Counter((line.tool, line.text) for line in lines if line.what == "effect")
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in lines:
        if line.what == "start":
            keys[line.tool, line.text].update(line.keys)
    for message in expected:
        if message.role != "tool":
            continue
        name, what, _ = message.content.split()
        times = effects[name, what]
        if name in EFFECTS and times != 1:
            tally.wrong(TWICE if times else BROKEN, f"{session}: {name} {what} happened {times} times")
        if len(keys[name, what]) > 1:
            tally.wrong(AGAIN, f"{session}: {name} {what} had the keys {sorted(keys[name, what])}")


def of_the_file(path: Path, tally: Tally) -> None:
    with sqlite3.connect(path) as connection:
        [answer] = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    if answer != "ok":
        tally.wrong(DAMAGED, str(answer))
