"""Runs share nothing, and leave nothing behind."""

import contextvars
import gc
from itertools import pairwise

import anyio
from anyio.lowlevel import checkpoint

from agent_runtime.lint import Stage
from agent_runtime.stream import Emit
from agent_runtime.testing.growth import growth, sizes
from agent_runtime.testing.middleware_contract import LayerContract, none_left
from agent_runtime.testing.middleware_passage import Passage
from agent_runtime.testing.middleware_scene import FORMS, Form, Scene, Told, plain, pushed, streamed

_AT_ONCE = 50


class IsolationPromises(LayerContract):
    """Promises about many runs, and about what is left of them."""

    async def test_many_runs_at_once_in_two_pipelines_do_not_mix(self) -> None:
        """All of them are in the middle of their text at the same time."""
        arrived, all_there = 0, anyio.Event()

        async def waits_for_all(emit: Emit) -> None:
            nonlocal arrived
            arrived += 1
            if arrived == self.runs:
                all_there.set()
            await all_there.wait()

        async def run(scene: Scene, form: Form) -> None:
            passage = self.passage(at=(Stage.MODEL, "middle"), happens=waits_for_all)
            ended.append((passage, await scene.run(passage, form)))
            all_there.set()  # one that was refused keeps nobody waiting

        layer, ended, forms = self.make(), list[tuple[Passage, Told]](), tuple(FORMS.values())
        async with self.opened(layer) as one, self.opened(layer, opens=False) as other:
            with anyio.move_on_after(self.patience) as scope:
                async with anyio.create_task_group() as group:
                    for number in range(self.runs):
                        group.start_soon(run, (one, other)[number % 2], forms[number // 2 % 4])
        assert not scope.cancelled_caught, (
            f"{self.runs} runs at once, and only {arrived} came to the middle of their text in {self.patience} s "
            "(patience): the layer lets them in one by one, or not all of them"
        )
        for passage, told in ended:
            await self._check_own(passage, told, f"one of {self.runs} runs at once")

    async def test_runs_of_one_question_at_once_do_not_disturb_each_other(self) -> None:
        """Of runs that ask the same for the same user, the first to come to the model meets a bug, or is cancelled."""
        for ending in ("fails", "is cancelled"):
            others = await self._ask_together(ending)
            assert len(others) == 2 * len(FORMS) - 1, (
                f"when one of {2 * len(FORMS)} runs of one question {ending}, only {len(others)} others come to an end"
            )
            for passage, told in others:
                await self._check_own(passage, told, f"a run while another one of the same question {ending}")

    async def _ask_together(self, ending: str) -> list[tuple[Passage, Told]]:
        """Runs of one question, two in each form; all but the one that ended so."""
        context, first, others = self.new_context(), list[Passage](), list[tuple[Passage, Told]]()

        async def ask(scene: Scene, form: Form) -> None:
            async def happens(emit: Emit) -> None:
                await checkpoint()
                if not first:
                    first.append(passage)
                    await _end_as(ending, scope)

            with anyio.CancelScope() as scope:
                passage = Passage(context, at=(Stage.MODEL, "middle"), happens=happens)
                told = await scene.run(passage, form)
                if passage not in first:
                    others.append((passage, told))

        async with self.opened(self.make()) as scene:
            with anyio.move_on_after(self.patience):
                async with anyio.create_task_group() as group:
                    for form in (*FORMS.values(), *FORMS.values()):
                        group.start_soon(ask, scene, form)
        return others

    async def _check_own(self, passage: Passage, told: Told, which: str) -> None:
        context = passage.context
        strange = await self.strange(passage, told)
        assert not strange, (
            f"{which} is not told what it is told alone; is there state of a run on the layer? {strange}"
        )
        own = (context.user_id, context.current_task)
        asked = passage.seen_by_the_agent
        assert asked == own, f"{which} asked the agent as {asked}, and not as {own}"

    async def test_nothing_is_kept_of_runs_that_have_ended(self) -> None:
        """Of healthy runs, failed ones and cancelled ones, each of another user; what grows and grows is kept."""
        layer, held = self.make(), list[dict[str, int]]()
        async with self.opened(layer) as scene:
            for runs in (self.runs, self.runs // 2, self.runs // 2):
                await self._some_of_all_kinds(scene, runs)
                held.append(sizes(layer))
        if self._grown(held):  # or what is held weakly is only not yet collected
            gc.collect()
            held[-1] = sizes(layer)
        grown = self._grown(held)
        assert not grown, (
            f"after {self.runs // 2} more runs of other users the layer holds so many more objects: {grown}; if it "
            "bounds them, have make() give it a smaller bound (runs / 2)"
        )

    async def test_no_task_thread_or_context_variable_is_left(self) -> None:
        async with self.opened(self.make()) as scene:
            for name, form in FORMS.items():
                await self.works(scene, form, "at first")
                for ending in _ENDINGS:
                    of = f"{name} of a run that {ending}"
                    before = _variables()
                    async with none_left(of):
                        await self._end(scene, form, ending)
                    changed = [
                        variable.name for variable, value in _variables().items() if before.get(variable) != value
                    ]
                    assert not changed, f"{of} left context variables changed: {changed}; reset them in `finally`"

    async def test_a_second_lifespan_works_like_the_first(self) -> None:
        layer = self.make()
        for lifespan in ("first", "second"):
            async with none_left(f"the {lifespan} lifespan"), self.opened(layer) as scene:
                for form in FORMS.values():
                    await self.works(scene, form, f"in the {lifespan} lifespan")

    def _grown(self, held: list[dict[str, int]]) -> dict[str, int]:
        """What has grown twice, by more than a few."""
        first, then = (growth(before, after) for before, after in pairwise(held))
        return {name: count for name, count in then.items() if min(count, first.get(name, 0)) > self.runs // 16}

    async def _some_of_all_kinds(self, scene: Scene, runs: int) -> None:
        """Many at once, and then one after the other: what is kept of the last one is always kept of the same kind."""
        kinds = [(form, ending) for form in (plain, pushed, streamed) for ending in _ENDINGS]
        for first in range(0, runs, _AT_ONCE):
            async with anyio.create_task_group() as group:
                for number in range(first, min(first + _AT_ONCE, runs)):
                    group.start_soon(self._end, scene, *kinds[number % len(kinds)])
        for form, ending in kinds:
            await self._end(scene, form, ending)

    async def _end(self, scene: Scene, form: Form, ending: str) -> None:
        """A run that ends in this way."""

        async def happens(emit: Emit) -> None:
            await _end_as(ending, scope)

        with anyio.CancelScope() as scope:
            await scene.run(self.passage(at=(Stage.MODEL, "middle"), happens=happens), form)


_ENDINGS = ("succeeds", "fails", "is cancelled")


def _variables() -> dict[contextvars.ContextVar[object], object]:
    return dict(contextvars.copy_context())


async def _end_as(ending: str, scope: anyio.CancelScope) -> None:
    if ending == "fails":
        raise KeyError("a bug")
    if ending == "is cancelled":
        scope.cancel()
        await checkpoint()
