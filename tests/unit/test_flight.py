"""SingleFlight: one computes for all, whoever is lost, and nothing stays behind."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import (
    AgentFailed,
    AgentRuntimeError,
    CallTimeout,
    ConsumerGone,
    LimitExceeded,
    Owner,
    PermissionDenied,
    ProviderUnavailable,
    RateLimited,
    RequestRejected,
    RunCancelled,
    RuntimeClosed,
    RunTimeout,
    SingleFlight,
    Suspended,
)

ANN = Owner(tenant_id="acme", user_id="ann")
BEN = Owner(tenant_id="acme", user_id="ben")


class Work:
    """What is computed: it waits until it is let on, and then gives its number, or raises what it is told to.

    Attributes:
        started: How many have begun.
        flights: Where the callers meet.
    """

    def __init__(self) -> None:
        self.started = self.ended = 0
        self.flights = SingleFlight[str]()
        self.let_on = anyio.Event()
        self.raises: BaseException | None = None
        self.is_for_others = True
        self.kept: list[str] = []
        self.keep: Callable[[str], Awaitable[None]] = self._keep

    async def compute(self) -> str:
        self.started += 1
        number = self.started
        await self.let_on.wait()
        self.ended += 1
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error
        return f"value {number}"

    async def ask(self, owner: Owner = ANN, key: str = "key") -> str:
        value, computed = await self.flights.share(
            key, self.compute, owner=owner, shared=self.shared, keep=lambda value: self.keep(value)
        )
        assert computed == (not value.startswith("shared"))
        return value

    def shared(self, value: str) -> str | None:
        return f"shared {value}" if self.is_for_others else None

    async def _keep(self, value: str) -> None:
        self.kept.append(value)


class Callers:
    """Callers in tasks of their own, each with a scope, in the order in which they came."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.scopes: list[anyio.CancelScope] = []
        self.answers: dict[int, str] = {}
        self.errors: dict[int, Exception] = {}

    async def call(self, number: int, owner: Owner = ANN) -> None:
        with self.scopes[number]:
            try:
                self.answers[number] = await self.work.ask(owner)
            except Exception as error:  # noqa: BLE001 - which one it is, is what the test asks
                self.errors[number] = error

    async def come(self, group: anyio.abc.TaskGroup, *owners: Owner) -> None:
        """One for each owner, each waiting when the next comes."""
        for owner in owners:
            self.scopes.append(anyio.CancelScope())
            group.start_soon(self.call, len(self.scopes) - 1, owner)
            await settle()

    async def leave(self, number: int) -> None:
        self.scopes[number].cancel()
        await settle()


async def settle() -> None:
    """Until nobody has anything to do: nobody here waits for a clock."""
    await anyio.wait_all_tasks_blocked()


async def test_who_asks_alone_computes_each_time() -> None:
    work = Work()
    work.let_on.set()
    assert [await work.ask() for _ in range(3)] == ["value 1", "value 2", "value 3"]
    assert work.kept == ["value 1", "value 2", "value 3"] and not len(work.flights)


async def test_nothing_is_kept_where_nobody_says_so() -> None:
    async def compute() -> str:
        return "value"

    flights = SingleFlight[str]()
    assert await flights.share("key", compute, owner=ANN, shared=str) == ("value", True)


async def test_a_hundred_at_once_are_one_computation() -> None:
    work = Work()
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, *[ANN] * 100)
        assert "key" in work.flights and work.started == 1
        work.let_on.set()
    assert list(callers.answers.values()).count("shared value 1") == 99
    assert callers.answers[0] == "value 1" and work.started == 1 and not len(work.flights)


async def test_other_keys_do_not_wait() -> None:
    work = Work()
    async with anyio.create_task_group() as group:
        group.start_soon(work.ask, ANN, "one")
        group.start_soon(work.ask, ANN, "two")
        await settle()
        assert work.started == len(work.flights) == 2
        work.let_on.set()
    assert not len(work.flights)


async def test_a_follower_that_is_cancelled_disturbs_nobody() -> None:
    work = Work()
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN)
        await callers.leave(1)
        work.let_on.set()
    assert callers.answers == {0: "value 1", 2: "shared value 1"} and work.started == 1 and not len(work.flights)


