"""A store that fails at one of its calls, before or after it has done what it was asked."""

from typing import Any, Literal, TypeAlias

from agent_runtime import OutcomeUnknown, SessionStore, StoreUnavailable

How: TypeAlias = Literal["unavailable before", "unavailable after", "unknown before", "unknown after"]
"""Which error, and whether what was asked for has been done by then. A read is never of unknown outcome."""

READS = frozenset({"read", "sessions", "count", "messages", "checkpoints", "runs", "entries"})


class FailingStore:
    """Passes each call on to `store`, and from the `at`-th on fails so many `times`.

    Attributes:
        calls: How often it was called.
        failed: The calls that failed, by name.
    """

    def __init__(self, store: SessionStore, at: int, how: How, *, times: int = 1) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self._store = store
        self._places = range(at, at + times)
        self._how: How = how

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> object:
            self.calls += 1
            if self.calls not in self._places:
                return await operation(*args, **options)
            self.failed.append(name)
            if self._how.endswith("after"):
                await operation(*args, **options)
            if self._how.startswith("unavailable") or name in READS:
                raise StoreUnavailable("the store is away")
            raise OutcomeUnknown("the store does not answer")

        return call
