"""Clients of the model server that break one thing each, as a careless author would. `StoreFaultsContract` finds each."""

from typing import Any

import anyio
from anyio.abc import ByteStream
from tests.stores.served import Client, Line, ModelServer, Question

from agent_runtime import AgentRuntimeError, OutcomeUnknown, Refusal, StoreUnavailable, open_memory
from agent_runtime.ids import new_id

ABSENT: dict[str, object] = {"sessions": [], "count": 0, "checkpoints": [], "runs": [], "entries": []}
"""What a read gives where nothing is; any other gives `None`."""


# Outages


class SaysAbsentWhenDown(Client):
    async def call(self, question: Question) -> object:
        try:
            return await super().call(question)
        except StoreUnavailable:
            if question.writes:
                raise
            return ABSENT.get(question.method)


class RefusesWhenDown(Client):
    async def call(self, question: Question) -> object:
        try:
            return await super().call(question)
        except StoreUnavailable:
            if question.writes:
                return Refusal.MISSING
            raise


class LetsTheDriverSpeak(Client):
    def translated(self, error: Exception) -> AgentRuntimeError | None:
        return None


class WaitsTooLong(Client):
    def __init__(self, server: ModelServer, address: tuple[str, int], timeout: float) -> None:
        super().__init__(server, address, timeout * 5)


class NeverConnectsAgain(Client):
    class Once(Line):
        opened = False

        async def open(self) -> ByteStream:
            if self.opened:
                raise anyio.ClosedResourceError
            self.opened = True
            return await super().open()

    line = Once


class KeepsOnlyInMemory(Client):
    """Its server starts with nothing."""

    async def call(self, question: Question) -> object:
        if self.model.starts > 1:
            self.model.starts = 1
            self.model.stores = open_memory("memory:")
        return await super().call(question)


class AcknowledgesEarly(Client):
    """It answers a write before it is there."""

    async def call(self, question: Question) -> object:
        try:
            return await super().call(question)
        except OutcomeUnknown:
            if question.kind == "key_values" and question.method == "add":
                return 1
            raise


# Doubt


class SaysFailedForInDoubt(Client):
    def translated(self, error: Exception) -> AgentRuntimeError | None:
        ours = super().translated(error)
        return None if ours is None else StoreUnavailable("failed")


class TriesEverythingAgain(Client):
    async def call(self, question: Question) -> object:
        number = self.put(question)
        return self.given(await self.do(lambda line: line.ask(number), writes=question.writes, repeatable=True))


class AnotherOperationEachTime(Client):
    """It does not know what it has done before."""

    def put(self, question: Question) -> int:
        if "operation" in question.options and question.method != "create":
            question.options["operation"] = new_id()
        return super().put(question)


class SwallowsDoubt(Client):
    async def call(self, question: Question) -> object:
        try:
            return await super().call(question)
        except OutcomeUnknown:
            return None


# Whose answer


class GoesOnWithABrokenConnection(Client):
    class Careless(Line):
        keeps_broken = True

    line = Careless


class CallsInTheCallersTask(Client):
    """A caller that is cancelled leaves the connection in the middle of an answer."""

    class Careless(Line):
        keeps_broken = True

    line = Careless

    async def call(self, question: Question) -> object:
        number = self.put(question)
        try:
            with anyio.fail_after(self.timeout):
                line = await self.connected_here()
                return self.given(await line.ask(number))
        except TimeoutError as error:
            raise StoreUnavailable("late") from error

    async def connected_here(self) -> Line:
        self.check()
        return await self.connected()


# Read-only, full


class PassesRefusalsOffAsDone(Client):
    async def call(self, question: Question) -> object:
        try:
            return await super().call(question)
        except AgentRuntimeError as error:
            if self.model.refusal is error:
                return None
            raise


class CannotReadWhatCannotBeWritten(Client):
    """It counts each read."""

    async def call(self, question: Question) -> object:
        if self.model.refusal is not None:
            raise StoreUnavailable("the read could not be counted")
        return await super().call(question)


# Two of them


class CountsByItself(Client):
    """Its limits are in the memory of each process."""

    def __init__(self, server: ModelServer, address: tuple[str, int], timeout: float) -> None:
        super().__init__(server, address, timeout)
        self.own = open_memory("memory:")

    async def call(self, question: Question) -> object:
        if question.kind != "rate_limits":
            return await super().call(question)
        return await getattr(self.own.rate_limits, question.method)(*question.args, **question.options)


class RemembersWhatItRead(Client):
    def __init__(self, server: ModelServer, address: tuple[str, int], timeout: float) -> None:
        super().__init__(server, address, timeout)
        self.known: dict[Any, object] = {}

    async def call(self, question: Question) -> object:
        if question.method != "get":
            return await super().call(question)
        if question.args not in self.known:
            self.known[question.args] = await super().call(question)
        return self.known[question.args]


class ReadsThenWrites(Client):
    """Compare here, set there."""

    async def call(self, question: Question) -> object:
        if question.method != "replace":
            return await super().call(question)
        expected = question.options.pop("expected_version")
        found: Any = await super().call(Question("key_values", "get", question.args[:2], {}))
        if found.version != expected:
            return Refusal.CHANGED
        question.options.pop("operation")
        return await super().call(Question("key_values", "set", question.args, question.options))


class AddsWhatItDidNotFind(Client):
    """Look here, set there."""

    async def call(self, question: Question) -> object:
        if question.method != "add":
            return await super().call(question)
        if await super().call(Question("key_values", "get", question.args[:2], {})) is not None:
            return Refusal.EXISTS
        question.options.pop("operation")
        return await super().call(Question("key_values", "set", question.args, question.options))


class ForgetsTheFence(Client):
    """A lease is good for whoever has ever had it."""

    def put(self, question: Question) -> int:
        if question.options.get("lease") is not None and question.method in ("write", "put_checkpoint"):
            question.options["lease"] = None
        return super().put(question)


class LeasesByItself(Client):
    """It knows its own holders only."""

    def __init__(self, server: ModelServer, address: tuple[str, int], timeout: float) -> None:
        super().__init__(server, address, timeout)
        self.own = open_memory("memory:")

    async def call(self, question: Question) -> object:
        if question.kind != "sessions" or question.method not in ("create", "acquire"):
            return await super().call(question)
        if question.method == "create":
            await super().call(question)
        elif await self.own.sessions.read(*question.args[:2]) is None:
            await self.own.sessions.create(*self.model.questions[0].args, **self.model.questions[0].options)
        return await getattr(self.own.sessions, question.method)(*question.args, **question.options)


class OverwritesTheLog(Client):
    """Who comes second begins anew."""

    async def call(self, question: Question) -> object:
        given = await super().call(question)
        if question.kind == "event_log" and given is Refusal.CHANGED:
            await super().call(Question("event_log", "delete", question.args[:2], {}))
            question.options["expected"] = 0
            return await super().call(Question("event_log", "append", question.args, question.options))
        return given


class NeverFindsTheEnd(Client):
    """Its logs cannot be gone on with."""

    async def call(self, question: Question) -> object:
        return Refusal.CHANGED if question.method == "append" else await super().call(question)
