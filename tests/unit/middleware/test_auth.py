"""AuthMiddleware and ApiKeys: who gets in, as whom. Attacks: tests/security."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from agent_runtime import (
    AgentContext,
    AgentExecutor,
    AgentResult,
    AuthenticationFailed,
    CallNext,
    ConfigurationError,
    ErrorType,
    PermissionDenied,
    Principal,
    Secret,
    StoreUnavailable,
)
from agent_runtime_middleware.auth import ApiKeyRecord, ApiKeys, AuthMiddleware

KEY, RECORD = ApiKeys.generate("alice", tenant="acme", scopes=frozenset({"read"}))
OTHER_KEY, OTHER = ApiKeys.generate("bob")
KEYS = ApiKeys({RECORD.prefix: RECORD, OTHER.prefix: OTHER})
ANONYMOUS = AgentContext(agent_id="a", current_task="hi")


class Gate:
    """An agent behind an AuthMiddleware, which remembers what reached it."""

    def __init__(self, layer: AuthMiddleware | None = None) -> None:
        self.seen: list[AgentContext] = []
        self.executor = AgentExecutor(self.agent, agent_id="a", middleware=[layer or AuthMiddleware(KEYS)])

    async def agent(self, context: AgentContext) -> str:
        self.seen.append(context)
        return "welcome"

    async def enter(self, context: AgentContext, principal: Principal | None = None) -> AgentResult:
        return await self.executor.execute(context, principal=principal)


async def test_who_presents_a_key_that_holds_is_the_user_inside() -> None:
    gate = Gate()
    result = await gate.enter(ANONYMOUS.replace(credential=KEY))
    assert result.success
    [inside] = gate.seen
    assert (inside.user_id, inside.tenant_id, inside.credential) == ("alice", "acme", None)
    assert inside.run.principal == Principal(subject="alice", tenant="acme", scopes=frozenset({"read"}))


async def test_layers_inside_never_see_the_credential() -> None:
    seen: list[Secret | None] = []

    async def inside(context: AgentContext, call_next: CallNext) -> AgentResult:
        seen.append(context.credential)
        return await call_next(context)

    executor = AgentExecutor(Gate().agent, agent_id="a", middleware=[AuthMiddleware(KEYS), inside])
    await executor.execute(ANONYMOUS.replace(credential=KEY))
    assert seen == [None]


@pytest.mark.parametrize(
    "claim", [ANONYMOUS.replace(user_id="alice"), ANONYMOUS.replace(user_id="alice", tenant_id="acme")]
)
async def test_a_context_may_name_its_own_user(claim: AgentContext) -> None:
    gate = Gate()
    await gate.enter(claim.replace(credential=KEY))
    assert (gate.seen[0].user_id, gate.seen[0].tenant_id) == ("alice", "acme")


@pytest.mark.parametrize(
    "claim",
    [
        ANONYMOUS.replace(user_id="bob"),
        ANONYMOUS.replace(user_id="alice", tenant_id="other"),
        ANONYMOUS.replace(user_id="ALICE"),
    ],
)
async def test_a_context_that_names_somebody_else_is_refused(claim: AgentContext) -> None:
    gate = Gate()
    result = await gate.enter(claim.replace(credential=KEY))
    assert isinstance(result.exception, PermissionDenied) and gate.seen == []


async def test_a_user_without_a_tenant_cannot_name_one() -> None:
    gate = Gate()
    result = await gate.enter(ANONYMOUS.replace(credential=OTHER_KEY, user_id="bob", tenant_id="acme"))
    assert isinstance(result.exception, PermissionDenied) and gate.seen == []


async def test_without_a_credential_nobody_gets_in() -> None:
    gate = Gate()
    result = await gate.enter(ANONYMOUS.replace(user_id="alice"))
    assert isinstance(result.exception, AuthenticationFailed) and gate.seen == []


ALICE = Principal(subject="alice", tenant="acme")


async def test_a_principal_from_the_host_needs_no_credential() -> None:
    gate = Gate()
    await gate.enter(ANONYMOUS, ALICE)
    assert gate.seen[0].run.principal is ALICE and gate.seen[0].user_id == "alice"


async def test_a_principal_and_a_credential_of_the_same_owner_agree() -> None:
    gate = Gate()
    assert (await gate.enter(ANONYMOUS.replace(credential=KEY), ALICE)).success
    assert gate.seen[0].run.principal is ALICE and gate.seen[0].credential is None


@pytest.mark.parametrize(
    ("credential", "error"),
    [(OTHER_KEY, PermissionDenied), (Secret(KEY.reveal() + "x"), AuthenticationFailed)],
)
async def test_a_principal_does_not_rescue_a_credential_that_is_wrong_or_somebody_elses(
    credential: Secret, error: type[Exception]
) -> None:
    gate = Gate()
    result = await gate.enter(ANONYMOUS.replace(credential=credential), ALICE)
    assert isinstance(result.exception, error) and gate.seen == []


class Recorder:
    """An authenticator for everything, which lets everybody in as itself."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self.name = name
        self.prefix = prefix
        self.asked = 0

    def recognizes(self, credential: Secret) -> bool:
        return credential.reveal().startswith(self.prefix)

    async def authenticate(self, credential: Secret) -> Principal:
        self.asked += 1
        return Principal(subject=self.name)


