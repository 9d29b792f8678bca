"""An onion as a tree: its three stages, and the layers of each, the outermost first."""

from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from agent_runtime import AgentExecutor, Placed, Stage
from agent_runtime_adapters.cli.terminal import printable

_TITLES = {Stage.RUN: "around the run", Stage.MODEL: "around each model call", Stage.TOOL: "around each tool call"}
_CORES = {Stage.RUN: "the agent", Stage.MODEL: "the model client", Stage.TOOL: "the tool"}
GUIDE = 4  # cells by which rich indents each level of a tree

Beside = Callable[[Stage, Placed | None], str]
"""What stands beside a layer; `None` is the innermost of the stage."""


def reached(executor: AgentExecutor) -> frozenset[Stage]:
    """The stages that the executor's agent says it reaches."""
    return frozenset({Stage.RUN, *map(Stage, getattr(executor.agent, "stages", ()))})


def onion(executor: AgentExecutor, beside: Beside, width: int) -> RenderableType:
    """One tree per stage, with what `beside` says in one column; lines are cut at `width`."""
    stages = {stage: executor.pipeline.layers(stage) for stage in Stage if stage in reached(executor)}
    ends = (
        GUIDE * depth + cell_len(_name(stage, layer))
        for stage, layers in stages.items()
        for depth, layer in enumerate((*layers, None), start=1)
    )
    column = max(ends) + 2
    return Group(*_spaced(_tree(stage, layers, beside, column, width) for stage, layers in stages.items()))


def _tree(stage: Stage, layers: Sequence[Placed], beside: Beside, column: int, width: int) -> Tree:
    tree = branch = Tree(Text(_TITLES[stage], style="bold"), guide_style="dim")
    for depth, layer in enumerate((*layers, None), start=1):
        name = _name(stage, layer)
        label = Text.assemble((name, "cyan" if layer else "bold cyan"))
        words = beside(stage, layer)
        if words:
            label.append(" " * (column - GUIDE * depth - cell_len(name)) + words)
        label.truncate(width - GUIDE * depth, overflow="ellipsis")
        branch = branch.add(label)
    return tree


def _name(stage: Stage, layer: Placed | None) -> str:
    return _CORES[stage] if layer is None else printable(layer.name)


def _spaced(trees: Iterator[Tree]) -> Iterator[RenderableType]:
    for place, tree in enumerate(trees):
        if place:
            yield Text()
        yield tree
