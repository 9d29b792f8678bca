"""Which orders of layers are unsafe, and what to do about it."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Literal

from agent_runtime.types import Value


class Stage(StrEnum):
    """Where a layer works: around the run, around each model call, around each tool call."""

    RUN = "run"
    MODEL = "model"
    TOOL = "tool"


class LayerKind(StrEnum):
    """What a layer is for; it is what `lint` knows a layer by."""

    AUTH = "auth"
    AUTHORIZATION = "authorization"
    VALIDATION = "validation"
    RATE_LIMIT = "rate_limit"
    BULKHEAD = "bulkhead"
    BUDGET = "budget"
    GUARD = "guard"
    REDACTION = "redaction"
    CACHE = "cache"
    RETRY = "retry"
    FALLBACK = "fallback"
    TIMEOUT = "timeout"
    AUDIT = "audit"
    LOGGING = "logging"
    TRACING = "tracing"
    METRICS = "metrics"
    MEMORY = "memory"
    OTHER = "other"


class Finding(Value, frozen=True, kw_only=True):
    """One unsafe thing in a pipeline: a stable `code`, what it is, why it matters, what to change."""

    code: str
    severity: Literal["error", "warning"]
    stage: Stage
    layers: tuple[str, ...]
    reason: str
    fix: str

    def __str__(self) -> str:
        return (
            f"{self.code} {self.severity} ({self.stage} stage, {', '.join(self.layers)}): {self.reason} Fix: {self.fix}"
        )


class Rule(Value, frozen=True, kw_only=True):
    """`outer` kinds must not stand outside `inner` kinds within one stage."""

    code: str
    severity: Literal["error", "warning"]
    outer: frozenset[LayerKind]
    inner: frozenset[LayerKind]
    reason: str
    fix: str


K = LayerKind
ADMIT = frozenset({K.AUTH, K.AUTHORIZATION})
REFUSE = frozenset({K.AUTH, K.AUTHORIZATION, K.VALIDATION, K.RATE_LIMIT, K.BULKHEAD, K.BUDGET, K.GUARD})

RULES = (
    Rule(
        code="AR001",
        severity="error",
        outer=frozenset({K.CACHE}),
        inner=ADMIT,
        reason="A cached answer is served before anybody checked who asks.",
        fix="Put the cache inside every auth and authorization layer.",
    ),
    Rule(
        code="AR002",
        severity="error",
        outer=frozenset({K.AUTHORIZATION}),
        inner=frozenset({K.AUTH}),
        reason="Rights are checked before it is known whose they are.",
        fix="Put authorization inside auth.",
    ),
    Rule(
        code="AR003",
        severity="error",
        outer=frozenset({K.CACHE}),
        inner=frozenset({K.REDACTION, K.GUARD}),
        reason="A cache hit skips this layer, and its key holds what the layer would have removed.",
        fix="Put the cache inside redaction and guards.",
    ),
    Rule(
        code="AR004",
        severity="error",
        outer=REFUSE,
        inner=frozenset({K.AUDIT}),
        reason="What the outer layer refuses never reaches the audit trail.",
        fix="Put audit outside every layer that may refuse.",
    ),
    Rule(
        code="AR005",
        severity="warning",
        outer=frozenset({K.RATE_LIMIT, K.BUDGET, K.BULKHEAD}),
        inner=frozenset({K.AUTH}),
        reason="The limit is charged to whoever the caller claims to be.",
        fix="Put auth outside the limit, or limit by network address before auth.",
    ),
    Rule(
        code="AR006",
        severity="warning",
        outer=frozenset({K.RETRY}),
        inner=REFUSE,
        reason="Every attempt passes this check again: one run is charged or refused several times.",
        fix="Put retry inside the layers that admit a run.",
    ),
    Rule(
        code="AR007",
        severity="error",
        outer=frozenset({K.RETRY}),
        inner=frozenset({K.RETRY}),
        reason="Two retries multiply: three tries of three tries are nine calls.",
        fix="Keep one retry.",
    ),
    Rule(
        code="AR008",
        severity="warning",
        outer=REFUSE,
        inner=frozenset({K.LOGGING, K.TRACING, K.METRICS}),
        reason="What the outer layer refuses is not observed.",
        fix="Put logging, tracing and metrics outside the layers that may refuse.",
    ),
    Rule(
        code="AR009",
        severity="warning",
        outer=frozenset({K.CACHE}),
        inner=frozenset({K.RATE_LIMIT}),
        reason="Cache hits are not counted by the limit.",
        fix="Put the rate limit outside the cache, unless hits shall be free.",
    ),
)


class Placed(Value, frozen=True, kw_only=True):
    """A layer at its place in a stage: what the rules look at, and `explain` shows.

    Attributes:
        origin: The module and name of its class or function.
        inside: The pipelines and conditions that it is nested in, the outermost first.
        declared: Where a pipeline file declares it, `file:line`; empty where code does.
    """

    name: str
    kind: str
    origin: str = ""
    inside: tuple[str, ...] = ()
    declared: str = ""


def check(stage: Stage, layers: Sequence[Placed]) -> Iterator[Finding]:
    """Findings for one stage; `layers` in order, the outermost first."""
    for place, outer in enumerate(layers):
        for inner in layers[place + 1 :]:
            for rule in RULES:
                if outer.kind in rule.outer and inner.kind in rule.inner:
                    yield Finding(
                        code=rule.code,
                        severity=rule.severity,
                        stage=stage,
                        layers=(outer.name, inner.name),
                        reason=rule.reason,
                        fix=rule.fix,
                    )


def unreached(stage: Stage, layer: str) -> Finding:
    """The finding for a layer that works only at a stage which the agent never reaches."""
    return Finding(
        code="AR010",
        severity="error",
        stage=stage,
        layers=(layer,),
        reason="The agent reaches no stage at which this layer works, so it would never run.",
        fix="Use context.call_model and context.call_tool in the agent and declare them with `@reaches`, or remove the layer.",
    )