async def test_what_one_authenticator_refuses_no_other_is_asked_about() -> None:
    generous = Recorder("anybody")
    gate = Gate(AuthMiddleware(KEYS, generous))
    result = await gate.enter(ANONYMOUS.replace(credential=Secret(KEY.reveal()[:-1] + "!")))
    assert isinstance(result.exception, AuthenticationFailed) and generous.asked == 0
    await gate.enter(ANONYMOUS.replace(credential=Secret("something else")))
    assert gate.seen[0].user_id == "anybody"


async def test_a_credential_of_no_known_shape_is_refused() -> None:
    gate = Gate(AuthMiddleware(Recorder("x", prefix="x-")))
    result = await gate.enter(ANONYMOUS.replace(credential=KEY))
    assert isinstance(result.exception, AuthenticationFailed) and gate.seen == []


async def test_the_reason_is_for_logs_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    result = await Gate().enter(ANONYMOUS.replace(credential=Secret("ar_wrong")))
    assert result.error == "authentication failed: present a credential that holds"
    assert result.error_type is ErrorType.AUTHENTICATION and result.error_details == {}
    assert result.exception is not None and str(result.exception.__cause__) == "malformed API key"
    assert [record.getMessage() for record in caplog.records] == ["credential refused: malformed API key"]


async def test_a_store_that_is_away_lets_nobody_in_and_calls_nobody_wrong() -> None:
    async def find(prefix: str) -> ApiKeyRecord | None:
        raise StoreUnavailable("the key store does not answer")

    gate = Gate(AuthMiddleware(ApiKeys(find)))
    result = await gate.enter(ANONYMOUS.replace(credential=KEY))
    assert isinstance(result.exception, StoreUnavailable) and result.retryable and gate.seen == []


async def test_the_layer_may_run_again_in_the_same_run() -> None:
    async def again(context: AgentContext, call_next: CallNext) -> AgentResult:
        await call_next(context)
        return await call_next(context)

    gate = Gate()
    executor = AgentExecutor(gate.agent, agent_id="a", middleware=[again, AuthMiddleware(KEYS)])
    assert (await executor.execute(ANONYMOUS.replace(credential=KEY))).success
    assert len(gate.seen) == 2


def test_a_layer_that_can_let_nobody_in_fails_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError):
        AuthMiddleware()


async def test_records_may_come_from_a_function() -> None:
    async def find(prefix: str) -> ApiKeyRecord | None:
        return RECORD if prefix == RECORD.prefix else None

    assert (await ApiKeys(find).authenticate(KEY)).subject == "alice"


async def test_a_revoked_key_stays_refused_and_the_record_says_so() -> None:
    records = {RECORD.prefix: RECORD}
    keys = ApiKeys(records)
    await keys.authenticate(KEY)
    records[RECORD.prefix] = RECORD.revoke()
    with pytest.raises(AuthenticationFailed, match="revoked"):
        await keys.authenticate(KEY)
    assert not RECORD.revoked


@pytest.mark.parametrize(("hours", "holds"), [(1, True), (0, False), (-1, False)])
async def test_a_key_holds_until_it_expires(hours: int, holds: bool) -> None:
    key, record = ApiKeys.generate("alice", expires_at=datetime.now(UTC) + timedelta(hours=hours))
    keys = ApiKeys({record.prefix: record})
    if holds:
        assert await keys.authenticate(key) == Principal(subject="alice")
    else:
        with pytest.raises(AuthenticationFailed, match="expired"):
            await keys.authenticate(key)


def test_each_key_is_new_and_only_its_hash_is_kept() -> None:
    made = [ApiKeys.generate("alice") for _ in range(50)]
    assert len({key.reveal() for key, _ in made}) == len({record.prefix for _, record in made}) == 50
    for key, record in made:
        secret = key.reveal().removeprefix(f"ar_{record.prefix}_")
        assert len(secret) == 43  # 256 bits
        stored = msgspec.json.encode(record)
        assert secret.encode() not in stored
        assert msgspec.json.decode(stored, type=ApiKeyRecord) == record


@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": "0" * 15},
        {"prefix": "G" * 16},
        {"hash": "0" * 63},
        {"subject": ""},
        {"subject": "a" * 256},
        {"subject": "a\nb"},
        {"tenant": ""},
        {"expires_at": datetime(2030, 1, 1)},
    ],
)
def test_a_malformed_record_fails_when_it_is_made(fields: Mapping[str, object]) -> None:
    sound: dict[str, object] = {"prefix": "0" * 16, "hash": "0" * 64, "subject": "alice"}
    with pytest.raises(ConfigurationError):
        ApiKeyRecord(**(sound | dict(fields)))  # type: ignore[arg-type]  # the fault under test
