"""How a batch went, in figures: counted line by line, and told at the end."""

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from time import monotonic

import msgspec
from rich.console import Console

from agent_runtime import AgentResult, AgentRuntimeError, Usage
from agent_runtime_adapters.cli.batch_output import Ending
from agent_runtime_adapters.cli.exits import bug
from agent_runtime_adapters.cli.sections import facts


class Times(msgspec.Struct, frozen=True):
    """How long runs took, in milliseconds: each percentile is the time of a run (nearest rank), nothing is estimated."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Times | None":
        """Of no runs there are none."""
        if not times:
            return None
        ranked = sorted(times)
        p50, p95, p99 = (round(ranked[math.ceil(part * len(ranked) / 100) - 1], 3) for part in (50, 95, 99))
        return cls(p50=p50, p95=p95, p99=p99, max=round(ranked[-1], 3))


class Before(msgspec.Struct, frozen=True):
    """Lines that were not run, as their outcome was there."""

    succeeded: int
    failed: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints.

    Attributes:
        lines: Lines of the input that are not empty.
        failed: Lines by `error_type`, the most frequent first.
        bugs: Those of them that failed by an unexpected exception, by its type and place.
        left: Lines that have no outcome, because the batch was ended.
        cache_hits: Lines that a cache answered.
        execution_time_ms: Of the runs of this batch, failed ones too.
        seconds: From the first run to the last, by the clock.
        rate: Outcomes in a second.
    """

    lines: int
    succeeded: int
    failed: dict[str, int]
    bugs: dict[str, int]
    done_before: Before
    left: int
    cache_hits: int
    execution_time_ms: Times | None
    usage: Usage
    seconds: float
    rate: float
    output: str

    @property
    def flawless(self) -> bool:
        """Whether every line has succeeded, now or before."""
        return not (self.failed or self.done_before.failed or self.left)


class Tally:
    """Counts outcomes. It keeps one figure of each run, its time: 8 bytes."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed: Counter[str] = Counter()
        self._bugs: Counter[str] = Counter()
        self._before: Counter[Ending] = Counter()
        self._times = array("d")
        self._cache_hits = 0
        self._usage = Usage()
        self._began = self._ended = monotonic()

    @property
    def ended(self) -> int:
        """How many lines have an outcome since the batch began."""
        return self.succeeded + self.failed.total()

    def skip(self, ending: Ending) -> None:
        """A line that was done before."""
        self._before[ending] += 1

    def refuse(self, result: AgentResult) -> None:
        """A line that was not run, as it is no task."""
        self.failed[str(result.error_type)] += 1

    def begin(self) -> None:
        """From now on time counts."""
        self._began = self._ended = monotonic()

    def add(self, result: AgentResult) -> str | None:
        """A line that was run. Returns the bug that failed it, where no line before it has shown the same."""
        if result.success:
            self.succeeded += 1
        else:
            self.failed[str(result.error_type)] += 1
        self._cache_hits += result.served_by == "cache"
        self._times.append(result.execution_time_ms)
        self._usage += result.usage
        self._ended = monotonic()
        if result.exception is None or isinstance(result.exception, AgentRuntimeError):
            return None
        found = bug(result.exception)
        self._bugs[found] += 1
        return found if self._bugs[found] == 1 else None

    def summary(self, output: str, *, left: int) -> Summary:
        """What was counted."""
        before = Before(succeeded=self._before["succeeded"], failed=self._before["failed"] + self._before["retryable"])
        seconds = self._ended - self._began
        return Summary(
            lines=self.ended + self._before.total() + left,
            succeeded=self.succeeded,
            failed=_ranked(self.failed),
            bugs=_ranked(self._bugs),
            done_before=before,
            left=left,
            cache_hits=self._cache_hits,
            execution_time_ms=Times.of(self._times),
            usage=self._usage,
            seconds=round(seconds, 3),
            rate=round(len(self._times) / seconds, 3) if seconds else 0.0,
            output=output,
        )


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def show(summary: Summary, out: Console) -> None:
    """Print it for a person; what there is nothing of is left out."""
    facts(out, *((name, words) for name, words in _facts(summary) if words))


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    failed, before, times, usage = summary.failed, summary.done_before, summary.execution_time_ms, summary.usage
    cost = "" if usage.cost is None else f", cost {usage.cost:f}"
    earlier = before.succeeded + before.failed
    yield "lines", f"{summary.lines:,}"
    yield "succeeded", f"{summary.succeeded:,}"
    yield "failed", f"{sum(failed.values()):,}: {_listed(failed)}" if failed else "0"
    yield "bugs", _listed(summary.bugs)
    yield "done before", f"{earlier:,}, of which {before.failed:,} failed" if earlier else ""
    yield "left", f"{summary.left:,}" if summary.left else ""
    yield "from cache", f"{summary.cache_hits:,}" if summary.cache_hits else ""
    yield "time", _times(times) if times else ""
    yield "tokens", f"{usage.input_tokens:,} in, {usage.output_tokens:,} out{cost}" if usage.output_tokens else ""
    yield "took", f"{summary.seconds:,.1f} s, {summary.rate:,.1f} lines/s" if times else ""
    yield "output", summary.output


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())


def _times(times: Times) -> str:
    return ", ".join(
        f"{name} {value:,.{0 if value >= 100 else 2}f} ms"
        for name, value in (("p50", times.p50), ("p95", times.p95), ("p99", times.p99), ("max", times.max))
    )
