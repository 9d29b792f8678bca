"""Who asks: API keys that are stored as hashes, and JSON Web Tokens."""

import asyncio
import time
from base64 import urlsafe_b64encode
from secrets import token_bytes

import jwt

from agent_runtime import AgentContext, AgentExecutor, AgentResult, Principal, Secret
from agent_runtime_middleware.auth import ApiKeys, AuthMiddleware
from agent_runtime_middleware.jwt import JWT

ISSUER, AUDIENCE = "https://login.example", "support-agent"
SIGNING_KEY = token_bytes(32)  # the issuer's; a real one keeps a private key and publishes the public one
KEY_SET = {"keys": [{"kty": "oct", "kid": "k1", "alg": "HS256", "k": urlsafe_b64encode(SIGNING_KEY).decode()}]}


def token(subject: str, *, lifetime: float = 300.0) -> Secret:
    """What the issuer gives to a user who has signed in."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + lifetime, "scope": "ask"}
    return Secret(jwt.encode(claims, SIGNING_KEY, algorithm="HS256", headers={"kid": "k1"}))


async def agent(context: AgentContext) -> str:
    principal = context.run.principal
    assert principal is not None
    return f"{context.user_id} of {context.tenant_id}, scopes {sorted(principal.scopes)}, sees {context.credential}"


async def main() -> None:
    key, record = ApiKeys.generate("ann", tenant="acme", scopes=frozenset({"ask"}))
    records = {record.prefix: record}  # store these; the key itself is shown to its owner once
    tokens = JWT(KEY_SET, issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"])
    executor = AgentExecutor(agent, middleware=[AuthMiddleware(ApiKeys(records), tokens)])

    async def ask(credential: Secret | None, user_id: str = "") -> AgentResult:
        return await executor.execute(AgentContext(credential=credential, user_id=user_id, current_task="Who am I?"))

    print("key:    ", (await ask(key)).output)
    print("token:  ", (await ask(token("bob"))).output)
    print("printed:", key, AgentContext(credential=key, current_task="hi"))

    for name, refused in {
        "none": await ask(None),
        "wrong": await ask(Secret("ar_0123456789abcdef_" + "x" * 43)),
        "expired": await ask(token("bob", lifetime=-60)),
        "another": await ask(key, user_id="bob"),
    }.items():
        print(f"{name + ':':<8}", refused.error_type, "-", refused.error)

    records[record.prefix] = record.revoke()
    print("revoked:", (await ask(key)).error_type)

    # A service that has authenticated already says so, and needs no Auth layer.
    result = await AgentExecutor(agent).execute(
        AgentContext(current_task="Who am I?"), principal=Principal(subject="eve", tenant="acme")
    )
    print("host:   ", result.output)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# key:     ann of acme, scopes ['ask'], sees None
# token:   bob of None, scopes ['ask'], sees None
# printed: *** AgentContext(agent_id='', session_id=None, run_id='')
# none:    authentication - authentication failed: present a credential that holds
# wrong:   authentication - authentication failed: present a credential that holds
# expired: authentication - authentication failed: present a credential that holds
# another: authorization - the context names another user or tenant than the principal; leave them out
# revoked: authentication
# host:    eve of acme, scopes [], sees None
