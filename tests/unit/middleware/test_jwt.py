"""JWT: what a token that holds becomes, and where the keys come from. What is refused: tests/security."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import anyio
import pytest
from anyio.from_thread import run as run_in_loop
from tests.tokens import AUDIENCE, ISSUER, Issuer

from agent_runtime import AuthenticationFailed, ConfigurationError, Principal, Secret, StoreUnavailable
from agent_runtime_middleware.jwt import JWT, FetchKeys

ONE, TWO = Issuer("one"), Issuer("two")
RSA = Issuer("rsa", rsa_key=True)
SHARED = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "shared", "alg": "HS256"}


def verifier(keys: Mapping[str, Any] | FetchKeys, **options: Any) -> JWT:
    return JWT(keys, issuer=ISSUER, audience=AUDIENCE, **options)


async def check(verifier: JWT, token: str) -> Principal:
    return await verifier.authenticate(Secret(token))


async def test_a_token_that_holds_is_a_principal() -> None:
    principal = await check(verifier(ONE.key_set), ONE.token(scope="read write", team="blue"))
    assert (principal.subject, principal.tenant, principal.scopes) == ("alice", None, frozenset({"read", "write"}))
    assert principal.claims["team"] == "blue"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, set[str]()),
        ({"scope": "a b  a"}, {"a", "b"}),
        ({"scp": "a b"}, {"a", "b"}),
        ({"scp": ["a", "b"]}, {"a", "b"}),
        ({"scope": "a", "scp": ["b"]}, {"a"}),
    ],
)
async def test_scopes_come_from_scope_or_scp(claims: dict[str, Any], scopes: set[str]) -> None:
    assert (await check(verifier(ONE.key_set), ONE.token(**claims))).scopes == scopes


async def test_the_tenant_comes_from_the_claim_that_is_named() -> None:
    tenants = verifier(ONE.key_set, tenant_claim="org")
    assert (await check(tenants, ONE.token(org="acme", tenant="other"))).tenant == "acme"
    with pytest.raises(AuthenticationFailed):
        await check(tenants, ONE.token(tenant="acme"))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt"])
async def test_the_types_of_access_tokens_are_accepted(typ: str) -> None:
    await check(verifier(ONE.key_set), ONE.token(header={"typ": typ}))
    with pytest.raises(AuthenticationFailed):
        await check(verifier(ONE.key_set, types=["logout+jwt"]), ONE.token(header={"typ": typ}))


async def test_clocks_may_differ_by_the_leeway() -> None:
    now = ONE.claims()["iat"]
    await check(verifier(ONE.key_set), ONE.token(exp=now - 20, iat=now - 300))
    await check(verifier(ONE.key_set), ONE.token(iat=now + 20, nbf=now + 20))
    with pytest.raises(AuthenticationFailed):
        await check(verifier(ONE.key_set, leeway=0), ONE.token(exp=now - 20, iat=now - 300))


async def test_times_may_have_fractions() -> None:
    now = ONE.claims()["iat"]
    assert (await check(verifier(ONE.key_set), ONE.token(exp=now + 300.5))).claims["exp"] == now + 300.5


async def test_an_audience_among_several_is_enough() -> None:
    await check(verifier(ONE.key_set), ONE.token(aud=["other", AUDIENCE]))


async def test_each_key_of_the_set_is_found_by_its_name() -> None:
    rotating = verifier({"keys": [ONE.jwk, TWO.jwk, RSA.jwk]})
    for issuer in (ONE, TWO, RSA):
        await check(rotating, issuer.token())


async def test_a_symmetric_key_needs_symmetric_algorithms() -> None:
    with pytest.raises(ConfigurationError, match="HS256"):
        verifier({"keys": [SHARED]}, algorithms=["HS256", "RS256"])
    with pytest.raises(ConfigurationError, match="no key"):
        verifier({"keys": [SHARED]})
    verifier({"keys": [SHARED, ONE.jwk]}, algorithms=["HS256"])


@pytest.mark.parametrize(
    "key",
    [
        ONE.jwk | {"kid": ""},
        ONE.jwk | {"use": "enc"},
        ONE.jwk | {"alg": "ES384"},
        ONE.jwk | {"kty": "nonsense"},
        ONE.jwk | {"x": 3},
        "not an object",
        {"kty": "oct", "k": "c2hvcnQ", "kid": "short", "alg": "HS256"},
    ],
)
async def test_a_key_that_cannot_be_used_is_left_out(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="no key"):
        verifier({"keys": [key]}, algorithms=["HS256"] if "k" in key and key != "not an object" else ["ES256"])
    await check(verifier({"keys": [key, TWO.jwk]}), TWO.token())


@pytest.mark.parametrize(
    ("key_set", "reason"),
    [
        ({}, "list"),
        ({"keys": {}}, "list"),
        ({"keys": []}, "no key"),
        ({"keys": [ONE.jwk] * 65}, "at most 64"),
        ({"keys": [ONE.jwk, ONE.jwk]}, "two keys are named 'one'"),
    ],
)
def test_a_key_set_that_is_none_fails_when_the_verifier_is_built(key_set: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        verifier(key_set)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"algorithms": ["RS256", "none"]},
        {"issuer": ""},
        {"audience": ""},
        {"leeway": -1},
        {"max_lifetime": float("inf")},
        {"refresh": float("nan")},
        {"max_age": 299},
        {"min_refresh": 3_601},
    ],
)
def test_an_unsafe_option_fails_when_the_verifier_is_built(options: dict[str, Any]) -> None:
    sound: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE}
    with pytest.raises(ConfigurationError):
        JWT(ONE.key_set, **(sound | options))


class Source:
    """A key server: answers with `key_set`, or fails with `error`; counts."""

    def __init__(self, key_set: Mapping[str, Any]) -> None:
        self.key_set = key_set
        self.error: Exception | None = None
        self.calls = 0
        self.gate: anyio.Event | None = None

    async def fetch(self) -> Mapping[str, Any]:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.key_set


async def test_fetched_keys_are_kept() -> None:
    source = Source(ONE.key_set)
    fetching = verifier(source.fetch)
    for _ in range(3):
        await check(fetching, ONE.token())
    assert source.calls == 1


def plain() -> Mapping[str, Any]:
    assert run_in_loop(anyio.sleep, 0) is None  # only a worker thread can do that
    return ONE.key_set


async def fetched() -> Mapping[str, Any]:
    return ONE.key_set


@pytest.mark.parametrize("fetch", [plain, fetched])
async def test_the_function_may_be_sync_or_async(fetch: FetchKeys) -> None:
    assert (await check(verifier(fetch), ONE.token())).subject == "alice"


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    source = Source(ONE.key_set)
    rotating = verifier(source.fetch, min_refresh=0)
    await check(rotating, ONE.token())
    source.key_set = {"keys": [ONE.jwk, TWO.jwk]}
    await check(rotating, TWO.token())
    await check(rotating, ONE.token())
    assert source.calls == 2


async def test_a_removed_key_is_forgotten_with_the_next_refresh() -> None:
    source = Source({"keys": [ONE.jwk, TWO.jwk]})
    rotating = verifier(source.fetch, refresh=0, min_refresh=0)
    await check(rotating, ONE.token())
    source.key_set = TWO.key_set
    with pytest.raises(AuthenticationFailed):
        await check(rotating, ONE.token())


async def test_unknown_keys_cause_one_fetch_and_no_more_until_the_interval_is_over() -> None:
    source = Source(ONE.key_set)
    rotating = verifier(source.fetch)
    for number in range(20):
        with pytest.raises(AuthenticationFailed):
            await check(rotating, ONE.token(header={"kid": f"unknown {number}"}))
    assert source.calls == 1


async def test_many_who_need_keys_share_one_fetch() -> None:
    source = Source(ONE.key_set)
    source.gate = anyio.Event()
    shared = verifier(source.fetch)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(check, shared, ONE.token())
        await anyio.wait_all_tasks_blocked()
        source.gate.set()
    assert source.calls == 1


async def test_one_who_is_cancelled_while_fetching_hands_over_to_the_next() -> None:
    source = Source(ONE.key_set)
    source.gate = anyio.Event()
    shared = verifier(source.fetch)
    principals: list[Principal] = []

    async def follow() -> None:
        principals.append(await check(shared, ONE.token()))

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as leader:
            async with anyio.create_task_group() as leading:
                leading.start_soon(check, shared, ONE.token())
                await anyio.wait_all_tasks_blocked()
                group.start_soon(follow)
                await anyio.wait_all_tasks_blocked()
                leader.cancel()
        source.gate.set()
    assert source.calls == 2 and len(principals) == 1


async def test_known_keys_serve_while_the_key_server_is_away_and_for_no_longer_than_their_age() -> None:
    source = Source(ONE.key_set)
    patient = verifier(source.fetch, refresh=0, min_refresh=0)
    strict = verifier(source.fetch, refresh=0, min_refresh=0, max_age=0.05)
    await check(patient, ONE.token())
    await check(strict, ONE.token())
    source.error = OSError("no route to host")
    await anyio.sleep(0.1)
    await check(patient, ONE.token())
    with pytest.raises(StoreUnavailable) as caught:
        await check(strict, ONE.token())
    assert caught.value.__cause__ is source.error and "route" not in str(caught.value)


async def hangs() -> Mapping[str, Any]:
    await anyio.sleep_forever()
    return {}


async def nothing() -> Any:
    return None


async def malformed() -> Mapping[str, Any]:
    return {"keys": []}


@pytest.mark.parametrize(("fetch", "cause"), [(hangs, TimeoutError), (nothing, TypeError), (malformed, ValueError)])
async def test_without_keys_nobody_is_let_in_and_nobody_is_called_wrong(
    fetch: FetchKeys, cause: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_runtime_middleware.jwt._FETCH_TIMEOUT", 0.02)
    fetching = verifier(fetch)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await check(fetching, ONE.token())
        assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(
    ("credential", "recognized"),
    [("a.b.c", True), ("a.b.", True), ("a.b", False), ("a.b.c.d.e", False), ("ar_0123_x", False), ("", False)],
)
def test_three_parts_are_the_shape_of_a_token(credential: str, recognized: bool) -> None:
    assert verifier(ONE.key_set).recognizes(Secret(credential)) is recognized


def test_without_the_library_the_import_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.delitem(sys.modules, "agent_runtime_middleware.jwt")
    with pytest.raises(ImportError, match=r"onion-agent-runtime\[jwt\]"):
        importlib.import_module("agent_runtime_middleware.jwt")
