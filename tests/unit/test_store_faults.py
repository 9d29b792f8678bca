"""The contract of faults finds broken stores, by the promises that they break."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeAlias, cast

import anyio
import pytest
from tests.stores.served import HOST, Client, ModelServer, at_work, model_server
from tests.unit import broken_stores

from agent_runtime import OutcomeUnknown, Stores, StoreUnavailable
from agent_runtime.testing import Fault, FaultKind, ServerFault, StoreFaultsContract, open_proxy


class OfBroken(StoreFaultsContract):
    timeout = 0.15
    slack = 0.15
    recovery = 0.2

    def __init__(self, server: ModelServer, client: type[Client]) -> None:
        self._server = server
        self._client = client

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self._server.port

    def open(self, address: tuple[str, int] | None = None) -> Stores:
        return self._client(self._server, address or self.address, self.timeout).stores

    def at_work(self, cause: ServerFault) -> AbstractContextManager[object]:
        return at_work(self._server, cause)


TIMED = ("stopped", "paused", "opened later", "killed at work", "dropped at work", "black hole", "late")
OURS = broken_stores.__name__
FOUND = (AssertionError, AttributeError, StoreUnavailable, OutcomeUnknown, anyio.EndOfStream, ExceptionGroup)
Promise: TypeAlias = Callable[[OfBroken], Any]


async def behind(contract: OfBroken, promise: str, **given: object) -> None:
    with open_proxy(*contract.address) as proxy:
        await getattr(contract, promise)(proxy, **given)


def cut(kind: FaultKind) -> Promise:
    return lambda contract: behind(
        contract,
        "test_a_write_whose_connection_is_cut_is_told_as_such_and_never_done_twice",
        fault=Fault(kind=kind, once=True),
    )


PROMISES: dict[str, Promise] = {
    "stopped": lambda of: of.test_an_outage_is_told_as_one_and_ends_with_its_cause(ServerFault.STOPPED),
    "paused": lambda of: of.test_an_outage_is_told_as_one_and_ends_with_its_cause(ServerFault.PAUSED),
    "opened later": lambda of: of.test_stores_that_are_opened_in_an_outage_work_when_it_ends(ServerFault.STOPPED),
    "killed at work": lambda of: of.test_what_was_acknowledged_is_there_once(ServerFault.KILLED),
    "dropped at work": lambda of: of.test_what_was_acknowledged_is_there_once(ServerFault.DROPPED),
    "read only": lambda of: of.test_a_server_that_takes_no_writes_says_so_and_is_read(ServerFault.READ_ONLY),
    "full": lambda of: of.test_a_server_that_takes_no_writes_says_so_and_is_read(ServerFault.FULL),
    "cut before": cut(FaultKind.CUT_BEFORE_FORWARD),
    "cut after": cut(FaultKind.CUT_AFTER_FORWARD),
    "black hole": lambda of: behind(
        of, "test_a_network_that_fails_is_told_as_an_outage_and_all_is_well_after_it", kind=FaultKind.BLACKHOLE
    ),
    "late": lambda of: behind(of, "test_an_answer_that_comes_too_late_is_given_to_nobody"),
    "slow": lambda of: behind(
        of, "test_slow_answers_are_waited_for_and_are_the_caller_s_own", fault=Fault(kind=FaultKind.TRICKLE)
    ),
    "cancelled": lambda of: of.test_no_caller_is_given_another_s_answer_when_calls_are_cancelled(),
    "shared": lambda of: of.test_what_one_has_written_another_reads_at_once(),
    "increments": lambda of: of.test_fifty_increments_through_two_give_fifty(),
    "added": lambda of: of.test_of_many_that_add_through_two_one_does(),
    "limit": lambda of: of.test_a_limit_admits_the_same_through_two_as_through_one(),
    "log": lambda of: of.test_a_log_that_two_write_loses_nothing(),
    "leased": lambda of: of.test_one_of_many_gets_a_lease_through_two(),
    "fence": lambda of: of.test_a_lease_goes_to_one_and_when_it_is_over_the_other_s_writes_are_refused(),
}
BROKEN = {
    "SaysAbsentWhenDown": "stopped, paused, opened later, late",
    "RefusesWhenDown": "stopped, killed at work, read only",
    "LetsTheDriverSpeak": "stopped, opened later, dropped at work, cut before, cut after",
    "WaitsTooLong": "paused, black hole, late",
    "NeverConnectsAgain": "stopped, opened later, killed at work, dropped at work",
    "KeepsOnlyInMemory": "stopped, killed at work",
    "AcknowledgesEarly": "paused, cut before",
    "SaysFailedForInDoubt": "cut after",
    "TriesEverythingAgain": "cut after",
    "AnotherOperationEachTime": "cut after",
    "SwallowsDoubt": "paused, killed at work, cut before, black hole",
    "GoesOnWithABrokenConnection": "stopped, paused, cut after, late",
    "CallsInTheCallersTask": "cancelled, slow, late",
    "PassesRefusalsOffAsDone": "read only, full",
    "CannotReadWhatCannotBeWritten": "read only, full",
    "CountsByItself": "stopped, limit",
    "RemembersWhatItRead": "shared, increments, read only",
    "ReadsThenWrites": "increments, cut after",
    "AddsWhatItDidNotFind": "added",
    "ForgetsTheFence": "fence",
    "LeasesByItself": "leased",
    "OverwritesTheLog": "log",
    "NeverFindsTheEnd": "log",
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Generator[ModelServer]:
    with model_server() as server:
        yield server


def test_every_broken_store_is_found_and_every_promise_is_broken_by_one() -> None:
    clients = [value for value in vars(broken_stores).values() if isinstance(value, type) and value.__module__ == OURS]
    assert list(BROKEN) == [client.__name__ for client in clients if issubclass(client, Client)]
    assert {promise for promises in BROKEN.values() for promise in promises.split(", ")} == set(PROMISES)


@pytest.mark.parametrize(
    ("name", "promise"), [(name, one) for name, all_ in BROKEN.items() for one in all_.split(", ")]
)
async def test_a_broken_store_breaks_the_promises_that_it_breaks(server: ModelServer, name: str, promise: str) -> None:
    contract = OfBroken(server, getattr(broken_stores, name))
    if promise not in TIMED:
        contract.timeout = 2.0
    with pytest.raises(FOUND):
        await PROMISES[promise](contract)


async def test_recovery_is_waited_for_and_not_for_ever(server: ModelServer) -> None:
    contract = OfBroken(server, Client)
    errors = [OutcomeUnknown("lost"), StoreUnavailable("gone")]

    async def recovers() -> str:
        if errors:
            raise errors.pop()
        return "back"

    async def never() -> None:
        raise StoreUnavailable("gone")

    assert await contract.recovered({"it": recovers}) == {"it": "back"}
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match=r"it still fails 0\.2 s after the fault: gone")):
        await contract.recovered({"it": never})


class Asked:
    """As much of pytest's `Metafunc` as the contract uses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.given: list[Any] = []

    def parametrize(self, name: str, values: list[Any]) -> None:
        assert name == "cause"
        self.given = values


def test_what_is_not_offered_is_not_promised_and_said_so(server: ModelServer) -> None:
    class Some(OfBroken):
        not_offered: ClassVar = {ServerFault.READ_ONLY: "it has no replicas", ServerFault.FULL: "it grows"}

    contract = Some(server, Client)
    outage = Asked(contract.test_an_outage_is_told_as_one_and_ends_with_its_cause)
    refusal = Asked(contract.test_a_server_that_takes_no_writes_says_so_and_is_read)
    plain = Asked(contract.test_fifty_increments_through_two_give_fifty)
    for asked in (outage, refusal, plain):
        contract.pytest_generate_tests(cast("pytest.Metafunc", asked))
    assert [given.id for given in outage.given] == ["stopped", "killed", "paused"]
    [skipped] = refusal.given
    assert skipped.marks[0].kwargs == {"reason": "read only: it has no replicas; full: it grows"}
    assert not plain.given
