"""What each part of the contract of layers stands on: a layer, runs of it, and what one may say of itself."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from agent_runtime.context import AgentContext
from agent_runtime.ids import new_id
from agent_runtime.lint import Stage
from agent_runtime.pipeline import Layer
from agent_runtime.testing.leaks import Leak, no_leaks
from agent_runtime.testing.middleware_passage import Happening, Passage, Place
from agent_runtime.testing.middleware_scene import Form, Scene, Told, answer_of, differences_of, opened, plain, pushed


class LayerContract:
    """What a layer's test class gives, and what the promises use."""

    holds_text: ClassVar[bool] = False
    changes_answer: ClassVar[bool] = False
    may_call_again: ClassVar[bool] = False
    may_answer: ClassVar[bool] = False
    runs: ClassVar[int] = 1_000
    patience: ClassVar[float] = 30.0

    @abstractmethod
    def make(self) -> Layer:
        """A new layer, configured so that healthy, quick runs of any number of users pass through it.

        It lets `runs` runs in at once. What it keeps by user or by request is bounded here by `runs / 2` entries.
        """

    def context(self) -> AgentContext:
        """What the runs ask for; override it for a layer that wants more.

        Each run gets an id appended to its task and, where it presents no credential, to its user. With a credential it
        names that one's user.
        """
        return AgentContext(
            agent_id="contract", user_id="user", current_task="What is in the pond?", metadata={"tags": ["contract"]}
        )

    def other_contexts(self) -> Sequence[AgentContext]:
        """Contexts that the layer refuses or answers itself: such runs must be the same in every form, too."""
        return ()

    def passage(self, *, at: tuple[Stage, Place] | None = None, happens: Happening | None = None) -> Passage:
        """A new run, of a new user."""
        return Passage(self.new_context(), at=at, happens=happens)

    def new_context(self) -> AgentContext:
        context, name = self.context(), new_id()
        task = f"{context.current_task} {name}"
        if context.credential is not None:
            return context.replace(current_task=task)
        return context.replace(current_task=task, user_id=f"{context.user_id}-{name}")

    def opened(self, layer: Layer | None, *, opens: bool = True) -> AbstractAsyncContextManager[Scene]:
        """A scene around `layer`; `None` is one in which nothing is watched."""
        return opened(layer, patience=self.patience, opens=opens)

    async def bare(
        self,
        context: AgentContext,
        form: Form,
        *,
        at: tuple[Stage, Place] | None = None,
        happens: Happening | None = None,
    ) -> Told:
        """The same run without the layer, and so without a credential."""
        async with self.opened(None) as scene:
            return await scene.run(Passage(context.replace(credential=None), at=at, happens=happens), form)

    async def alone(self, context: AgentContext, form: Form) -> Told:
        """The same run through a new layer, which no other run has passed."""
        async with self.opened(self.make()) as scene:
            return await scene.run(Passage(context), form)

    async def works(self, scene: Scene, form: Form, when: str) -> None:
        """Have a healthy run pass, with its own answer."""
        passage = self.passage()
        strange = await self.strange(passage, await scene.run(passage, form))
        assert not strange, f"{when}, the same layer does not serve a healthy run as a new one does: {strange}"

    async def strange(self, passage: Passage, told: Told) -> str:
        """What a run was told that it is not told alone; empty when it was told its own.

        An answer that the layer changes in a run alone, too, is no matter of other runs: it is held to that.
        """
        result = told.result
        if result is None or not result.success:
            return f"it gave {told.raised or result!r}"
        is_own = result.output == passage.answer and not result.metadata
        if is_own and not self.changes_answer and (not told.streamed or told.said.endswith(passage.answer)):
            return ""
        alone = await self.alone(passage.context, pushed if told.streamed else plain)
        found, expected = answer_of(told), answer_of(alone)
        if told.streamed and not told.said.endswith(alone.said):
            found, expected = {**found, "streamed text": told.said}, {**expected, "streamed text": alone.said}
        return differences_of(found, expected)


@asynccontextmanager
async def none_left(of: str) -> AsyncGenerator[None]:
    """No task, thread or file of the body is left; `of` says what it was."""
    try:
        async with no_leaks():
            yield
    except Leak as leak:
        raise AssertionError(f"{of} left something behind: {leak}") from None
