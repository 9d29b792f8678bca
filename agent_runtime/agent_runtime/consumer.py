"""The two ways to consume a streamed run: a structured stream of events, and a plain iterator of text."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from agent_runtime.background import Background, cancel_requested
from agent_runtime.edge import Channel
from agent_runtime.errors import RunCancelled
from agent_runtime.stream import StreamEvent, TextDelta
from agent_runtime.types import AgentResult


class Producer:
    """A run in a task of its own that feeds a channel."""

    def __init__(self, run: Callable[[Channel], Awaitable[AgentResult]], channel: Channel) -> None:
        self.channel = channel
        self._run = run
        self._result: AgentResult | None = None
        self._error: BaseException | None = None

    async def produce(self) -> None:
        """Run to the end, whatever it is; what the run raises is kept for the consumer."""
        try:
            self._result = await self._run(self.channel)
        except anyio.get_cancelled_exc_class() as error:
            if cancel_requested():
                raise
            self._error = error  # the run awaited a task that was cancelled
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's task by `next`
            self._error = error
        finally:
            self.channel.end()

    async def next(self) -> StreamEvent:
        """The next event; after the last, the run's error if it failed, else `StopAsyncIteration`."""
        event = await self.channel.receive()
        if event is not None:
            return event
        if self._error is not None:
            raise self._error
        if self._result is None:
            await checkpoint_if_cancelled()  # most likely by what has cancelled the run
            raise RunCancelled("the run was cancelled before its end")
        if not self._result.questions:  # a run that waits for answers has not failed; its last event says so
            self._result.unwrap()
        raise StopAsyncIteration

    @property
    def result(self) -> AgentResult:
        """The run's result; `RuntimeError` before its end, or when it ended without one."""
        if self._result is None:
            raise RuntimeError("the stream has no result: the run has not ended, was left early, or raised")
        return self._result


class AgentStream:
    """`async with executor.stream(context) as stream: async for event in stream: …`

    Iteration gives events in order, then raises the run's error if it failed: the error itself, never a group. A suspended
    run ends with the event `RunSuspended` and raises nothing. Leaving the
    block before the end cancels the run and waits until it has cleaned up.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._group: TaskGroup | None = None

    @property
    def result(self) -> AgentResult:
        """The run's result, once iteration has ended; also of a failed run."""
        return self._producer.result

    @property
    def sequence(self) -> int:
        """How many events the run has emitted so far."""
        return self._producer.channel.sequence

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._producer.produce)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._producer.channel.abandon()
        # Without the body's exception, which the group would wrap in an exception group.
        await self._group.__aexit__(None, None, None)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[StreamEvent]:
        if self._group is None:
            raise RuntimeError("open the stream first: `async with executor.stream(context) as stream:`")
        return self._producer.next()


class TextStream:
    """`async for text in executor.execute_stream(context): …` — the answer's text in pieces.

    An iterator object: dropping it, or `aclose()`, cancels the run; `stream()` is the form that also waits for the
    clean-up. After the last piece `result` is there; a failed or suspended run raises its error instead.
    """

    def __init__(self, producer: Producer, background: Background) -> None:
        self._producer = producer
        self._background = background
        self._started = False

    @property
    def result(self) -> AgentResult:
        """The run's result, once iteration has ended."""
        return self._producer.result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if not self._started:
            self._background.start(self._producer.produce, name="execute_stream", on_end=self._producer.channel.end)
            self._started = True
        while True:
            try:
                event = await self._producer.next()
            except StopAsyncIteration:
                self.result.unwrap()  # of a suspended run: whoever takes only text would not notice
                raise
            if isinstance(event, TextDelta):
                return event.text

    async def aclose(self) -> None:
        """Cancel the run. It cleans up in its own task."""
        self._producer.channel.abandon()

    def __del__(self) -> None:
        self._producer.channel.abandon()
