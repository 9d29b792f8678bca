import anyio
import pytest
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from agent_runtime.testing import Injection, Outcome, Trial, cancellations, inject


async def three_awaits() -> str:
    await checkpoint()
    await checkpoint()
    await checkpoint()
    return "done"


async def test_a_coroutine_is_struck_at_each_await_and_a_last_time_left_alone() -> None:
    for fault in cancellations():
        trials = await inject(three_awaits, fault=fault)
        assert [(trial.at, trial.struck, trial.outcome) for trial in trials] == [
            *((at, True, Outcome.CANCELLED) for at in range(1, len(trials))),
            (len(trials), False, Outcome.DONE),
        ]
        assert len(trials) > 3 and trials[-1].value == "done"


async def test_a_swallowed_cancellation_is_found() -> None:
    async def swallows() -> str:
        try:
            await checkpoint()
        except BaseException:  # noqa: BLE001 - the bug that is planted
            return "fine"
        return "done"

    for fault in cancellations():
        assert (await inject(swallows, fault=fault))[0].value == "fine"


async def test_a_hang_is_found_and_ended() -> None:
    async def hangs() -> None:
        try:
            await checkpoint()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(0.1):
                await anyio.sleep_forever()

    for fault in cancellations():
        trials = await inject(hangs, fault=fault, timeout=0.01)
        assert trials[0].outcome is Outcome.HANG


async def test_a_half_done_write_is_found() -> None:
    store: dict[str, int] = {}
    halves: list[int] = []

    async def write_both() -> None:
        store.clear()
        store["value"] = 1
        await checkpoint()
        store["index"] = 1

    async def check(trial: Trial) -> None:
        if len(store) == 1:
            halves.append(trial.at)

    for fault in cancellations():
        halves.clear()
        await inject(write_both, check, fault=fault)
        assert halves


async def test_an_exception_takes_the_place_of_what_the_await_would_have_given() -> None:
    error = OSError("reset by peer")
    trials = await inject(three_awaits, fault=error)
    assert len(trials) > 3
    assert all(trial.outcome is Outcome.ERROR and trial.error is error for trial in trials[:-1])
    assert trials[-1].outcome is Outcome.DONE


async def test_an_error_of_the_coroutine_is_an_outcome_too() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    [trial] = await inject(fails)
    assert trial.outcome is Outcome.ERROR and isinstance(trial.error, KeyError) and not trial.struck


async def test_a_second_strike_comes_during_the_clean_up_of_the_first() -> None:
    cleaned: list[str] = []

    async def cleans_up() -> None:
        try:
            await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                cleaned.append("both")

    await inject(cleans_up)
    assert set(cleaned) == {"both"} and len(cleaned) > 1
    if "native" in cancellations():  # which no shield of anyio's stops
        cleaned.clear()
        trials = await inject(cleans_up, fault="native", again=1)
        assert len(cleaned) < len(trials)


async def test_a_strike_inside_a_coroutine_gets_its_errors_and_counts_its_awaits() -> None:
    async def survives() -> str:
        try:
            await cancel_shielded_checkpoint()
        except KeyError:
            return "survived"
        return "done"

    def strike() -> None:
        raise KeyError

    injection = Injection(survives(), 1, strike)
    assert await injection == "survived" and injection.struck and injection.awaits == 1
    late = Injection(survives(), 5, strike)
    assert await late == "done" and not late.struck


async def test_an_error_of_what_is_awaited_reaches_the_coroutine() -> None:
    async def sleeps() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return "woken"
        return "slept"

    scope = anyio.CancelScope()
    with scope:
        assert await Injection(sleeps(), 1, scope.cancel) == "woken"


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_has_no_native_cancellation() -> None:
    assert cancellations() == ("scope",)
