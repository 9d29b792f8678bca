"""What the stores of a server promise when the network between them fails."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from agent_runtime.errors import StoreUnavailable
from agent_runtime.stores import Stores
from agent_runtime.testing.proxy import HEALTHY, Fault, FaultKind, Proxy, open_proxy
from agent_runtime.testing.store_calls import READS, furnish, new_owner
from agent_runtime.testing.store_canary import Canaries
from agent_runtime.testing.store_contract import Address, Answer, StoreContract

_CUTS = (
    Fault(kind=FaultKind.CUT_BEFORE_FORWARD, once=True),
    Fault(kind=FaultKind.CUT_AFTER_FORWARD, once=True),
    Fault(kind=FaultKind.CUT_IN_ANSWER, at=1, once=True),
    Fault(kind=FaultKind.CUT_IN_ANSWER, at=12, once=True),
)
_OUTAGES = (FaultKind.CUT_BEFORE_FORWARD, FaultKind.CUT_AFTER_FORWARD, FaultKind.BLACKHOLE, FaultKind.DELAY)
_SLOW = (Fault(kind=FaultKind.DELAY, seconds=0.001), Fault(kind=FaultKind.TRICKLE))


def _name(fault: Fault) -> str:
    return f"{fault.kind} {fault.at}" if fault.at else str(fault.kind)


class StoreNetwork(StoreContract):
    """That a connection which is cut, silent or slow is no absent session, no write done twice, and nobody else's answer."""

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where the server is: a proxy is put in front of it, and `open` is called with the proxy's address."""

    @pytest.fixture
    def proxy(self) -> Generator[Proxy]:
        with open_proxy(*self.address) as proxy:
            yield proxy

    @asynccontextmanager
    async def behind(self, proxy: Proxy) -> AsyncGenerator[Stores]:
        """Stores that reach the server through the proxy, which heals when the block ends."""
        async with self.opened((proxy.host, proxy.port)) as stores:
            try:
                yield stores
            finally:
                proxy.fault = HEALTHY

    @pytest.mark.parametrize("fault", _CUTS, ids=_name)
    async def test_a_write_whose_connection_is_cut_is_told_as_such_and_never_done_twice(
        self, proxy: Proxy, fault: Fault
    ) -> None:
        async with self.behind(proxy) as stores:
            writes = await self.prepared(stores)
            given: dict[str, Answer] = {}
            for item in writes:
                proxy.fault = fault
                given[item.name] = await self.answer(item.name, item.call)
            proxy.fault = HEALTHY
            await self.settled(stores, writes, given)

    @pytest.mark.parametrize("fault", _CUTS, ids=_name)
    async def test_a_read_whose_connection_is_cut_gives_what_is_there_or_says_that_it_cannot(
        self, proxy: Proxy, fault: Fault
    ) -> None:
        async with self.behind(proxy) as stores:
            owner = new_owner()
            await furnish(stores, owner)
            reads = {name: partial(read, stores, owner) for name, read in READS.items()}
            before = await self.recovered(reads)
            for name, read in reads.items():
                proxy.fault = fault
                given = await self.answer(name, read)
                assert given.value == before[name] or isinstance(given.error, StoreUnavailable), name

    @pytest.mark.parametrize("kind", _OUTAGES, ids=str)
    async def test_a_network_that_fails_is_told_as_an_outage_and_all_is_well_after_it(
        self, proxy: Proxy, kind: FaultKind
    ) -> None:
        async with self.behind(proxy) as stores:
            owner = new_owner()
            await furnish(stores, owner)
            reads = {name: partial(read, stores, owner) for name, read in READS.items()}
            before = await self.recovered(reads)
            writes = await self.prepared(stores)
            proxy.fault = Fault(kind=kind, seconds=self.limit * 1.2)
            given = await self.answers({**reads, **{item.name: item.call for item in writes}})
            proxy.fault = HEALTHY
            assert [name for name, answer in given.items() if answer.error is None] == []
            assert [name for name in reads if not isinstance(given[name].error, StoreUnavailable)] == []
            assert await self.recovered(reads) == before
            await self.settled(stores, writes, given)

    @pytest.mark.parametrize("fault", _SLOW, ids=_name)
    async def test_slow_answers_are_waited_for_and_are_the_caller_s_own(self, proxy: Proxy, fault: Fault) -> None:
        async with self.behind(proxy) as stores:
            canaries = await Canaries.in_(stores)
            proxy.fault = fault
            await canaries.sing(while_cancelled=10)

    async def test_an_answer_that_comes_too_late_is_given_to_nobody(self, proxy: Proxy) -> None:
        async with self.behind(proxy) as stores:
            canaries = await Canaries.in_(stores)
            proxy.fault = Fault(kind=FaultKind.DELAY, seconds=self.limit * 1.1)
            for name, answer in (await self.answers(canaries.calls)).items():
                assert isinstance(answer.error, StoreUnavailable), name
            proxy.fault = HEALTHY
            assert await self.recovered(canaries.calls) == canaries.songs