async def test_a_cancelled_leader_is_followed_by_the_one_that_waited_longest() -> None:
    work = Work()
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, *[ANN] * 4)
        await callers.leave(0)
        assert work.started == 2
        await callers.leave(1)
        assert work.started == 3
        work.let_on.set()
    assert callers.answers == {2: "value 3", 3: "shared value 3"} and not len(work.flights)


async def test_a_leader_that_nobody_follows_leaves_nothing() -> None:
    work = Work()
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN)
        await callers.leave(0)
    assert work.ended == 0 and not len(work.flights)


async def test_a_follower_cancelled_as_it_is_to_lead_hands_over_too() -> None:
    work = Work()
    work.raises = KeyError("a bug")
    callers = Callers(work)

    async def lead() -> None:
        with pytest.raises(KeyError):
            await work.ask()
        callers.scopes[0].cancel()  # who is to lead now, and has not gone on yet

    async with anyio.create_task_group() as group:
        group.start_soon(lead)
        await settle()
        await callers.come(group, ANN, ANN)
        work.let_on.set()
    assert list(callers.answers) == [1] and callers.scopes[0].cancelled_caught and not len(work.flights)


def test_so_does_one_whose_task_is_cancelled_natively() -> None:
    async def main() -> None:
        work = Work()
        work.raises = KeyError("a bug")
        tasks: list[asyncio.Task[str]] = []

        async def lead() -> None:
            with pytest.raises(KeyError):
                await work.ask()
            tasks[0].cancel()

        leader = asyncio.create_task(lead())
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(work.ask()) for _ in range(3)]
        await asyncio.sleep(0)
        work.let_on.set()
        await leader
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError) and answers[1:] == ["value 2", "shared value 2"]
        assert work.started == 2 and not len(work.flights)

    asyncio.run(main())


@pytest.mark.parametrize(
    "lost",
    [
        KeyError("a bug"),
        RunTimeout("the leader's own"),
        RuntimeClosed("the leader's own"),
        RunCancelled("the leader's own"),
        Suspended("the leader's own", questions=()),
        ConsumerGone("the leader's own"),
        PermissionDenied("not the leader"),
        AgentFailed("its answer is its own", result=None),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_leader_that_is_lost_is_followed_by_exactly_one(lost: Exception) -> None:
    work = Work()
    work.raises = lost
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN)
        work.let_on.set()
    assert callers.errors == {0: lost}
    assert callers.answers == {1: "value 2", 2: "shared value 2"} and work.started == 2 and not len(work.flights)


@pytest.mark.parametrize(
    "failure",
    [
        ProviderUnavailable("down", details={"limit": 1}, retry_after=2.5),
        CallTimeout("late", retryable=False),
        RequestRejected("refused"),
        RateLimited("slowly", retry_after=3.0, details={"limit": 10}),
        LimitExceeded("too much", details={"limit": 10}),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_of_the_question_is_everybodys_and_each_has_its_own_copy(failure: AgentRuntimeError) -> None:
    cause = OSError("the wire")
    failure.__cause__ = cause
    work = Work()
    work.raises = failure
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN)
        work.let_on.set()
    assert callers.errors[0] is failure and work.started == 1 and not len(work.flights)
    copies = [callers.errors[1], callers.errors[2]]
    assert copies[0] is not copies[1] and failure not in copies
    for copy in copies:
        assert isinstance(copy, type(failure)) and type(copy) is type(failure)
        assert (str(copy), copy.args, copy.details) == (str(failure), failure.args, failure.details)
        assert (copy.retry_after, copy.retryable, copy.__cause__) == (failure.retry_after, failure.retryable, cause)


async def test_a_model_that_is_away_is_away_for_every_owner() -> None:
    work = Work()
    work.raises = ProviderUnavailable("down")
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, BEN)
        work.let_on.set()
    assert isinstance(callers.errors[1], ProviderUnavailable) and work.started == 1


async def test_a_note_on_one_copy_of_a_failure_is_not_on_the_others() -> None:
    work = Work()
    work.raises = failure = ProviderUnavailable("down")
    failure.add_note("of the leader")
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN)
        work.let_on.set()
    callers.errors[1].add_note("of a follower")
    assert [error.__notes__ for _, error in sorted(callers.errors.items())] == [
        ["of the leader"],
        ["of the leader", "of a follower"],
        ["of the leader"],
    ]


