"""Forged and odd credentials: all are refused, all alike, and nothing of them is written anywhere.

Among them what PyJWT 2.15 lets pass with strict options: times as text, far expiry, an empty or strange `sub`, a member
twice, a traversal in `kid`, `jku`, another `typ`, five megabytes.
"""

import hmac
import json
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.tokens import Issuer, base64url

from agent_runtime import AgentContext, AgentExecutor, AgentResult, Secret, StreamEvent
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.jwt import JWT

ISSUER = Issuer()
RSA = Issuer("rsa", rsa_key=True)
FORGER = Issuer()
PEM = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
NOW = ISSUER.claims()["iat"]


def parts(token: str) -> list[str]:
    return token.split(".")


def unsigned(alg: str, signature: str) -> str:
    header = json.dumps(ISSUER.header(alg=alg))
    return f"{base64url(header)}.{base64url(json.dumps(ISSUER.claims()))}.{signature}"


def with_public_key_as_secret(secret: bytes) -> str:
    content = f"{base64url(json.dumps(RSA.header(alg='HS256')))}.{base64url(json.dumps(RSA.claims()))}"
    signature = hmac.digest(secret, content.encode(), "sha256")
    return f"{content}.{base64url(signature)}"


def claims_text(text: str) -> str:
    """A token with a correct signature and `text` at the end of its claims."""
    return ISSUER.sign(json.dumps(ISSUER.header()), json.dumps(ISSUER.claims())[:-1] + f", {text}}}")


def header_text(text: str) -> str:
    return ISSUER.sign(json.dumps(ISSUER.header())[:-1] + f", {text}}}", json.dumps(ISSUER.claims()))


TOKENS = {
    "signed by somebody else": FORGER.token(),
    "signature of another token": ".".join([*parts(ISSUER.token(sub="mallory"))[:2], parts(ISSUER.token())[2]]),
    "signature cut": ISSUER.token()[:-4],
    "no signature": unsigned("none", ""),
    "alg none, signature kept": unsigned("none", parts(ISSUER.token())[2]),
    "alg None": unsigned("None", "AAAA"),
    "RS key as HS secret, PEM": with_public_key_as_secret(PEM),
    "RS key as HS secret, DER": with_public_key_as_secret(DER),
    "RS key as HS secret, JWK": with_public_key_as_secret(json.dumps(RSA.jwk).encode()),
    "alg of another key": ISSUER.token(header={"alg": "RS256"}),
    "alg missing": ISSUER.token(header={"alg": None}),
    "kid of another key": ISSUER.token(header={"kid": "rsa"}),
    "kid unknown": ISSUER.token(header={"kid": "k9"}),
    "kid missing": ISSUER.token(header={"kid": None}),
    "kid a path": ISSUER.token(header={"kid": "../../dev/null"}),
    "kid a list": ISSUER.token(header={"kid": ["k1"]}),
    "jku": ISSUER.token(header={"jku": "https://evil.example/keys"}),
    "x5u": ISSUER.token(header={"x5u": "https://evil.example/cert"}),
    "jwk": FORGER.token(header={"jwk": FORGER.jwk}),
    "crit": ISSUER.token(header={"crit": ["b64"], "b64": True}),
    "typ of an id token": ISSUER.token(header={"typ": "id_token"}),
    "typ missing": ISSUER.token(header={"typ": None}),
    "alg twice": header_text('"alg": "ES256"'),
    "expired": ISSUER.token(iat=NOW - 600, exp=NOW - 60),
    "not valid yet": ISSUER.token(nbf=NOW + 3_000),
    "issued in the future": ISSUER.token(iat=NOW + 3_000, exp=NOW + 3_600),
    "without exp": ISSUER.token(exp=None),
    "without iat": ISSUER.token(iat=None),
    "without iss": ISSUER.token(iss=None),
    "without aud": ISSUER.token(aud=None),
    "without sub": ISSUER.token(sub=None),
    "exp as text": ISSUER.token(exp=str(NOW + 300)),
    "exp a boolean": ISSUER.token(exp=True),
    "exp a list": ISSUER.token(exp=[NOW + 300]),
    "exp infinite": ISSUER.token(exp=float("inf")),
    "nbf 1e400": claims_text('"nbf": 1e400'),
    "exp of 4,000 digits": ISSUER.token(exp=10**4000),
    "exp of 400 digits, iat a fraction": ISSUER.token(exp=10**400, iat=NOW + 0.5),
    "a claim that is NaN": claims_text('"level": NaN'),
    "exp in the year 9999": ISSUER.token(exp=253_402_300_000),
    "exp after 25 hours": ISSUER.token(exp=NOW + 90_000),
    "nbf as text": ISSUER.token(nbf="0"),
    "another issuer": ISSUER.token(iss="https://evil.example"),
    "issuer a list": ISSUER.token(iss=["https://issuer.example"]),
    "another audience": ISSUER.token(aud="other"),
    "sub empty": ISSUER.token(sub=""),
    "sub a number": ISSUER.token(sub=7),
    "sub with a newline": ISSUER.token(sub="alice\nadmin"),
    "sub with a bidi mark": ISSUER.token(sub="alice\u202enimda"),
    "sub of 256 characters": ISSUER.token(sub="a" * 256),
    "sub twice": claims_text('"sub": "admin"'),
    "scope an object": ISSUER.token(scope={"admin": True}),
    "scp of numbers": ISSUER.token(scp=[1]),
    "claims a list": ISSUER.sign(json.dumps(ISSUER.header()), "[]"),
    "claims not JSON": ISSUER.sign(json.dumps(ISSUER.header()), "{"),
    "claims not text": ISSUER.sign(
        json.dumps(ISSUER.header()), "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")
    ),
    "header deep": ".".join([base64url("[" * 4_000), *parts(ISSUER.token())[1:]]),
    "claims deep": ISSUER.sign(json.dumps(ISSUER.header()), "[" * 4_000),
    "five megabytes": ISSUER.token(padding="x" * 5_000_000),
    "just over the limit": ISSUER.token(padding="x" * 6_200),
    "padded": "=.".join(parts(ISSUER.token())),
    "a space in it": ISSUER.token().replace(".", " .", 1),
    "a newline after it": ISSUER.token() + "\n",
    "Bearer before it": "Bearer " + ISSUER.token(),
    "five parts": ISSUER.token() + ".AAAA.AAAA",
    "not ASCII": ISSUER.token()[:-1] + "é",
    "lone surrogate": ISSUER.token()[:-1] + "\ud800",
    "two dots": "..",
}

