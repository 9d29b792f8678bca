"""Rate limits counted in MongoDB."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pymongo.asynchronous.client_session import AsyncClientSession
from typing_extensions import Unpack

from agent_runtime import Charge, RateCell, RateKey, RateLimit, Settlement, Taken, admit, check_charges
from agent_runtime_adapters.mongodb.database import Clock, Collections, DatabaseOptions, MongoDatabase, MongoStore
from agent_runtime_adapters.mongodb.rate_cells import place_of, seen, settling, taking, together
from agent_runtime_adapters.mongodb.steps import now
from agent_runtime_adapters.mongodb.turns import Turns

_Outcome: TypeAlias = "asyncio.Future[Taken]"


class MongoRateLimitStore(MongoStore):
    """A `RateLimitStore` in MongoDB, for any number of processes; `MongoDatabase` says what the options are.

    `clock` gives Unix seconds in the place of the server's own time.

    - Each key is one document, and one charge is one step on it, refused or not; the first of a key takes three. What is
      taken of one key at the same time in this process is one step together.
    - Several charges in one call are looked at first, and taken in a transaction if they fit: it needs a replica set or a
      sharded cluster. A standalone server has no transactions; there `take` and `settle` of several are a
      `ConfigurationError`.
    - A key whose burst is whole again is removed by the server itself, soon after.
    """

    def __init__(
        self, database: str | MongoDatabase, /, *, clock: Clock | None = None, **options: Unpack[DatabaseOptions]
    ) -> None:
        super().__init__(database, clock=clock, **options)
        self._turns = Turns()
        self._waiting: dict[tuple[RateKey, RateLimit], dict[_Outcome, Charge]] = {}

    async def take(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        if len(charges) == 1:
            return await self.server.do(lambda at: self._take_one(at, charges[0]))
        return await self.server.do(lambda at: self._take_all(at, charges))

    async def peek(self, charges: Sequence[Charge]) -> Taken:
        check_charges(charges)
        time = now(self._clock)
        return admit(charges, *await self.server.do(lambda at: seen(at, charges, time), writes=False))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            await self.server.do(lambda at: self._settle_all(at, settlements))

    async def _take_one(self, at: Collections, charge: Charge) -> Taken:
        """Take it along with those that wait for the same turn: whoever has it first does it for all."""
        name = (charge.key, charge.limit)
        outcome: _Outcome = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[outcome] = charge
        try:
            async with self._turns.of([place_of(charge.key)]):
                if not outcome.done():
                    await self._take_batch(at, self._waiting.pop(name))
        finally:
            if outcome.cancel():
                self._leave(name, outcome)
        if outcome.cancelled():
            raise self.server.in_doubt("did not answer in time", writes=True)
        return outcome.result()

    def _leave(self, name: tuple[RateKey, RateLimit], outcome: _Outcome) -> None:
        """Whose time is up before the turn came is not charged."""
        waiting = self._waiting.get(name, {})
        waiting.pop(outcome, None)
        if not waiting:
            self._waiting.pop(name, None)

    async def _take_batch(self, at: Collections, batch: Mapping[_Outcome, Charge]) -> None:
        try:
            cell = await taking(list(batch.values())).made(at, now(self._clock))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for all of them
            for outcome in batch:
                if not outcome.done():
                    outcome.set_exception(error)
            return
        except BaseException:
            for outcome in batch:
                outcome.cancel()
            raise
        for outcome, charge in batch.items():
            taken = admit((charge,), (cell,), cell.at)  # as the step has done, in the same order
            if not outcome.done():
                outcome.set_result(taken)

    async def _take_all(self, at: Collections, charges: Sequence[Charge]) -> Taken:
        async with self._turns.of(place_of(charge.key) for charge in charges):
            cells, time = await seen(at, charges, now(self._clock))
            if any(
                cell.at > time for cell in cells
            ):  # the clock stepped back: time counts on from here, whatever is taken
                for charge in charges:
                    await settling(Settlement(charge=charge, used=charge.cost)).made(at, now(self._clock))
            taken = admit(charges, cells, time)
            if not charges or not taken.allowed:
                return taken
            return await together(at, lambda session: self._take_at_once(at, charges, session))

    async def _take_at_once(self, at: Collections, charges: Sequence[Charge], session: AsyncClientSession) -> Taken:
        time = now(self._clock)
        cells: dict[RateKey, RateCell] = {}
        for charge in charges:
            cell = cells[charge.key] = await taking([charge]).made(at, time, session)
            time = cell.at  # one for all
        taken = admit(charges, [cells[charge.key] for charge in charges], time)
        if not taken.allowed:
            await session.abort_transaction()
        return taken

    async def _settle_all(self, at: Collections, settlements: Sequence[Settlement]) -> None:
        steps = [settling(settlement) for settlement in settlements]
        time = now(self._clock)

        async def job(session: AsyncClientSession) -> None:
            for step in steps:
                await step.made(at, time, session)

        async with self._turns.of(step.place for step in steps):
            if len(steps) == 1:
                await steps[0].made(at, time)
            else:
                await together(at, job)
