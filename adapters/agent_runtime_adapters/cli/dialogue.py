"""The runs of one conversation, in which a person is asked what a run asks."""

from collections.abc import Sequence
from typing import Any

from agent_runtime import AgentContext, AgentResult, ErrorType, Question, Resume, UnfinishedRun
from agent_runtime_adapters.cli.exits import INTERRUPTED, Ended, Interrupted, Waits
from agent_runtime_adapters.cli.lines import Lines
from agent_runtime_adapters.cli.place import Place
from agent_runtime_adapters.cli.questions import ask, open_questions
from agent_runtime_adapters.cli.terminal import Answer, Progress, notice
from agent_runtime_adapters.cli.turns import Turns
from agent_runtime_adapters.cli.view import ago


class Dialogue:
    """Without `lines` nobody is asked, without `answer` nothing is streamed."""

    def __init__(self, turns: Turns, place: Place, lines: Lines | None, answer: Answer | None) -> None:
        self._turns = turns
        self._place = place
        self._lines = lines
        self._answer = answer

    def say(self, task: str) -> AgentResult | None:
        """The result of a new run; `None` when Ctrl-C ended it. Raises `Waits` while a question of it is open."""
        self._turns.retelling.goes_on_with(None)
        held = any(run.held for run in self._turns.unfinished(self._place))
        return self._settled(self._place.context(task), None, held=held)

    def resume(self, unfinished: UnfinishedRun | None, request: Resume) -> AgentResult | None:
        """The result of the run that goes on, as with `say`. What `unfinished` asks is asked before."""
        answers = dict(request.answers)
        if unfinished is not None:
            Progress().say(f"goes on with the run of {ago(unfinished.created_at)}; recorded steps are not done again")
            self._turns.retelling.goes_on_with(
                unfinished.last_run_id, () if unfinished.questions else unfinished.in_doubt
            )
            left = open_questions(unfinished.questions, answers)
            if left and self._lines is not None:
                answers |= self._asked(left)
        go_on = Resume(answers=answers, run_id=request.run_id, allow_changed=request.allow_changed)
        return self._settled(self._place.context(), go_on, held=unfinished is not None and unfinished.held)

    def interrupted(self, code: int = INTERRUPTED) -> Interrupted:
        """The end of a command whose run was cancelled; says how to go on with what it has finished, if it has any."""
        runs = self._turns.unfinished(self._place)
        go_on = f"; what it has finished is kept:\n{self._place.command('resume')}" if runs else ""
        return Interrupted(f"interrupted; the run was cancelled{go_on}", code=code)

    def _settled(self, context: AgentContext, resume: Resume | None, *, held: bool) -> AgentResult | None:
        result = self._turns.run(context, self._answer, resume, held=held)
        while result is not None and result.error_type is ErrorType.SUSPENDED:
            answers = self._asked(result.questions, result)
            changed = resume is not None and resume.allow_changed
            go_on = Resume(answers=answers, run_id=result.run_id, allow_changed=changed)
            self._turns.retelling.goes_on_with(result.run_id)
            result = self._turns.run(self._place.context(), self._answer, go_on)
        return result

    def _asked(self, questions: Sequence[Question], result: AgentResult | None = None) -> dict[str, Any]:
        """What the person answers. Raises `Waits` where nobody is there, or one is left open, by Ctrl-C too."""
        if self._lines is None:
            raise Waits(questions, result)
        answers: dict[str, Any] = {}
        for number, question in enumerate(questions, start=1):
            said = self._said(question, self._lines)
            if said is None:
                raise Waits(questions, result, shown=number)
            answers |= said
        return answers

    def _said(self, question: Question, lines: Lines) -> dict[str, Any] | None:
        try:
            return ask([question], lines)
        except KeyboardInterrupt as interrupt:
            if not lines.typed or isinstance(interrupt, Ended):
                raise
            notice("")
            return None
