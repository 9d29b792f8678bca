from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import AgentContext, AgentResult, BaseMiddleware, CallNext, LayerKind, MiddlewarePipeline, Stage

K = LayerKind

GOOD = (K.TRACING, K.LOGGING, K.AUDIT, K.AUTH, K.AUTHORIZATION, K.RATE_LIMIT, K.GUARD, K.REDACTION, K.CACHE, K.RETRY)

BAD = [
    ("AR001", "error", K.CACHE, K.AUTH),
    ("AR001", "error", K.CACHE, K.AUTHORIZATION),
    ("AR002", "error", K.AUTHORIZATION, K.AUTH),
    ("AR003", "error", K.CACHE, K.REDACTION),
    ("AR003", "error", K.CACHE, K.GUARD),
    ("AR004", "error", K.GUARD, K.AUDIT),
    ("AR005", "warning", K.RATE_LIMIT, K.AUTH),
    ("AR006", "warning", K.RETRY, K.BUDGET),
    ("AR007", "error", K.RETRY, K.RETRY),
    ("AR008", "warning", K.AUTH, K.METRICS),
    ("AR009", "warning", K.CACHE, K.RATE_LIMIT),
]


def layer(kind: LayerKind, name: str) -> BaseMiddleware:
    class Layer(BaseMiddleware):
        async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
            return await call_next(context)

    Layer.kind = kind
    return Layer().named(name)


def codes(*kinds: LayerKind) -> list[str]:
    pipeline = MiddlewarePipeline(layer(kind, f"{place} {kind}") for place, kind in enumerate(kinds))
    return [finding.code for finding in pipeline.lint()]


@pytest.mark.parametrize(("code", "severity", "outer", "inner"), BAD)
def test_an_unsafe_order_is_found_with_its_reason_and_fix(
    code: str, severity: str, outer: LayerKind, inner: LayerKind
) -> None:
    pipeline = MiddlewarePipeline([layer(outer, "outer"), layer(K.OTHER, "between"), layer(inner, "inner")])
    [finding] = [found for found in pipeline.lint() if found.code == code]
    assert (finding.severity, finding.stage, finding.layers) == (severity, Stage.RUN, ("outer", "inner"))
    assert str(finding) == f"{code} {severity} (run stage, outer, inner): {finding.reason} Fix: {finding.fix}"
    assert finding.reason.endswith(".") and finding.fix.endswith(".")


@given(st.permutations(GOOD))
def test_a_pair_of_layers_is_judged_the_same_wherever_it_stands(kinds: list[LayerKind]) -> None:
    alone = [code for place, outer in enumerate(kinds) for inner in kinds[place + 1 :] for code in codes(outer, inner)]
    assert sorted(codes(*kinds)) == sorted(alone)


def test_the_recommended_order_has_no_findings() -> None:
    assert codes(*GOOD) == []
    assert all(codes(outer, inner) == [] for outer, inner in pairwise(GOOD))


def test_layers_are_judged_where_they_work_only() -> None:
    class ModelCache(BaseMiddleware):
        kind = K.CACHE

        async def process_model(self, request: object, call_next: object) -> object:  # type: ignore[override]  # never called
            return None

    assert [finding.code for finding in MiddlewarePipeline([ModelCache(), layer(K.AUTH, "auth")]).lint()] == []


def test_a_layer_that_the_agent_never_reaches_is_found() -> None:
    class ModelOnly(BaseMiddleware):
        async def process_model(self, request: object, call_next: object) -> object:  # type: ignore[override]  # never called
            return None

    pipeline = MiddlewarePipeline([ModelOnly()])
    assert pipeline.lint() == pipeline.lint([Stage.MODEL]) == []
    [finding] = pipeline.lint([Stage.TOOL])
    assert (finding.code, finding.stage, finding.layers) == ("AR010", Stage.MODEL, ("ModelOnly",))
