"""How long the layers of an onion took, told by the events of its runs."""

from collections import defaultdict

from agent_runtime import EventBus, EventType, Placed, Stage, SystemEvent

_CORE = ""
_CORE_EVENTS = {EventType.LLM_INVOCATION_COMPLETE: Stage.MODEL, EventType.TOOL_COMPLETED: Stage.TOOL}


class LayerTimes:
    """Counts calls and sums milliseconds by stage and layer; a layer's time includes what is inside it."""

    def __init__(self) -> None:
        self._calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._total: defaultdict[tuple[str, str], float] = defaultdict(float)

    async def listen(self, bus: EventBus) -> None:
        """Begin to count what `bus` tells."""
        for event_type in (EventType.MIDDLEWARE_EXECUTED, *_CORE_EVENTS):
            await bus.subscribe(event_type, self)

    async def __call__(self, event: SystemEvent) -> None:
        key = (
            (str(_CORE_EVENTS[EventType(event.event_type)]), _CORE)
            if event.event_type in _CORE_EVENTS
            else (str(event.metadata["stage"]), str(event.metadata["middleware"]))
        )
        self._calls[key] += 1
        self._total[key] += event.execution_time_ms or 0.0

    def beside(self, stage: Stage, layer: Placed | None) -> str:
        """`calls ×  milliseconds` for the tree of an onion; nothing for what no event tells."""
        key = (str(stage), _CORE if layer is None else layer.name)
        calls = self._calls.get(key)
        return "" if calls is None else f"{calls:>3} × {self._total[key]:>10,.2f} ms"
