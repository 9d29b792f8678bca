"""A run that is cancelled, wherever it is."""

from collections.abc import Coroutine
from typing import Any, Literal

import anyio

from agent_runtime.lint import Stage
from agent_runtime.stream import Emit
from agent_runtime.testing.injection import Injection, Outcome, Trial, cancellations, inject
from agent_runtime.testing.middleware_contract import LayerContract, none_left
from agent_runtime.testing.middleware_passage import Crossing, Passage
from agent_runtime.testing.middleware_scene import Form, Scene, Told, plain, pushed, streamed

_LONG = 0.2  # seconds; what is inside is cancelled long before


class CancellationPromises(LayerContract):
    """Promises about runs that their caller cancels."""

    async def test_a_cancellation_reaches_what_is_inside_at_once(self) -> None:
        async with self.opened(self.make()) as scene:
            for stage in Stage:
                finished = False

                async def is_cancelled(emit: Emit) -> None:
                    nonlocal finished
                    scope.cancel()
                    await anyio.sleep(_LONG)
                    finished = True

                for name, form in {"execute()": plain, "execute(emit=)": pushed}.items():
                    finished = False
                    with anyio.CancelScope() as scope:
                        await scene.run(self.passage(at=(stage, "middle"), happens=is_cancelled), form)
                    assert not finished, (
                        f"{name}: the {stage} stage kept a cancellation from what is inside; is it in a shield?"
                    )
                    assert scope.cancelled_caught, f"{name}: a run cancelled in its {stage} stage did not end cancelled"

    async def test_a_run_cancelled_at_any_of_its_awaits_ends_cancelled(self) -> None:
        await self._cancel_everywhere(plain, "execute()")

    async def test_a_pushed_run_cancelled_at_any_of_its_awaits_ends_cancelled(self) -> None:
        await self._cancel_everywhere(pushed, "execute(emit=)")

    async def test_a_streamed_run_cancelled_at_any_await_of_its_consumer_ends_cancelled(self) -> None:
        await self._cancel_everywhere(streamed, "stream()")

    async def _cancel_everywhere(self, form: Form, name: str) -> None:
        async with self.opened(self.make()) as scene:
            for fault in cancellations():
                async with none_left(f"{name}, cancelled ({fault}) at each await,"):
                    await self._cancel_at_each_await(scene, form, name, fault)

    async def _cancel_at_each_await(
        self, scene: Scene, form: Form, name: str, fault: Literal["scope", "native"]
    ) -> None:
        passages: list[Passage] = []

        def make() -> Coroutine[Any, Any, Told]:
            passages.append(self.passage())
            return _noting(scene, passages[-1], form, len(passages))

        async def check(trial: Trial) -> None:
            when = f"{name}, cancelled ({fault}) at await {trial.at}"
            crossings = passages[-1].crossings
            for crossing in crossings:
                _check(crossing, when, native=fault == "native" and form is not streamed)
            _check_trial(trial, passages[-1], when)
            await self.works(scene, form, f"after {when}")
            for crossing in crossings:  # by now, whatever was left behind has had its turn
                late = any(call.late for call in crossing.calls)
                assert not late, f"{when}: the {crossing.stage} stage made a call when it was over"

        await inject(make, check, fault=fault, timeout=self.patience)


async def _noting(scene: Scene, passage: Passage, form: Form, at: int) -> Told:
    """The run; at the await at which it is going to be struck, it is noted what is under way."""
    return await Injection(scene.run(passage, form), at, passage.strike)


def _check_trial(trial: Trial, passage: Passage, when: str) -> None:
    assert trial.outcome in (Outcome.CANCELLED, Outcome.DONE), (
        f"{when}: the caller saw {trial.error or trial.outcome!r}, and not the cancellation"
    )
    if any(crossing.struck for crossing in passage.crossings):
        assert trial.outcome is Outcome.CANCELLED, f"{when}: the caller did not see the cancellation"


def _check(crossing: Crossing, when: str, *, native: bool) -> None:
    cancelled = anyio.get_cancelled_exc_class()
    stage = crossing.stage
    assert not crossing.behind and crossing.left is not None, f"{when}: the {stage} stage left its call behind, at work"
    for call in crossing.calls:
        assert not call.follows or isinstance(call.gave, BaseException), (
            f"{when}: the {stage} stage made a call after that, and it was done"
        )
    if any(isinstance(call.gave, cancelled) for call in crossing.calls) or (native and crossing.struck):
        assert isinstance(crossing.left, cancelled), (
            f"{when}: the {stage} stage swallowed it and gave {crossing.left!r}; re-raise what you catch"
        )
