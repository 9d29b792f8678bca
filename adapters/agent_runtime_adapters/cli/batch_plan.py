"""What is left to do of a batch: every line is looked at before the first is run."""

from agent_runtime import AgentResult, InvalidInput
from agent_runtime_adapters.cli.batch_input import Input, Line
from agent_runtime_adapters.cli.batch_output import Ending, Output, document
from agent_runtime_adapters.cli.batch_summary import Tally

FINISHED: dict[bool | None, tuple[Ending, ...]] = {
    True: ("succeeded",),
    None: ("succeeded", "failed"),
    False: ("succeeded", "failed", "retryable"),
}
"""What is not run again, by `--retry-failed`, neither, and `--no-retry-failed`."""


class Plan:
    """Which lines are to be run, and how many of the output's lines no line of the input has.

    Making it counts what was done before, and writes an outcome for each line that is no task.
    """

    def __init__(self, source: Input, output: Output, tally: Tally, finished: tuple[Ending, ...]) -> None:
        self._todo = bytearray()
        self._tally = tally
        self.refused = 0
        self.first_refusal = ""
        strangers = output.past.keys()
        for line in source.lines():
            key = line.key
            strangers.discard(key)
            ending = output.past.take(key, finished)
            if ending is not None:
                tally.skip(ending)
            elif self._is_task(line, source, output):
                self._todo.extend(bytes(line.number - len(self._todo)))
                self._todo[line.number - 1] = True
        self.strangers = len(strangers)

    def wants(self, line: Line) -> bool:
        """Whether the line is to be run."""
        return line.number <= len(self._todo) and bool(self._todo[line.number - 1])

    @property
    def lines(self) -> int:
        """How many are to be run."""
        return sum(self._todo)

    def _is_task(self, line: Line, source: Input, output: Output) -> bool:
        try:
            line.asked()
        except InvalidInput as error:
            words = f"{source.name}:{line.number}: {error}"
            self.refused += 1
            self.first_refusal = self.first_refusal or words
            refused = AgentResult(success=False, error=words, error_type=error.error_type, attempts=0)
            output.write(document(line, line.id(), refused))
            self._tally.refuse(refused)
            return False
        return True
