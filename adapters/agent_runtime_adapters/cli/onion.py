"""An onion as a tree: its three stages, and the layers of each, the outermost first."""

import re
from collections.abc import Callable, Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from agent_runtime import AgentExecutor, Placed, Stage
from agent_runtime_adapters.cli.terminal import printable

_TITLES = {Stage.RUN: "around the run", Stage.MODEL: "around each model call", Stage.TOOL: "around each tool call"}
_CORES = {Stage.RUN: "the agent", Stage.MODEL: "the model client", Stage.TOOL: "the tool"}
GUIDE = 4  # cells by which rich indents each level of a tree
_LEAST = 30  # cells that long words beside a layer need; where there are fewer, they stand below it
_INDENT = 2

Beside = Callable[[Stage, Placed | None], str]
"""What stands beside a layer; `None` is the innermost of the stage."""


def reached(executor: AgentExecutor) -> frozenset[Stage]:
    """The stages that the executor's agent says it reaches."""
    return frozenset({Stage.RUN, *map(Stage, getattr(executor.agent, "stages", ()))})


def onion(executor: AgentExecutor, beside: Beside, width: int) -> RenderableType:
    """One tree per stage, with what `beside` says in one column; what is longer than `width` goes on below."""
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
            label.append(_placed(words, cell_len(name), column - GUIDE * depth, width - GUIDE * depth))
        branch = branch.add(label)
    return tree


def _placed(words: str, used: int, column: int, width: int) -> str:
    """`words` from `column` on, after a name of `used` cells; where the room is narrow, below the name."""
    beside = width - column >= min(_LEAST, cell_len(words))
    start = column if beside else _INDENT
    first, *others = _wrapped(words, max(width - start, 1))
    gap = " " * (column - used) if beside else f"\n{' ' * start}"
    return gap + f"\n{' ' * start}".join((first, *others))


def _wrapped(words: str, room: int) -> list[str]:
    """Lines of at most `room` cells; a word that is longer is parted, after a dot or a slash if it has one."""
    lines = [""]
    for word in words.split():
        parts = [word] if cell_len(word) <= room else re.findall(r"[^./]*[./]|[^./]+", word)
        pieces = [piece for part in parts for piece in chop_cells(part, room)]
        for place, piece in enumerate(pieces):
            space = " " if lines[-1] and place == 0 else ""
            if cell_len(lines[-1]) + len(space) + cell_len(piece) > room:
                lines.append(piece)
            else:
                lines[-1] += space + piece
    return lines


def _name(stage: Stage, layer: Placed | None) -> str:
    return _CORES[stage] if layer is None else printable(layer.name)


def _spaced(trees: Iterator[Tree]) -> Iterator[RenderableType]:
    for place, tree in enumerate(trees):
        if place:
            yield Text()
        yield tree
