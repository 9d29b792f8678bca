"""The spans of the demo's runs, kept in memory by the OpenTelemetry SDK, and a trace as a tree."""

from collections import defaultdict
from collections.abc import Mapping

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.cells import cell_len
from rich.text import Text
from rich.tree import Tree

from agent_runtime_adapters.cli.onion import GUIDE
from agent_runtime_adapters.cli.terminal import printable

_Children = Mapping[int | None, list[ReadableSpan]]


class Spans:
    """A tracer provider whose spans stay here."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def tree(self, trace_id: str | None, width: int) -> Tree:
        """The spans of a trace under their parents, in the order of their start, each with its time."""
        children: defaultdict[int | None, list[ReadableSpan]] = defaultdict(list)
        for span in self._exporter.get_finished_spans():
            if span.context is not None and f"{span.context.trace_id:032x}" == trace_id:
                children[None if span.parent is None else span.parent.span_id].append(span)
        column = max(_ends(children, None, depth=1), default=0) + 2
        tree = Tree(Text(f"trace {trace_id}", style="bold"), guide_style="dim")
        _grow(tree, children, None, column, width, depth=1)
        return tree


def _ends(children: _Children, above: int | None, depth: int) -> list[int]:
    """Where the names of these spans end, and of all that are below them."""
    ends: list[int] = []
    for span in children.get(above, ()):
        ends += [GUIDE * depth + cell_len(printable(span.name)), *_ends(children, _id(span), depth + 1)]
    return ends


def _grow(tree: Tree, children: _Children, above: int | None, column: int, width: int, depth: int) -> None:
    for span in sorted(children.get(above, ()), key=_start):
        name = printable(span.name)
        took = ((span.end_time or 0) - _start(span)) / 1e6
        gap = " " * (column - GUIDE * depth - cell_len(name))
        label = Text.assemble((name, "cyan"), f"{gap}{took:>9,.2f} ms")
        label.truncate(width - GUIDE * depth, overflow="ellipsis")
        _grow(tree.add(label), children, _id(span), column, width, depth + 1)


def _id(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.span_id


def _start(span: ReadableSpan) -> int:
    return span.start_time or 0
