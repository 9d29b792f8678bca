"""What a careful caller does about a run that failed: resume what is unfinished, start anew only a turn that is not there."""

from typing import Any

from tests.faults import audit
from tests.faults.figures import Tally
from tests.faults.witness import Witness, WitnessedStore
from tests.faults.worker import finished_turns
from tests.faults.workload import OWNER, Shop, context_for, executor_for, true_answers

from agent_runtime import AgentRuntimeError, Limits, Resume, SessionManager

LIMITS = Limits(lease=0.6, lease_renewal=0.2)
STUCK = "turns that could not be completed"
ATTEMPTS = 12  # a store that is away takes up to four, and each lease that is lost on a busy machine one


class Caller:
    """One session, reached through `store`, which may fail; `sound` is the same store without faults."""

    def __init__(self, store: Any, sound: Any, witness: Witness, session: str, tally: Tally) -> None:
        told: Any = WitnessedStore(store, witness)
        self.session = session
        self.sessions = SessionManager(told, limits=LIMITS)
        self.executor = executor_for(told, Shop(witness, pause=0).tools, limits=LIMITS)
        self._sound = sound
        self._witness = witness
        self._tally = tally

    async def complete(self, turn: int) -> None:
        """Have the conversation go on until it has this turn."""
        answers: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            try:
                if await self._has(turn):
                    return
                unfinished = await self.sessions.unfinished_runs(self.session, owner=OWNER)
            except AgentRuntimeError:
                continue
            result = await self.executor.execute(
                context_for(self.session, turn), resume=Resume(answers=answers) if unfinished else None
            )
            self._tally.saw(f"runs that ended {result.error_type or 'completed'}")
            await self.look()
            asked = {question.key: question.details for question in result.questions}
            answers = true_answers(self._witness, self.session, asked)
        if not await self._has(turn):
            self._tally.wrong(STUCK, f"{self.session}: turn {turn}")

    async def _has(self, turn: int) -> bool:
        return await finished_turns(self.sessions, self.session) > turn

    async def look(self) -> None:
        """What was acknowledged is there."""
        await audit.after_a_crash(self._sound, self._witness, self.session, self._tally)

    async def end(self, turns: int) -> None:
        """The conversation is whole, and the world is as it says."""
        await audit.at_the_end(self._sound, self._witness, self.session, turns, self._tally)
