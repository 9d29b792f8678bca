"""Scenarios 11, 16, 25 and 63 to 65: who gets in, and what those see who do not."""

import hmac
from collections import Counter

import msgspec
import pytest
from tests.tokens import AUDIENCE, ISSUER, Issuer

from agent_runtime import (
    AgentConfig,
    AgentContext,
    AgentExecutor,
    AgentResult,
    AgentRuntimeError,
    AuthenticationFailed,
    CallNext,
    ErrorType,
    Layer,
    LimitExceeded,
    PermissionDenied,
    RateLimited,
    Secret,
    StreamEvent,
)
from agent_runtime.testing import ScriptedLLMClient, ScriptedReply
from agent_runtime_middleware.auth import ApiKeys, Authenticator, AuthMiddleware
from agent_runtime_middleware.jwt import JWT
from agent_runtime_middleware.logging import LoggingMiddleware, LogRecord

ISSUING = Issuer()
FORGER = Issuer()
KEY, RECORD = ApiKeys.generate("alice")


def auth() -> AuthMiddleware:
    """API keys and tokens, as a service would set them up."""
    tokens = JWT(ISSUING.key_set, issuer=ISSUER, audience=AUDIENCE)
    return AuthMiddleware(ApiKeys({RECORD.prefix: RECORD}), tokens)


class Audit:
    """Writes down every decision, refusals too."""

    def __init__(self) -> None:
        self.decisions: list[str] = []

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            result = await call_next(context)
        except AgentRuntimeError as error:
            self.decisions.append(f"denied: {error.error_type}")
            raise
        self.decisions.append("admitted")
        return result


class Metrics:
    """Counts runs by outcome."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        try:
            result = await call_next(context)
        except AgentRuntimeError as error:
            self.runs[error.error_type] += 1
            raise
        self.runs["success"] += 1
        return result


class OneRunEach:
    """A rate limit of one run per user."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()

    async def process(self, context: AgentContext, call_next: CallNext) -> AgentResult:
        self.runs[context.owner.user_id] += 1
        if self.runs[context.owner.user_id] > 1:
            raise RateLimited("one run per user")
        return await call_next(context)


def service(client: ScriptedLLMClient, *middleware: Layer, retry_attempts: int = 3) -> AgentExecutor:
    config = AgentConfig(name="support", retry_attempts=retry_attempts, retry_delay=0)
    return AgentExecutor(config=config, llm_client=client, middleware=middleware)


def ask(credential: Secret | None = None, **claims: str) -> AgentContext:
    asked = AgentContext(agent_id="support", current_task="hi", credential=credential)
    return asked.replace(user_id=claims.get("user_id", ""), tenant_id=claims.get("tenant_id"))


async def test_s11_an_unauthenticated_request_with_retries_enabled_runs_the_pipeline_exactly_once() -> None:
    audit, client = Audit(), ScriptedLLMClient(["never"])
    result = await service(client, audit, auth(), retry_attempts=5).execute(ask())
    assert (result.success, result.error_type, result.retryable) == (False, ErrorType.AUTHENTICATION, False)
    assert audit.decisions == ["denied: authentication"]
    assert (client.calls, result.attempts) == (0, 1)


async def test_s16_an_unknown_user_gets_no_chunk_of_a_stream_and_the_denial_is_audited() -> None:
    audit, limit = Audit(), OneRunEach()
    client = ScriptedLLMClient([ScriptedReply(chunks=("some ", "text"))], repeat=True)
    async with service(client, audit, auth(), limit) as executor:
        chunks: list[str] = []
        with pytest.raises(AuthenticationFailed):
            async for chunk in executor.execute_stream(ask(user_id="alice")):
                chunks.append(chunk)  # noqa: PERF401 - what came before the error counts
        events: list[StreamEvent] = []
        with pytest.raises(AuthenticationFailed):
            async with executor.stream(ask(Secret("ar_wrong"))) as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401 - likewise
        assert chunks == [] and [type(event).__name__ for event in events] == ["RunFailed"]
        assert client.calls == 0 and not limit.runs
        assert audit.decisions == ["denied: authentication"] * 2
        known = [chunk async for chunk in executor.execute_stream(ask(KEY))]
        assert known == ["some ", "text"] and limit.runs == {"alice": 1}
        with pytest.raises(RateLimited):
            async for _ in executor.execute_stream(ask(KEY)):
                raise AssertionError("a chunk for a user over the limit")
        assert client.calls == 1 and audit.decisions[2:] == ["admitted", "denied: rate_limit"]