async def test_a_leader_that_is_cancelled_and_ends_all_the_same_is_followed_by_exactly_one() -> None:
    work = Work()
    shielded = anyio.Event()

    async def compute() -> str:
        if work.started:
            return await work.compute()
        work.started += 1
        with anyio.CancelScope(shield=True):
            await shielded.wait()
        return "what came out of a run that is over"

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            await work.flights.share(
                "key", compute, owner=ANN, shared=lambda value: value if value.startswith("value") else None
            )

    leader = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(ask, leader)
        await settle()
        for _ in range(99):
            group.start_soon(ask, anyio.CancelScope())
        await settle()
        leader.cancel()
        shielded.set()
        await settle()
        assert work.started == 2
        work.let_on.set()
    assert (work.started, work.ended) == (2, 1) and not len(work.flights)


async def test_an_exhausted_limit_of_one_owner_is_not_anothers() -> None:
    work = Work()
    work.raises = RateLimited("ann has asked too much")
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, BEN, ANN, BEN)
        work.let_on.set()
    assert sorted(callers.errors) == [0, 2]
    assert sorted(callers.answers.values()) == ["value 2", "value 3"] and not len(work.flights)


async def test_where_the_answer_is_not_for_others_all_compute_at_once() -> None:
    work = Work()
    work.is_for_others = False
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN, ANN)
        first, work.let_on = work.let_on, anyio.Event()
        first.set()
        await settle()
        assert work.started == 4
        work.let_on.set()
    assert sorted(callers.answers.values()) == ["value 1", "value 2", "value 3", "value 4"]
    assert not work.kept and not len(work.flights)


async def test_while_the_value_is_kept_everybody_has_it_already() -> None:
    work = Work()
    work.let_on.set()
    stored = anyio.Event()

    async def keep(value: str) -> None:
        await stored.wait()

    work.keep = keep
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN)
        assert callers.answers == {1: "shared value 1"}
        stored.set()
    assert callers.answers[0] == "value 1" and work.started == 1 and not len(work.flights)


async def test_a_leader_that_is_cancelled_while_it_keeps_leaves_nothing() -> None:
    work = Work()
    work.let_on.set()

    async def keep(value: str) -> None:
        await anyio.sleep_forever()

    work.keep = keep
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN)
        await callers.leave(0)
    assert not callers.answers and not len(work.flights)


async def test_a_value_that_cannot_be_shared_for_a_bug_is_as_a_lost_leader() -> None:
    work = Work()
    bugs = [KeyError("a bug")]

    def shared(value: str) -> str | None:
        if bugs:
            raise bugs.pop()
        return f"shared {value}"

    work.shared = shared  # type: ignore[method-assign]  # the bug under test
    callers = Callers(work)
    async with anyio.create_task_group() as group:
        await callers.come(group, ANN, ANN, ANN)
        work.let_on.set()
    assert isinstance(callers.errors[0], KeyError)
    assert callers.answers == {1: "value 2", 2: "shared value 2"} and not len(work.flights)


async def test_a_computation_that_asks_for_its_own_key_does_not_wait_for_itself() -> None:
    flights = SingleFlight[str]()

    async def innermost() -> str:
        await checkpoint()
        return "value"

    async def inside() -> str:
        value, computed = await flights.share("key", innermost, owner=ANN, shared=str)
        return f"{value} {computed}"

    async def in_a_task() -> str:
        answers: list[str] = []

        async def ask() -> None:
            answers.append(await inside())

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
        return answers[0]

    for compute in (inside, in_a_task):
        with anyio.fail_after(5):
            assert await flights.share("key", compute, owner=ANN, shared=str) == ("value True", True)
    assert not len(flights)


@given(st.lists(st.sampled_from(["comes", "leader goes", "follower goes"]), max_size=20))
async def test_whoever_stays_gets_the_value_and_each_computation_has_one_leader(steps: list[str]) -> None:
    work = Work()
    callers = Callers(work)
    present: list[int] = []  # the first of them leads
    leaders = 0
    async with anyio.create_task_group() as group:
        for step in steps:
            if step == "comes":
                await callers.come(group, ANN)
                leaders += not present
                present.append(len(callers.scopes) - 1)
            elif step == "leader goes" and present:
                await callers.leave(present.pop(0))
                leaders += bool(present)
            elif step == "follower goes" and len(present) > 1:
                await callers.leave(present.pop())
            assert work.started == leaders and len(work.flights) == bool(present)
        work.let_on.set()
    assert sorted(callers.answers) == present and work.ended == bool(present) and not len(work.flights)
