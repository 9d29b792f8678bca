"""The unfinished runs of a session, which stand in its document, and their entries, which are parts."""

from agent_runtime import RUNS_KEPT, Refusal
from agent_runtime_adapters.mongodb.documents import RunDocument, SessionDocument, entry_place
from agent_runtime_adapters.mongodb.moments import Moment


async def is_recorded(moment: Moment, run: RunDocument | None, number: int, entry: bytes) -> bool:
    """Whether this is the run's entry of that number."""
    if run is None or not 0 < number <= run.entry_count:
        return False
    return (await moment.part(entry_place(run.sequence, number))).data == entry


def refusal(session: SessionDocument, run: RunDocument | None, number: int) -> Refusal | None:
    """Why the run's next entry cannot have this number."""
    if run is None and number > 1:
        return Refusal.MISSING
    if number == 1 and session.closed:
        return Refusal.CLOSED
    following = 1 if run is None else run.entry_count + 1
    return None if number == following else Refusal.CHANGED


def begin(moment: Moment, session: SessionDocument, run_id: str) -> RunDocument:
    """A run without entries, in the place of the oldest where there are too many."""
    for oldest in session.runs[: max(0, len(session.runs) + 1 - RUNS_KEPT)]:
        remove(moment, session, oldest)
    session.runs_begun += 1
    run = RunDocument(
        run_id=run_id,
        sequence=session.runs_begun,
        message_count=session.message_count,
        created_at=moment.now,
        updated_at=moment.now,
    )
    session.runs = [*session.runs, run]
    return run


def remove(moment: Moment, session: SessionDocument, run: RunDocument) -> None:
    session.runs = [other for other in session.runs if other.sequence != run.sequence]
    moment.forget(entry_place(run.sequence, 1), entry_place(run.sequence, run.entry_count))
