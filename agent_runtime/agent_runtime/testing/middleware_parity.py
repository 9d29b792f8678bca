"""A run is the same run, streamed or not, and with the layer as without it."""

from collections.abc import Mapping

from agent_runtime.lint import Stage
from agent_runtime.stream import Emit, Reset, TextDelta
from agent_runtime.testing.middleware_contract import LayerContract
from agent_runtime.testing.middleware_passage import Passage
from agent_runtime.testing.middleware_scene import (
    FORMS,
    Form,
    Told,
    answer_of,
    as_text,
    differences_of,
    plain,
    pushed,
    taking_resets,
)
from agent_runtime.types import Message, ModelResponse, ToolResult


class ParityPromises(LayerContract):
    """Promises about runs that nothing disturbs."""

    async def test_a_healthy_run_gives_the_same_in_every_form_and_without_the_layer(self) -> None:
        context = self.new_context()
        bare = await self.bare(context, plain)
        alone = await self.alone(context, plain)
        differences = differences_of(answer_of(alone), answer_of(bare))
        assert not differences or self.changes_answer or alone.raised, (
            f"the layer changed the answer; if that is its job, set changes_answer = True in its test class: {differences}"
        )
        expected = {**bare.outcome, **answer_of(alone)}
        for name, form in FORMS.items():
            passage = Passage(context)
            async with self.opened(self.make()) as scene:
                told = await scene.run(passage, form)
            self._check_crossings(passage, name)
            differences = differences_of(told.outcome, expected)
            assert not differences, f"{name} does not give what execute() gives without the layer: {differences}"

    async def test_a_run_that_is_repeated_gives_the_same_in_every_form(self) -> None:
        """The layer may know the answer then, and must tell it in each form."""
        context = self.new_context()
        expected: Mapping[str, object] | None = None
        for name, form in FORMS.items():
            async with self.opened(self.make()) as scene:
                await scene.run(Passage(context), form)
                passage = Passage(context)
                again = await scene.run(passage, form)
            self._check_text(passage, again, name, form)
            expected = expected or again.outcome
            differences = differences_of(again.outcome, expected)
            assert not differences, f"{name}, repeated, does not give what a repeated execute() gives: {differences}"

    async def test_events_pass_unchanged_and_in_order(self) -> None:
        """Those of a layer that changes answers may say something else, and the same in every form."""
        context = self.new_context()
        alone = await self.alone(context, pushed)
        for name, form in FORMS.items():
            expected = await self.bare(context, form)
            passage = Passage(context)
            async with self.opened(self.make()) as scene:
                told = await scene.run(passage, form)
            assert self._story(told) == self._story(expected), (
                f"{name} gives other events than without the layer, compare ({self._says}):\n"
                f"{self._story(told)}\n{self._story(expected)}"
            )
            assert not told.streamed or _text(told) == _text(alone), (
                f"{name} streams another text than execute(emit=): {_text(told)!r}, and not {_text(alone)!r}"
            )
            self._check_text(passage, told, name, form)

    async def test_what_it_refuses_or_answers_itself_is_the_same_in_every_form(self) -> None:
        for context in self.other_contexts():
            expected: Mapping[str, object] | None = None
            for name, form in FORMS.items():
                passage = Passage(context)
                async with self.opened(self.make()) as scene:
                    told = await scene.run(passage, form)
                    self._check_text(passage, told, name, form)
                expected = expected or _words(told)
                differences = differences_of(_words(told), expected)
                assert not differences, f"{name} of {context!r} does not give what execute() gives: {differences}"

    async def test_what_it_is_given_stays_as_it_is(self) -> None:
        for name, form in FORMS.items():
            passage = self.passage()
            async with self.opened(self.make()) as scene:
                await scene.run(passage, form)
            for crossing in passage.crossings:
                assert not crossing.changed, (
                    f"{name}: the {crossing.stage} stage has changed {crossing.changed} in place; pass on a copy"
                )

    async def test_text_that_is_withdrawn_inside_is_withdrawn_outside(self) -> None:
        """`Reset`, from a retry further inside, at the run and at the model stage."""
        for stage in (Stage.RUN, Stage.MODEL):
            step = 1 if stage is Stage.MODEL else 0

            async def starts_anew(emit: Emit, step: int = step) -> None:
                await emit(TextDelta(text="Nothing at all.", step=step))
                await emit(Reset(step=step))

            context = self.new_context()
            expected = await self.bare(context, taking_resets, at=(stage, "before"), happens=starts_anew)
            async with self.opened(self.make()) as scene:
                told = await scene.run(Passage(context, at=(stage, "before"), happens=starts_anew), taking_resets)
            alone = await self.alone(context, taking_resets)
            assert told.texts() == alone.texts(), (
                f"the {stage} stage did not let a Reset pass, or gave out text that it had withdrawn: in the end "
                f"{told.texts()} stands, and {alone.texts()} when nothing was withdrawn"
            )
            assert self.holds_text or self._story(told) == self._story(expected), (
                f"the {stage} stage changed the events around a Reset ({self._says}): {self._story(told)}, and not "
                f"{self._story(expected)}"
            )

    def _story(self, told: Told) -> object:
        """What of the events is the same behind the layer."""
        if self.changes_answer:
            return [type(event).__name__ for event in told.events if not isinstance(event, TextDelta)]
        if not self.holds_text:
            return told.story
        return told.texts(), [event for event in told.story if not isinstance(event, TextDelta)]

    @property
    def _says(self) -> str:
        return f"holds_text={self.holds_text}, changes_answer={self.changes_answer}"

    def _check_text(self, passage: Passage, told: Told, name: str, form: Form) -> None:
        if told.result is None or not told.result.success or not told.streamed:
            return
        said, output = told.said, told.result.output
        answers = (output, passage.answer) if self.changes_answer else (output,)
        is_answer = said.endswith(answers) if form is as_text else said in answers
        assert is_answer, f"{name}: the text of the last step is {said!r}, and the output {output!r} ({self._says})"

    def _check_crossings(self, passage: Passage, name: str) -> None:
        for crossing in passage.crossings:
            assert len(crossing.calls) == 1, (
                f"{name}: the {crossing.stage} stage called what is inside {len(crossing.calls)} times in a healthy run"
            )
            assert not crossing.calls[0].late, f"{name}: the {crossing.stage} stage made its call when it was over"
            left, gave = crossing.left, crossing.calls[0].gave
            if self.changes_answer:
                left, gave = _without_words(left), _without_words(gave)
            assert left == gave or crossing.stage is Stage.RUN, (
                f"{name}: the {crossing.stage} stage gave {left!r} for {gave!r}"
            )


def _without_words(given: object) -> object:
    if isinstance(given, ModelResponse):
        return given.replace(message=Message(role="assistant", tool_calls=given.message.tool_calls))
    return given.replace(content="") if isinstance(given, ToolResult) else given


def _text(told: Told) -> str:
    """All the text that stands in the end."""
    return "".join(told.texts().values())


def _words(told: Told) -> dict[str, object]:
    """Of a run that the layer ended: what has no time in it."""
    if told.result is None:
        return {"raised": type(told.error)}
    fields = ("success", "output", "data", "error_type", "retryable", "served_by", "finish_reason", "usage", "messages")
    words: dict[str, object] = {name: getattr(told.result, name) for name in fields}
    return words | {"exception": type(told.result.exception)}
