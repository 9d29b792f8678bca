"""The programs of `tests/faults`, with few faults; `AGENT_RUNTIME_SOAK=1` has them make all, from a new seed."""

import time

import anyio
import pytest
from tests.faults.cancel import cancel
from tests.faults.crowd import LOOKS, crowd
from tests.faults.drain import drain
from tests.faults.fence import fence
from tests.faults.figures import SOAK, Figure, Program, kept
from tests.faults.isolation import CALLED, isolation
from tests.faults.kill import kill
from tests.faults.limits import limits
from tests.faults.outage import outage
from tests.faults.places import DURABLE, SERVERS, STORES
from tests.faults.race import race
from tests.faults.skew import skew

from agent_runtime import SessionManager

SEED = time.time_ns() % 1_000_000 if SOAK else 7

durable = pytest.mark.parametrize("store", DURABLE, indirect=True)
# In the short run processes are killed, paused and raced over each server, and the rest is made over one of them.
every = pytest.mark.parametrize(
    "store", [name for name in STORES if SOAK or name not in ("mongodb", "postgres")], indirect=True
)


SLOWER = {"mongodb": 4}  # how many times as long as the others the server of the tests takes


def made(program: Program, store: str, *, few: int, full: int) -> Figure:
    """With few faults, and fewer where each takes its way over a connection."""
    some = max(2, few // 3 // SLOWER.get(store, 1)) if store in SERVERS else few
    return counted(program, store, full if SOAK else some)


def counted(program: Program, store: str, count: int) -> Figure:
    figure: Figure = kept(anyio.run(program, store, count, SEED))
    assert figure.met, str(figure)
    return figure


@durable
def test_a_worker_killed_at_any_moment_loses_and_repeats_nothing(store: str) -> None:
    figure = made(kill, store, few=15 * SLOWER.get(store, 1), full=200)
    assert figure.faults >= 5 and figure.seen["turns completed"] > 0


@durable
def test_a_worker_killed_while_it_writes_behind_repeats_no_effect(store: str) -> None:
    async def behind(store: str, count: int, seed: int) -> Figure:
        return await kill(store, count, seed, "async")

    figure = anyio.run(behind, store, 100 if SOAK else 3 if store in SERVERS else 8, SEED)
    assert figure.met, str(figure)


@durable
def test_all_that_a_worker_writes_is_refused_when_it_was_paused_for_too_long(store: str) -> None:
    figure = made(fence, store, few=3, full=100)
    assert figure.seen["stale writes refused"] >= figure.faults


@pytest.mark.parametrize("store", STORES, indirect=True)
def test_of_eight_workers_that_resume_a_run_one_has_it(store: str) -> None:
    made(race, store, few=4, full=200)


@every
def test_a_clock_that_steps_changes_no_order_and_ends_nothing_before_its_time(store: str) -> None:
    made(skew, store, few=30, full=500)


@every
def test_a_cancellation_at_any_await_leaves_nothing_half_done(store: str) -> None:
    if SOAK:
        made(cancel, store, few=1, full=3)
        return
    figure = anyio.run(lambda: cancel(store, 1, SEED, stride=29 * SLOWER.get(store, 1) if store in SERVERS else 13))
    assert figure.met, str(figure)


@every
def test_a_store_call_that_fails_loses_and_repeats_nothing(store: str) -> None:
    each = 50 * SLOWER.get(store, 1) if store in SERVERS else 17
    counted(outage, store, 1 if SOAK else each)  # each so many-th call


@durable
def test_a_service_that_is_told_to_end_leaves_every_run_ended_or_resumable(store: str) -> None:
    made(drain, store, few=2, full=50)


@every
def test_at_the_edge_of_a_quota_no_run_too_many_is_let_in_and_none_too_few(store: str) -> None:
    made(limits, store, few=2, full=100)


@pytest.mark.parametrize("store", LOOKS, indirect=True)
def test_one_users_sessions_cost_the_same_among_many(store: str) -> None:
    figure = kept(anyio.run(crowd, store, 100_000 if SOAK else 500, SEED))
    assert figure.met, str(figure)


@every
def test_an_owner_is_answered_as_if_there_were_no_other(store: str) -> None:
    made(isolation, store, few=60, full=5_000)


def test_the_owners_call_every_method_that_takes_an_owner() -> None:
    public = {name for name in dir(SessionManager) if not name.startswith("_")}
    used_by_runs = {
        "acquire",
        "finish_run",
        "journal",
        "record",
        "release",
        "renewing",
        "renewing_later",
        "stored_runs",
    }
    of_all_owners = {"cleanup_expired"}
    assert public - used_by_runs - of_all_owners == CALLED.keys() - {"execute", "resume"}
