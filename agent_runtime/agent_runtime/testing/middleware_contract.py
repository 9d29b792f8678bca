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
from agent_runtime.testing.middleware_scene import Form, Scene, Told, opened


class LayerContract:
    """What a layer's test class gives, and what the promises use."""

    holds_text: ClassVar[bool] = False
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

    async def works(self, scene: Scene, form: Form, when: str) -> None:
        """Have a healthy run pass, with its own answer."""
        passage = self.passage()
        told = await scene.run(passage, form)
        assert told.result is not None and told.result.output == passage.answer, (
            f"{when}, the same layer does not serve a healthy run any more: it gave {told.raised or told.result!r}"
        )


@asynccontextmanager
async def none_left(of: str) -> AsyncGenerator[None]:
    """No task, thread or file of the body is left; `of` says what it was."""
    try:
        async with no_leaks():
            yield
    except Leak as leak:
        raise AssertionError(f"{of} left something behind: {leak}") from None