@pytest.mark.parametrize(
    ("refusal", "error_type"),
    [(PermissionDenied("not for you"), ErrorType.AUTHORIZATION), (LimitExceeded("too many"), ErrorType.LIMIT)],
)
async def test_s25_a_refusal_is_a_failed_result_of_its_type_and_those_outside_record_it(
    refusal: AgentRuntimeError, error_type: ErrorType
) -> None:
    async def refuse(context: AgentContext, call_next: CallNext) -> AgentResult:
        raise refusal

    records: list[LogRecord] = []
    audit, metrics, client = Audit(), Metrics(), ScriptedLLMClient(["never"])
    executor = service(client, LoggingMiddleware(records.append), audit, metrics, refuse)
    result = await executor.execute(ask(user_id="alice"))
    assert (result.success, result.error_type, result.exception) == (False, error_type, refusal)
    assert client.calls == 0
    assert audit.decisions == [f"denied: {error_type}"] and metrics.runs == {error_type: 1}
    assert [(record.outcome, record.error_type, record.error) for record in records] == [
        ("failure", error_type, str(refusal))
    ]


NOW = ISSUING.claims()["iat"]
CREDENTIALS = {
    "valid": ISSUING.token(),
    "expired": ISSUING.token(iat=NOW - 900, exp=NOW - 600),
    "wrong signature": FORGER.token(),
    "alg none": ISSUING.token(header={"alg": "none"}).rpartition(".")[0] + ".",
    "wrong type": ISSUING.token(header={"typ": "id_token"}),
    "missing": None,
}


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_s63_only_the_valid_token_passes(name: str) -> None:
    token = CREDENTIALS[name]
    client = ScriptedLLMClient(["welcome"])
    result = await service(client, auth()).execute(ask(Secret(token) if token else None))
    assert result.success is (name == "valid")
    assert client.calls == (1 if name == "valid" else 0)
    assert name == "valid" or result.error_type is ErrorType.AUTHENTICATION


async def test_s63_the_principal_comes_from_the_token_even_when_the_context_claims_another_user() -> None:
    seen: list[AgentContext] = []

    async def agent(context: AgentContext) -> str:
        seen.append(context)
        return "welcome"

    executor = AgentExecutor(agent, agent_id="support", middleware=[auth()])
    token = Secret(ISSUING.token(sub="bob"))
    claimed = await executor.execute(ask(token, user_id="alice"))
    assert isinstance(claimed.exception, PermissionDenied) and seen == []
    claim = ask(token).replace(metadata={"user_id": "alice", "auth": {"user": "alice"}})
    assert (await executor.execute(claim)).success
    principal = seen[0].run.principal
    assert principal is not None and (principal.subject, seen[0].user_id) == ("bob", "bob")


async def test_s63_a_bad_token_is_not_rescued_by_another_method() -> None:
    for order in (1, -1):
        tokens = JWT(ISSUING.key_set, issuer=ISSUER, audience=AUDIENCE)
        methods: list[Authenticator] = [ApiKeys({RECORD.prefix: RECORD}), tokens]
        for bad in (FORGER.token(), KEY.reveal()[:-1] + "B", KEY.reveal()[:-2] + ".."):
            client = ScriptedLLMClient(["never"])
            result = await service(client, AuthMiddleware(*methods[::order])).execute(ask(Secret(bad)))
            assert result.error_type is ErrorType.AUTHENTICATION and client.calls == 0


async def test_s64_a_payload_that_nobody_verified_buys_nothing_and_no_token_is_ever_made() -> None:
    header, payload, _ = ISSUING.token(iat=NOW - 900, exp=NOW - 600).split(".")
    unverified = [f"{header}.{payload}.", f"{header}.{payload}.AAAA", FORGER.token(sub="alice"), payload]
    executor = service(ScriptedLLMClient(["never"]), auth())
    for token in unverified:
        result = await executor.execute(ask(Secret(token)).replace(metadata={"grant_type": "refresh_token"}))
        assert result.error_type is ErrorType.AUTHENTICATION
    for verifier in (JWT, AuthMiddleware):
        public = {name for name in vars(verifier) if not name.startswith("_")}
        assert public <= {"recognizes", "authenticate", "process", "kind"}


async def test_s65_an_api_key_works_until_it_is_revoked_and_only_a_hash_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[object, ...]] = []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((type(a), len(a), type(b), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    key, record = ApiKeys.generate("alice", tenant="acme")
    store = {record.prefix: msgspec.json.encode(record)}
    assert key.reveal().rpartition("_")[2].encode() not in store[record.prefix]

    async def find(prefix: str) -> None:
        return None

    records = {prefix: msgspec.json.decode(row, type=type(record)) for prefix, row in store.items()}
    executor = service(ScriptedLLMClient(["welcome"], repeat=True), AuthMiddleware(ApiKeys(records)))
    assert (await executor.execute(ask(key))).success
    records[record.prefix] = records[record.prefix].revoke()
    revoked = await executor.execute(ask(key))
    unknown = await service(ScriptedLLMClient(["never"]), AuthMiddleware(ApiKeys(find))).execute(ask(key))
    assert revoked.error_type is unknown.error_type is ErrorType.AUTHENTICATION
    assert revoked.error == unknown.error
    assert compared == [(bytes, 64, bytes, 64)] * 3  # an unknown prefix costs the same
