"""What fails inside the layer, and a consumer that goes away."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import NoReturn

import anyio

from agent_runtime.errors import AgentRuntimeError, ConsumerGone, ProviderUnavailable, RequestRejected, Suspended
from agent_runtime.executor import AgentExecutor
from agent_runtime.lint import Stage
from agent_runtime.stream import Emit, RunCompleted, StreamEvent
from agent_runtime.testing.middleware_contract import LayerContract
from agent_runtime.testing.middleware_passage import PLACES, Crossing, Happening, Passage, Place
from agent_runtime.testing.middleware_scene import Form, Scene, Told, differences_of, plain, pushed, streamed
from agent_runtime.types import Question, Usage

_FORMS: dict[str, Form] = {"execute()": plain, "execute(emit=)": pushed, "stream()": streamed}
_ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: KeyError("a bug"),
    lambda: RequestRejected("the model refuses"),
    lambda: ProviderUnavailable("the model is away"),
)


class FailurePromises(LayerContract):
    """Promises about runs that fail, and about consumers that do."""

    async def test_an_error_from_inside_leaves_as_the_same_object(self) -> None:
        """Before the first piece of text, among them, and after the last; a failed run fails alike in every form."""
        async with AsyncExitStack() as stack:
            scenes = {name: await stack.enter_async_context(self.opened(self.make())) for name in _FORMS}
            for stage in Stage:
                for place in PLACES:
                    for make_error in _ERRORS:
                        await self._check_error(scenes, stage, place, make_error())
            for name, form in _FORMS.items():
                await self.works(scenes[name], form, "after runs that failed")

    async def test_a_suspension_leaves_as_it_is_and_is_not_tried_again(self) -> None:
        async with self.opened(self.make()) as scene:
            for stage in Stage:
                question = Question(key="go on", text="Shall it go on?")
                suspended = Suspended("the run waits", questions=(question,))
                for name, form in _FORMS.items():
                    passage = self.passage(at=(stage, "middle"), happens=_raising(suspended))
                    told = await scene.run(passage, form)
                    for crossing in _failed(passage):
                        assert crossing.left is suspended and len(crossing.calls) == 1, (
                            f"{name}: the {crossing.stage} stage gave {crossing.left!r} after {len(crossing.calls)} "
                            "calls for Suspended; it must pass it on, and may not call again"
                        )
                    assert told.raised is suspended, f"{name} gave {told.raised or told.result!r} for Suspended"
            await self.works(scene, plain, "after a run that was suspended")

    async def test_an_emit_that_raises_ends_the_run(self) -> None:
        async with self.opened(self.make()) as scene:
            number = 0
            while await self._is_ended_by_emit(scene, number):
                number += 1
            await self.works(scene, pushed, "after runs whose consumer went away")

    async def test_a_consumer_that_leaves_early_waits_for_the_layers_clean_up(self) -> None:
        async with self.opened(self.make()) as scene:
            told = await scene.run(self.passage(), streamed)
            for number in range(1, len(told.events)):
                passage = self.passage()
                await scene.run(passage, _leaving_early(number))
                for crossing in passage.crossings:
                    when = f"the consumer left the stream after {number} events"
                    _check_gone(crossing, when, at_once=False)
                    assert not crossing.behind and crossing.left is not None, (
                        f"{when}, and the {crossing.stage} stage is still at work when the block has been left"
                    )
            await self.works(scene, streamed, "after streams that were left early")

    async def _is_ended_by_emit(self, scene: Scene, number: int) -> bool:
        """Have the emit of that event raise; false when the run ends before."""
        passage = self.passage()
        told = await scene.run(passage, _leaving_by_error(number))
        if isinstance(told.events[-1], RunCompleted):
            return False
        for crossing in passage.crossings:
            _check_gone(crossing, f"the emit of event {number} raised", at_once=True)
        assert isinstance(told.raised, ConsumerGone), (
            f"the emit of event {number} raised, and the run gave {told.raised or told.result!r}, "
            "not ConsumerGone: let it pass as it is"
        )
        return True

    async def _check_error(self, scenes: Mapping[str, Scene], stage: Stage, place: Place, error: Exception) -> None:
        context, outcomes = self.new_context(), dict[str, Mapping[str, object]]()
        where = f"{type(error).__name__} {place} the {stage} stage's text"
        retryable = isinstance(error, AgentRuntimeError) and error.retryable
        for name, form in _FORMS.items():
            passage = Passage(context, at=(stage, place), happens=_raising(error))
            outcomes[name] = self._outcome(await scenes[name].run(passage, form))
            for crossing in _failed(passage):
                calls = len(crossing.calls)
                assert calls == 1 or (retryable and self.may_call_again), (
                    f"{name}, {where}: the {crossing.stage} stage made the call {calls} times (may_call_again)"
                )
                assert crossing.left is error or (retryable and self.may_answer), (
                    f"{name}, {where}: the {crossing.stage} stage gave {crossing.left!r} (may_answer)"
                )
        if retryable and self.may_answer and stage is not Stage.TOOL and place != "before":
            return  # what was delivered is not said again, so that a stream may not have the other answer
        for name, outcome in outcomes.items():
            differences = differences_of(outcome, outcomes["execute()"])
            assert not differences, f"{where}: {name} does not give what execute() gives: {differences}"

    def _outcome(self, told: Told) -> Mapping[str, object]:
        """What is to be equal in a failed run: a streamed call that broke off is known to have cost more."""
        outcome = dict(told.outcome)
        usage = outcome.pop("usage", None)
        if self.may_call_again:  # what was delivered is not said again, so that a stream may give up earlier
            outcome.pop("attempts", None)
        elif isinstance(usage, Usage):
            outcome |= {"requests": usage.requests, "input_tokens": usage.input_tokens}
        return outcome


def _failed(passage: Passage) -> list[Crossing]:
    """Where what was called inside has failed."""
    return [
        crossing for crossing in passage.crossings if any(isinstance(call.gave, Exception) for call in crossing.calls)
    ]


def _raising(error: Exception) -> Happening:
    async def happens(emit: Emit) -> NoReturn:
        raise error

    return happens


def _leaving_by_error(number: int) -> Form:
    async def form(executor: AgentExecutor, passage: Passage, told: Told) -> None:
        async def send(event: StreamEvent) -> None:
            told.events.append(event)
            if len(told.events) > number:
                passage.strike()
                raise OSError("the connection is closed")

        told.result = await executor.execute(passage.context, principal=passage.principal, emit=send)

    return form


def _leaving_early(number: int) -> Form:
    async def form(executor: AgentExecutor, passage: Passage, told: Told) -> None:
        async with executor.stream(passage.context, principal=passage.principal) as stream:
            while len(told.events) < number:
                told.events.append(await anext(stream))
            passage.strike()

    return form


def _check_gone(crossing: Crossing, when: str, *, at_once: bool) -> None:
    """`at_once`: the layer knows of it before it can make another call; otherwise such a call must be refused."""
    follows = [
        call for call in crossing.calls if call.follows and (at_once or not isinstance(call.gave, BaseException))
    ]
    assert not follows, f"{when}, and the {crossing.stage} stage made a call after that"
    if any(call.struck and isinstance(call.gave, BaseException) for call in crossing.calls):
        assert isinstance(crossing.left, ConsumerGone | anyio.get_cancelled_exc_class()), (
            f"{when}, and the {crossing.stage} stage gave {crossing.left!r}: neither translate nor answer that"
        )
