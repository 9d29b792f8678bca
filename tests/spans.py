"""What the OpenTelemetry SDK was told, kept in memory, and a trace as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

# What is shown beside a span's name, where it is not what it is in any healthy run.
SHOWN = {
    "error.type": "!{}",
    "agent_runtime.served_by": "by {}",
    "agent_runtime.attempt": "attempt {}",
    "agent_runtime.attempts": "{} attempts",
    "agent_runtime.cached": "cached",
}
USUAL = {("agent_runtime.served_by", "agent"), ("agent_runtime.attempt", 1), ("agent_runtime.attempts", 1)}


class Recorder(SpanProcessor):
    """A tracer provider of the SDK whose spans stay here."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.started = 0
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(self)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started += 1

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """What has ended, in that order. That each span has ended, and only once, is checked."""
        ended = self._exporter.get_finished_spans()
        assert len({identity(span) for span in ended}) == len(ended) == self.started
        return ended

    @property
    def tree(self) -> str:
        """The spans as indented text, each under its parent, in the order in which they started."""
        return "\n".join(self.trees)

    @property
    def trees(self) -> list[str]:
        known = {identity(span) for span in self.spans}
        children: dict[int | None, list[ReadableSpan]] = {}
        for span in sorted(self.spans, key=_start):
            above = parent(span)
            children.setdefault(above if above in known else None, []).append(span)
        return ["\n".join(_lines(root, children)) for root in children.get(None, ())]

    def named(self, name: str) -> ReadableSpan:
        [span] = [span for span in self.spans if span.name == name]
        return span


def attributes(thing: ReadableSpan | Event) -> dict[str, Any]:
    return dict(thing.attributes or {})


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def told(span: ReadableSpan) -> str:
    """All that a span holds, as text."""
    return str(span.to_json())


def _start(span: ReadableSpan) -> int:
    return span.start_time or 0


def _lines(span: ReadableSpan, children: Mapping[int | None, Sequence[ReadableSpan]], depth: int = 0) -> Iterator[str]:
    told_of = attributes(span)
    remarks = [
        SHOWN[name].format(told_of[name]) for name in SHOWN if told_of.get(name) and (name, told_of[name]) not in USUAL
    ]
    if told_of.get("agent_runtime.outcome") == "suspended":
        remarks.append("suspended")
    yield " ".join(["  " * depth + span.name, *remarks])
    for child in children.get(identity(span), ()):
        yield from _lines(child, children, depth + 1)