KEY, RECORD = ApiKeys.generate("alice")
OTHER_KEY, OTHER = ApiKeys.generate("bob")
OLD_KEY, OLD = ApiKeys.generate("carol", expires_at=datetime.now(UTC) - timedelta(seconds=1))
DEAD_KEY, DEAD = ApiKeys.generate("dave")
RECORDS = {record.prefix: record for record in (RECORD, OTHER, OLD, DEAD.revoke())}

API_KEYS = {
    "right prefix, wrong secret": f"ar_{RECORD.prefix}_{'A' * 43}",
    "unknown prefix": f"ar_{'0' * 16}_{'A' * 43}",
    "secret of another key": f"ar_{RECORD.prefix}_{OTHER_KEY.reveal()[-43:]}",
    "the stored hash as the secret": f"ar_{RECORD.prefix}_{RECORD.hash[:43]}",
    "the stored hash": RECORD.hash,
    "one character short": KEY.reveal()[:-1],
    "one character more": KEY.reveal() + "A",
    "a newline after it": KEY.reveal() + "\n",
    "upper case": KEY.reveal().upper(),
    "prefix only": f"ar_{RECORD.prefix}_",
    "not ASCII": KEY.reveal()[:-1] + "é",
    "lone surrogate": KEY.reveal()[:-1] + "\ud800",
    "five megabytes": KEY.reveal() + "A" * 5_000_000,
    "glob": f"ar_{'*' * 16}_{'A' * 43}",
    "two dots in it": KEY.reveal()[:-2] + "..",
    "expired": OLD_KEY.reveal(),
    "revoked": DEAD_KEY.reveal(),
    "empty": "",
}

ATTACKS = {f"token: {name}": token for name, token in TOKENS.items()} | {
    f"key: {name}": key for name, key in API_KEYS.items()
}


async def agent(context: AgentContext) -> str:
    return f"welcome {context.user_id}"


def executor() -> AgentExecutor:
    tokens = JWT({"keys": [ISSUER.jwk, RSA.jwk]}, issuer="https://issuer.example", audience="runtime")
    return AgentExecutor(agent, middleware=[AuthMiddleware(ApiKeys(RECORDS), tokens)])


async def enter(credential: Secret | None) -> AgentResult:
    context = AgentContext(agent_id="agent", current_task="hi", credential=credential)
    return await executor().execute(context)


def shown(result: AgentResult) -> object:
    """What the caller sees, without what differs in every run."""
    return result.replace(run_id="", execution_time_ms=0.0).to_record()


@pytest.mark.parametrize("name", ATTACKS)
async def test_every_forged_credential_is_refused_with_the_same_body(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    credential = ATTACKS[name]
    refused, missing = await enter(Secret(credential)), await enter(None)
    assert not refused.success and not refused.output
    assert shown(refused) == shown(missing)
    assert refused.exception is not None
    told = "".join(traceback.format_exception(refused.exception)) + caplog.text
    assert all(piece not in told for piece in credential.split(".") if len(piece) > 3)


@pytest.mark.parametrize(
    "credential",
    [ISSUER.token(), RSA.token(), KEY.reveal(), OTHER_KEY.reveal()],
    ids=["HS256", "RS256", "key", "other key"],
)
async def test_every_sound_credential_passes(credential: str) -> None:
    assert (await enter(Secret(credential))).success


@pytest.mark.parametrize("name", ["token: signed by somebody else", "key: right prefix, wrong secret"])
async def test_a_stream_is_refused_like_a_plain_run(name: str) -> None:
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    context = AgentContext(agent_id="agent", current_task="hi", credential=Secret(ATTACKS[name]))
    refused = await executor().execute(context, emit=emit)
    assert shown(refused) == shown(await enter(None))
    assert not any("welcome" in repr(event) for event in events)
