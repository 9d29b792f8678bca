"""What a resumed run tells again: shown where this process has not shown it before."""

from collections.abc import Iterable

from agent_runtime import ModelStarted, RunStarted, StreamEvent, TextDelta, ToolStarted


class Retelling:
    """Knows which runs of a conversation were shown here."""

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._hides = False
        self._in_doubt: list[str] = []
        self._recorded = False

    def goes_on_with(self, run_id: str | None, in_doubt: Iterable[str] = ()) -> None:
        """The next run goes on with `run_id`, or is new; the tools `in_doubt` were started, and nobody knows what came of it."""
        self._hides = run_id in self._shown
        self._in_doubt = list(in_doubt)

    def hides(self, event: StreamEvent) -> bool:
        """Whether it was shown before. To be asked of every event, in order."""
        if isinstance(event, RunStarted):
            self._shown.add(event.run_id)
        elif isinstance(event, ModelStarted):
            self._recorded = event.recorded
        recorded = event.recorded if isinstance(event, ToolStarted) else isinstance(event, TextDelta) and self._recorded
        return self._hides and recorded

    def tool(self, event: ToolStarted) -> str:
        """The tool's name, and what there is to know of this call."""
        if event.recorded:
            return f"{event.name} (recorded)"
        if event.name in self._in_doubt:
            self._in_doubt.remove(event.name)
            return f"{event.name} (in doubt)"
        return event.name
