"""What the machines of stores share: a clock, a store of the kind, and calls of it that are waited for."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

from anyio.from_thread import start_blocking_portal
from hypothesis.stateful import RuleBasedStateMachine, rule

S = TypeVar("S")
T = TypeVar("T")


class StoreMachine(RuleBasedStateMachine, Generic[S]):
    """For stores in memory, whose calls never wait."""

    now: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()

    @abstractmethod
    def make(self) -> S:
        """The store, whose clock is `now`."""

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """What the call returns."""
        try:
            call.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value
        raise AssertionError("a call of a store in memory waited")


class FileMachine(StoreMachine[S]):
    """For stores in a file, which is closed and opened again between any two steps."""

    aclose: Callable[[], Awaitable[None]]

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        self.file = Path(self.stack.enter_context(TemporaryDirectory())) / "stores.db"
        super().__init__()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        async def awaited() -> T:
            return await call

        return self.portal.call(awaited)

    @rule()
    def reopen(self) -> None:
        self.close()
        self.store = self.make()

    def close(self) -> None:
        self.portal.call(self.aclose)

    def teardown(self) -> None:
        self.close()
        self.stack.close()
