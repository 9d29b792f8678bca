"""What is asked for at the same time goes out together: the calls of one turn of the event loop are one pipeline."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import anyio

from agent_runtime import AgentRuntimeError, OutcomeUnknown, StoreUnavailable
from agent_runtime_adapters.redis.commands import Command, packed
from agent_runtime_adapters.redis.lua import Argument, Script

MOST_CALLS = 128  # in one pipeline
_MOST_BYTES = 262_144  # in one pipeline of more than one call: what is small does not wait for what is large


class Call:
    """One script with its arguments, the commands that follow it, and who waits for the answer.

    With commands, the answer is a list of theirs behind the script's. `is_sent` once it may have reached a server,
    `is_lost` once it had, and the connection ended before the answer.
    """

    __slots__ = ("again", "arguments", "by_name", "data", "is_lost", "is_sent", "outcome", "script", "then", "writes")

    def __init__(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        *,
        then: Sequence[Command] = (),
        writes: bool,
        again: bool,
    ) -> None:
        self.script = script
        self.arguments = (len(keys), *keys, *arguments)
        self.then = then
        self.writes = writes
        self.again = again
        self.by_name = True
        self.is_sent = False
        self.is_lost = False
        self.data = self._packed()
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def command(self) -> Command:
        """The script's name, or all of it where the server did not know the name."""
        first = ("EVALSHA", self.script.sha) if self.by_name else ("EVAL", self.script.source)
        return (*first, *self.arguments)

    def _packed(self) -> bytes:
        return b"".join(map(packed, (self.command, *self.then))) if self.then else packed(self.command)

    def spell_out(self) -> None:
        """Nothing ran: send all of the script next time."""
        self.by_name = self.is_sent = False
        self.data = self._packed()

    def answer(self, reply: object) -> None:
        if not self.outcome.done():
            self.outcome.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Lane(Protocol):
    """One conversation with a server, or a cluster, that is opened when it is needed."""

    async def exchange(self, calls: Sequence[Call]) -> None:
        """Send the calls and answer each, or fail it with the driver's error.

        Raises what ends the conversation, which is closed then; what has no outcome was not answered. Without an error, a
        call has no outcome whose script the server did not know: it was made to `spell_out`.
        """
        ...


class Server(Protocol):
    """What a `StoreServer` is to its pipelines."""

    name: str
    timeout: float

    def start(self, job: Callable[[], Awaitable[object]], *, on_end: Callable[[], None]) -> None: ...
    def in_doubt(self, why: str, *, writes: bool) -> AgentRuntimeError: ...
    def translated(self, error: Exception) -> AgentRuntimeError | None: ...


class Pipelines:
    """Makes calls on a few lanes, each lane one pipeline at a time, in a task of its own while there is something to do.

    Who waits is answered, failed and late by itself: what becomes of one call is nothing to the others of its pipeline.
    """

    def __init__(
        self, server: Server, lane: Callable[[], Awaitable[Lane]], *, lanes: int, calls: int = MOST_CALLS
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._lane = lane
        self._most_lanes = lanes
        self._most_calls = calls
        self._idle: list[Lane] = []
        self._waiting: deque[Call] = deque()
        self._busy = 0
        self._is_woken = False

    async def answered(self, call: Call) -> Any:
        """What the server answers. Raises what `StoreServer.do` does; cancelled, the call may be made or not."""
        self._waiting.append(call)
        self._wake()
        timer = self.loop.call_later(self._server.timeout, self._late, call)
        try:
            return await call.outcome
        except Exception as error:
            raise self._ours(call, error) from error
        finally:
            timer.cancel()

    def _wake(self) -> None:
        """Have a lane look at what waits, in the next turn: until then, more may come."""
        if not self._is_woken and self._busy < self._most_lanes:
            self._is_woken = True
            self._busy += 1
            self._server.start(self._work, on_end=self._ended)

    async def _work(self) -> None:
        self._is_woken = False
        while batch := self._batch():
            if self._waiting:
                self._wake()
            await self._made(batch)

    def _ended(self) -> None:
        self._busy -= 1
        if self._busy == 0:
            self._is_woken = False
            self._close(self._waiting)  # nobody waits, unless the jobs were cancelled

    def _batch(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._waiting and len(batch) < self._most_calls:
            size += len(self._waiting[0].data)
            if batch and size > _MOST_BYTES:
                break
            call = self._waiting.popleft()
            if not call.outcome.done():  # cancelled, or late
                batch.append(call)
        return batch

    async def _made(self, batch: list[Call]) -> None:
        try:
            with anyio.move_on_after(self._server.timeout) as limit:
                await self._exchanged(batch)
            if limit.cancelled_caught:
                for call in batch:
                    self._late(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who wait
            for call in batch:
                if not (call.again and call.is_sent):
                    call.fail(error)
        except BaseException:
            self._close(batch)
            raise
        self._repeat([call for call in batch if not call.outcome.done()])

    async def _exchanged(self, batch: list[Call]) -> None:
        lane = self._idle.pop() if self._idle else await self._lane()
        try:
            await lane.exchange(batch)
        finally:
            self._idle.append(lane)

    def _repeat(self, calls: Sequence[Call]) -> None:
        """Make again what was lost and may be made twice, and those whose script the server did not know."""
        for call in calls:
            if call.is_sent:
                call.again, call.is_sent, call.is_lost = False, False, True
        self._waiting.extendleft(reversed(calls))

    def _late(self, call: Call) -> None:
        seconds = f"{self._server.timeout:g} s (timeout)"
        if call.is_sent or call.is_lost:
            call.fail(self._server.in_doubt(f"did not answer in {seconds}", writes=call.writes))
        else:
            call.fail(StoreUnavailable(f"{self._server.name} was not reached in {seconds}"))

    def _close(self, calls: Iterable[Call]) -> None:
        for call in calls:
            may_be_done = call.writes and (call.is_sent or call.is_lost)
            call.fail(self._server.in_doubt("was closed before it answered", writes=may_be_done))

    def _ours(self, call: Call, error: Exception) -> Exception:
        ours: AgentRuntimeError | None
        if isinstance(error, AgentRuntimeError):  # which others may be given as well
            ours = type(error)(str(error), retryable=error.retryable)
        else:
            ours = self._server.translated(error)
        if isinstance(ours, OutcomeUnknown) and not (call.is_sent and call.writes):
            ours = StoreUnavailable(f"{self._server.name} was lost, or cannot be reached")
        if isinstance(ours, StoreUnavailable) and call.is_lost:
            return self._server.in_doubt("was lost, and did not do it when it was asked again", writes=call.writes)
        return ours or error
